"""Evaluating a network on images with known targets."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError
from cnnjax.tasks import Task
from cnnjax.train.averages import averaged_variables
from cnnjax.train.parallel import Parallel
from cnnjax.train.state import Network, TrainState, Tree, means
from cnnjax.train.step import losses_of, psum, run_over, scale_pixels, sum_of

EVAL_BATCH, EVAL_PIXELS = 512, 2**20  # images a device at most, and their pixels: large images need more memory


class Evaluation(NamedTuple):
    """What a network makes of images.

    Attributes:
        figures: named numbers, "loss" among them.
        sums: the arrays that the task measures, such as "confusion".
        predictions: of all images in their order, where the task gathers them.
        targets: of the same images, without the images themselves.
    """

    figures: dict[str, float]
    sums: dict[str, np.ndarray]
    predictions: Any = None
    targets: Sample | None = None


def evaluate(
    network: Network,
    state: TrainState,
    task: Task,
    examples: Examples,
    *,
    precision: str = "float32",
    parallel: Parallel | None = None,
) -> Evaluation:
    """Evaluate a network, as `Fit` has it.

    Args:
        network: the structure.
        state: its variables; if it holds averages of them, those are evaluated.
        task: what it has learned.
        examples: images with the task's targets.
        precision: of the activations, "float32" or "bfloat16".
        parallel: the devices; default: all of them.

    Raises:
        UserError: there are no images, or they do not have the task's targets.
    """
    return make_evaluator(network, state, task, examples, precision, parallel or Parallel())(state)


def make_evaluator(
    network: Network, like: TrainState, task: Task, examples: Examples, precision: str, parallel: Parallel
) -> Callable[[TrainState], Evaluation]:
    """Return a compiled evaluation of states, as one device has them, like the one given; otherwise as `evaluate`."""
    examples = examples.select(task.targets)
    if not examples.size:
        raise UserError("there are no images to evaluate the network on: give it a split with some")

    check_targets(network, like, task, examples)

    def measured(variables: tuple[Tree, Tree], batch: Sample) -> tuple[dict[str, jax.Array], Tree, Sample]:
        model = network.merge(*variables)
        model.eval()
        batch = replace(batch, images=scale_pixels(batch.images))
        outputs = jax.tree.map(jnp.float32, model(network.normalized(batch.images).astype(precision)))
        return _sums(task, outputs, replace(batch, weights=task.weights(batch))), outputs, batch

    def step(sums: dict[str, jax.Array], variables: tuple[Tree, Tree], batch: Sample) -> dict[str, jax.Array]:
        return jax.tree.map(jnp.add, sums, psum(measured(variables, batch)[0]))

    def predict(variables: tuple[Tree, Tree], batch: Sample) -> tuple[dict[str, jax.Array], Tree, Sample]:
        sums, outputs, batch = measured(variables, batch)
        batch = replace(batch, images=jnp.zeros(len(batch.images)))  # no image travels back
        return jax.tree.map(lambda x: x[None], psum(sums)), task.decode(outputs), batch  # a copy from each device

    shapes, *_ = jax.eval_shape(measured, (like.params, like.model_state), examples.spec)
    zeros = {name: np.zeros(array.shape, array.dtype) for name, array in shapes.items()}
    program = parallel.map_examples(predict) if task.gathers else run_over(step, examples, parallel)
    count, (height, width, _) = len(parallel.devices), examples.image_shape
    most = max(1, min(EVAL_BATCH, EVAL_PIXELS // (height * width)))
    order = _in_order(examples.size, count * min(most, -(-examples.size // count)))  # few images take no longer

    def evaluation(state: TrainState) -> Evaluation:
        averages = averaged_variables(state.opt_state, state.params, state.model_state)
        if task.gathers:
            found = _gather(program, zeros, parallel.replicate(averages), examples, parallel, *order)
            return _summarized(task, *found)
        *_, (_, sums) = program(*parallel.replicate((zeros, averages)), *order)
        return _summarized(task, parallel.one_copy(sums))

    return evaluation


def check_targets(network: Network, like: TrainState, task: Task, examples: Examples) -> None:
    """Raise a UserError if the targets of examples do not fit the network's outputs; nothing is computed."""
    if type(task).check is Task.check:
        return

    def outputs_of(variables: tuple[Tree, Tree], images: jax.Array) -> Tree:
        model = network.merge(*variables)
        model.eval()
        return model(images)

    images = jax.ShapeDtypeStruct((1, *examples.image_shape), jnp.float32)
    task.check(examples, jax.eval_shape(outputs_of, (like.params, like.model_state), images))


def _in_order(size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights (steps, batch) that go through all images once; the last batch is filled up at weight 0."""
    steps = -(-size // batch_size)
    indices = np.resize(np.arange(size, dtype=np.int32), (steps, batch_size))
    return indices, (np.arange(steps * batch_size) < size).astype(np.float32).reshape(steps, batch_size)


def _sums(task: Task, outputs: Tree, batch: Sample) -> dict[str, jax.Array]:
    parts, measured = losses_of(task, outputs, batch), task.measure(outputs, batch)
    parts = {**(parts if len(parts) > 1 else {}), "loss": sum_of(parts)}
    summed = {name: jnp.sum(part * batch.weights) for name, part in parts.items()}
    if taken := measured.keys() & {*summed, "count"}:
        raise UserError(f"{type(task).__name__}.measure may not return {', '.join(sorted(taken))}: choose other names")
    return {**summed, **measured, "count": batch.weights.sum()}


def _gather(
    predict: Any,
    sums: Mapping[str, Any],
    variables: Tree,
    examples: Examples,
    parallel: Parallel,
    indices: np.ndarray,
    weights: np.ndarray,
) -> tuple[Mapping[str, Any], Tree, Sample]:
    """The sums, the predictions and the targets of all images, in every process."""
    kept = []
    for batch in examples.batches(*map(parallel.own, (indices, weights))):
        copies, *part = parallel.gather(predict(variables, parallel.split(batch)))
        sums = {name: sums[name] + copy[0] for name, copy in copies.items()}
        counted = part[1].weights > 0  # others only fill a batch up
        kept.append(jax.tree.map(lambda leaf, k=counted: leaf[k], part))
    predictions, targets = jax.tree.map(lambda *leaves: np.concatenate(leaves), *kept)
    return sums, predictions, targets


def _summarized(
    task: Task, sums: Mapping[str, Any], predictions: Tree = None, targets: Sample | None = None
) -> Evaluation:
    numbers = {name: value for name, value in sums.items() if np.ndim(value) == 0}
    arrays = {name: np.asarray(value) for name, value in sums.items() if name not in numbers}
    figures = task.summarize(means(numbers), arrays, predictions, targets)
    return Evaluation(figures, arrays, predictions, targets)
