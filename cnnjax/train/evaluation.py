"""Judging a network by labelled images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from cnnjax.data import Examples
from cnnjax.errors import UserError
from cnnjax.train.advance import make_advance
from cnnjax.train.averages import averaged_variables
from cnnjax.train.parallel import Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.state import Network, TrainState, means
from cnnjax.train.step import make_eval_step

EVAL_BATCH = 512


class Evaluation(NamedTuple):
    """Mean loss and accuracy, and how many images of class `row` were taken for `column`."""

    loss: float
    accuracy: float
    confusion: np.ndarray


def evaluate(network: Network, state: TrainState, split: Examples, parallel: Parallel, recipe: Recipe) -> Evaluation:
    """Judge a network, as one device has it, by labelled images."""
    return make_evaluator(network, state, split, parallel, recipe)(state)


def make_evaluator(
    network: Network, like: TrainState, split: Examples, parallel: Parallel, recipe: Recipe
) -> Callable[[TrainState], Evaluation]:
    """Return a compiled `judge(state as one device has it) -> Evaluation` over the images of `split`.

    Args:
        network: the structure to judge.
        like: a state of the right shapes.
        split: the images.
        parallel: the devices.
        recipe: the loss and the precision; with a moving average, that is judged.

    Raises:
        UserError: there are no images.
    """
    if not split.size:
        raise UserError("there are no images to judge the network by: give it a split with some")

    def logits_of(images: jax.Array) -> jax.Array:
        model = network.merge(like.params, like.model_state)
        model.eval()
        return model(images)

    logits = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((1, *split.image_shape), np.float32))
    zeros = {name: np.zeros((), np.float32) for name in ("loss", "accuracy", "count")}
    num_classes = max(logits.shape[1], 2)  # a single output tells two apart
    zeros["confusion"] = np.zeros((num_classes, num_classes), np.float32)
    advance = make_advance(make_eval_step(network, num_classes, recipe), split, parallel)
    batch_size = EVAL_BATCH * len(parallel.devices)
    steps = -(-split.size // batch_size)
    indices = np.resize(np.arange(split.size, dtype=np.int32), (steps, batch_size))
    weights = (np.arange(steps * batch_size) < split.size).astype(np.float32).reshape(steps, batch_size)

    def judge(state: TrainState) -> Evaluation:
        variables = averaged_variables(state.opt_state, state.params, state.model_state)
        sums, variables = parallel.replicate((zeros, variables))
        *_, sums = advance(sums, variables, indices, weights)
        sums = parallel.one_copy(sums)
        confusion = np.asarray(sums.pop("confusion")).astype(int)
        return Evaluation(**means(sums), confusion=confusion)

    return judge
