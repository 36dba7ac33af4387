"""The one loop: epochs of steps, validation, metrics, checkpoints."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples, augment, epoch_order
from cnnjax.errors import UserError
from cnnjax.nn import Module
from cnnjax.train.advance import Advance, make_advance
from cnnjax.train.checkpoints import Checkpoints
from cnnjax.train.evaluation import make_evaluator
from cnnjax.train.metrics import Recorder, read_history
from cnnjax.train.optimizers import learning_rate, make_optimizer
from cnnjax.train.parallel import Parallel
from cnnjax.train.progress import Display, display
from cnnjax.train.recipe import Recipe
from cnnjax.train.run import Run
from cnnjax.train.signals import StopRequest, deferred_signals
from cnnjax.train.state import Network, TrainState, Tree, means, split_model, zero_sums
from cnnjax.train.step import Constants, make_train_step, scale_pixels

SHOWN = 16  # images in TensorBoard
TRACED = slice(5, 15)  # steps of a profile


class Fit(NamedTuple):
    """What training ends with: the network, its final state, and a curve for every metric ("train/loss", ...)."""

    network: Network
    state: TrainState
    history: dict[str, list[float]]


def check_batch_size(batch_size: int, train: Examples) -> None:
    """Raise a UserError if a batch is larger than the data."""
    if batch_size > train.size:
        raise UserError(f"a batch of {batch_size} images is larger than the {train.size} images there are to train on")


def fit(
    model: Module,
    recipe: Recipe,
    train: Examples,
    validation: Examples,
    *,
    seed: int,
    run: Run,
    tag: str,
    parallel: Parallel,
    epoch_program: bool | None = None,
) -> Fit:
    """Train a classifier, or go on where a killed process left it; a finished training is only read back.

    One seed decides the order of the examples, augmentation and every random layer: interrupted or not, the result is
    the same bits. A state is saved after every epoch, and on SIGTERM or Ctrl-C after the step.

    Args:
        model: the network with its initial parameters.
        recipe: how it is trained.
        train: examples to learn from; the last step of an epoch takes what is left.
        validation: examples to judge every epoch by, with averaged parameters if the recipe averages them.
        seed: of the order, of augmentation and of random layers; the recipe's own counts for whoever repeats trainings.
        run: the directory that metrics and checkpoints go to.
        tag: names this training within the run.
        parallel: the devices and how they are mapped.
        epoch_program: as `make_advance`.

    Raises:
        UserError: the batch is larger than the data, or cannot be split over the devices, or the schedule does not fit.
        Interrupted: a signal came; the state is saved.
    """
    epochs, batch_size = recipe.epochs, recipe.batch_size
    check_batch_size(batch_size, train)
    parallel.check_batch(batch_size)
    steps = -(-train.size // batch_size)
    optimizer = make_optimizer(recipe, steps, epochs)
    network, initial = split_model(model, optimizer)
    checkpoints = Checkpoints(run.checkpoints / tag)
    state = checkpoints.restore(initial) or initial
    first_step = int(state.step)
    if first_step == epochs * steps:
        checkpoints.close()
        return Fit(network, state, read_history(run.metrics, tag))

    constants, state = parallel.replicate((Constants(jax.random.key(seed)), state))
    advance = make_advance(make_train_step(network, optimizer, recipe), train, parallel, epoch_program)
    judge = make_evaluator(network, initial, validation, parallel, recipe)
    with (
        closing(checkpoints),
        closing(Recorder(run.metrics, tag, first_step)) as recorder,
        closing(display(tag, epochs, steps, first_step)) as shown,
        deferred_signals() as stop,
    ):
        if first_step == 0:
            recorder.write_pictures(0, _examples(train, recipe, seed))
        for epoch in range(first_step // steps, epochs):
            done = max(first_step - epoch * steps, 0)
            indices, weights = epoch_order(seed, epoch, train.size, batch_size)

            def show(state: TrainState, seconds: float, epoch: int = epoch, done: int = done) -> None:
                step, sums = parallel.one_copy((state.step, state.sums))
                step = int(step) - epoch * steps
                shown.update(epoch + 1, step, means(sums), (step - done) * batch_size / seconds)

            first = epoch == first_step // steps
            go = _traced(advance, run.path / "profile" / tag) if run.profile and first else advance
            states = go(state, constants, indices[done:], weights[done:])
            state, seconds = _follow(states, stop, shown, show)
            step, sums = parallel.one_copy((state.step, state.sums))
            if int(step) == (epoch + 1) * steps:
                trained = means(sums) | {
                    "lr": float(learning_rate(recipe, steps, epochs, int(step) - 1)),
                    "seconds": seconds,
                    "step_ms": seconds / (steps - done) * 1e3,
                    "images_per_second": (steps - done) * batch_size / seconds,
                }
                judged = judge(state)
                validated = {"loss": judged.loss, "accuracy": judged.accuracy}
                recorder.write(int(step), epoch + 1, "train", trained)
                recorder.write(int(step), epoch + 1, "validation", validated)
                recorder.write_weights(int(step), parallel.one_copy(state.params))
                shown.epoch_done(epoch + 1, trained | {f"val_{name}": value for name, value in validated.items()})
                state = state._replace(sums=parallel.replicate(zero_sums()))
            checkpoints.save(parallel.one_copy(state))
            stop.raise_if_set()
    return Fit(network, parallel.one_copy(state), read_history(run.metrics, tag))


def _examples(train: Examples, recipe: Recipe, seed: int) -> np.ndarray:
    """The first images as training sees them, with the recipe's augmentation."""
    images, labels = train.first(SHOWN)
    sample = augment.Sample(scale_pixels(jnp.asarray(images)), jax.nn.one_hot(labels, int(labels.max()) + 1))
    return np.asarray(augment.parse(recipe.augment)(jax.random.key(seed), sample).images)


def _traced(advance: Advance, folder: Path) -> Advance:
    """Write a trace of the steps `TRACED`, after those that compile, for TensorBoard or Perfetto."""

    def run(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[Tree]:
        for part in (slice(0, TRACED.start), TRACED, slice(TRACED.stop, None)):
            if len(indices[part]):
                with jax.profiler.trace(str(folder)) if part is TRACED else nullcontext():
                    for state in advance(carry, constants, indices[part], weights[part]):
                        carry = jax.block_until_ready(state) if part is TRACED else state
                        yield carry

    return run


def _follow(
    states: Iterator[TrainState], stop: StopRequest, shown: Display, show: Callable[[TrainState, float], None]
) -> tuple[TrainState, float]:
    """Run the steps of an epoch, or those up to a signal; return the last state and the seconds it took."""
    started = time.perf_counter()
    for state in states:
        if stop.signum is not None:
            break
        if shown.due():
            show(state, time.perf_counter() - started)
    jax.block_until_ready(state)
    return state, time.perf_counter() - started
