"""What a training says of itself: curves, speed, pictures, and which epoch is the best."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.data import Examples
from cnnjax.errors import RunError, unknown_name
from cnnjax.models import layer_rows
from cnnjax.nn import Module
from cnnjax.runs import processes
from cnnjax.runs.directory import Run
from cnnjax.runs.hardware import peak_flops
from cnnjax.runs.metrics import InMemory, Recorder, read_history
from cnnjax.runs.progress import Display
from cnnjax.tasks import Task
from cnnjax.train.callbacks import Callback, EpochEnd
from cnnjax.train.checkpoints import Checkpoints, Kept
from cnnjax.train.optimizers import learning_rate
from cnnjax.train.parallel import Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.state import TrainState, count_steps, means
from cnnjax.train.step import CompiledStep, augmented, scale_pixels

ONLY_WRITTEN = ("seconds", "step_ms", "flop_utilization")  # figures that would make the line of an epoch too long
SHOWN = 16  # images in TensorBoard
Figures = dict[str, dict[str, float]]  # by "train" and "validation"


class Epoch(NamedTuple):
    """The end of an epoch: the state as one device has it, and what the process needed since it began or resumed it.

    Seconds of compilation are left out.
    """

    number: int
    state: TrainState
    steps: int
    seconds: float


def recorder_of(run: Run | None, step: int, pictures: Callable[[], np.ndarray]) -> Recorder | InMemory:
    """Return where a training's metrics go, and its pictures as it starts; only a process that writes has a file."""
    if not (run and run.writes):
        return InMemory()
    recorder = Recorder(run.metrics, run.tag, step)
    if step == 0:
        recorder.write_pictures(0, pictures())
    return recorder


def history_of(run: Run | None, recorder: Recorder | InMemory | None = None) -> dict[str, list[float]]:
    """Return the curves of a training, in every process."""
    if isinstance(recorder, InMemory) and run is None:
        return recorder.history()
    return processes.from_first(lambda: read_history(run.metrics, run.tag) if run else {})


def speed_of(
    model: Module, train: Examples, recipe: Recipe, parallel: Parallel, seeds: int = 1
) -> Callable[[Epoch], dict[str, float]]:
    """Return a function that computes an epoch's learning rate, throughput and share of the devices' peak.

    Two operations are counted for a multiply-add, and the backward pass as twice the forward one.
    """
    copy = nnx.clone(model)
    copy.eval()
    flops = 6 * sum(row.macs for row in layer_rows(copy, train.image_shape))
    steps, peak = -(-train.size // recipe.batch_size), peak_flops(parallel.devices, recipe.precision)

    def speed(epoch: Epoch) -> dict[str, float]:
        images = train.size - (steps - epoch.steps) * recipe.batch_size  # what fills the last batch up is not counted
        seconds = epoch.seconds / seeds
        rate = images / seconds
        lr = float(learning_rate(recipe, steps, recipe.epochs, epoch.number * steps - 1))
        figures = {"lr": lr, "seconds": seconds, "step_ms": seconds / epoch.steps * 1e3, "images_per_second": rate}
        return figures | ({"flop_utilization": rate * flops / peak} if peak else {})

    return speed


def trained(title: str, state: TrainState, epoch: int) -> dict[str, float]:
    """Return the means of an epoch's sums; raise a RunError if no step of it ended in finite numbers."""
    if not float(state.sums["count"]):
        raise RunError(f"{title}: no step of epoch {epoch} ends in finite numbers; try a lower `lr`")
    return means(state.sums)


def end_epoch(
    epoch: Epoch,
    task: Task,
    ended: Sequence[tuple[Recorder | InMemory, Figures, TrainState]],
    checkpoints: Checkpoints | Kept,
    shown: Display,
    observers: Sequence[Callback],
) -> None:
    """Write down what an epoch ended with, show it, save its state, and tell the observers.

    Args:
        epoch: its number, and the state of all trainings.
        task: what they learn.
        ended: of each training, where its metrics go, its figures and its state.
        checkpoints: where the state is saved.
        shown: the progress display; of several trainings it shows the means.
        observers: told of each training.
    """
    lines = [summary_of(task, figures) for _, figures, _ in ended]
    for recorder, figures, state in ended:
        recorder.write_epoch(count_steps(state), epoch.number, figures, state.params)
    shown.epoch_done(epoch.number, {name: statistics.fmean(line[name] for line in lines) for name in lines[0]})
    checkpoints.save(epoch.state, score(task, [figures for _, figures, _ in ended]))
    for _, figures, state in ended:
        for observer in observers:
            observer.on_epoch(EpochEnd(epoch.number, figures, state))


def summary_of(task: Task, figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return what an epoch ended with in one line, the loss and what the task is judged by first.

    The figures of the validation have a prefix.
    """
    shown = {name: value for name, value in figures["train"].items() if name not in ONLY_WRITTEN}
    shown |= {f"val_{name}": value for name, value in figures.get("validation", {}).items()}
    return dict(sorted(shown.items(), key=lambda item: item[0].removeprefix("val_") not in ("loss", task.best)))


def score(task: Task, figures: Sequence[Mapping[str, Mapping[str, float]]]) -> float | None:
    """Return by what the best checkpoint is chosen, the higher the better: the task's figure, the mean over seeds."""
    evaluations = [one["validation"] for one in figures if "validation" in one]
    if any(task.best not in evaluation for evaluation in evaluations):
        raise unknown_name(f"figure, which {type(task).__name__}.best names,", task.best, evaluations[0])
    values = [evaluation[task.best] for evaluation in evaluations]
    return statistics.fmean(values) * (1 if task.highest else -1) if values else None


def example_pictures(step: CompiledStep, task: Task, recipe: Recipe, train: Examples) -> np.ndarray:
    """Return the first images as training sees them, with the recipe's augmentation."""
    batch = train.first(SHOWN).take(slice(None))
    batch = replace(batch, images=scale_pixels(jnp.asarray(batch.images)))
    if recipe.augment:
        batch = augmented(step.network, task, recipe, step.initial, jax.random.key(recipe.seed), batch)
    return np.asarray(batch.images)
