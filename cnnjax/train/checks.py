"""What is checked before a training, and the order in which it shows its examples."""

from collections.abc import Callable
from functools import partial

import numpy as np

from cnnjax.data import Examples, balanced_order, epoch_order, fingerprint
from cnnjax.errors import UserError
from cnnjax.runs import processes
from cnnjax.runs.directory import Run
from cnnjax.tasks import Task
from cnnjax.train.lengths import lengthened
from cnnjax.train.parallel import Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.step import CompiledStep, identity_of

Order = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def check_data(recipe: Recipe, train: Examples, validation: Examples | None, parallel: Parallel) -> None:
    """Raise a UserError if batches do not fit the data or the devices, or processes have read different data."""
    if recipe.seeds > 1:
        raise UserError(f"`seeds` is {recipe.seeds}, but `fit` trains one network: give them to `fit_seeds`")
    if recipe.patience and validation is None:
        raise UserError(f"`patience={recipe.patience}` needs validation images, which tell the best epoch: give some")
    check_batch_size(recipe.batch_size, train)
    check_channels(recipe, train)
    parallel.check_batch(recipe.batch_size)
    if processes.count() > 1:
        data = {"training data": train, "validation data": validation}
        processes.check_same({name: split and fingerprint(split) for name, split in data.items()})


def check_batch_size(batch_size: int, train: Examples) -> None:
    """Raise a UserError if a batch is larger than the data."""
    if batch_size > train.size:
        raise UserError(
            f"a batch of {batch_size} images is larger than the {train.size} images there are to train on: give a "
            "smaller `batch_size`"
        )


def check_channels(recipe: Recipe, train: Examples) -> None:
    """Raise a UserError if the normalisation is for images of another number of channels."""
    channels = train.image_shape[2]
    if recipe.mean is not None and len(recipe.mean) not in (1, channels):
        raise UserError(
            f"`mean` and `std` have {len(recipe.mean)} numbers, but the images have {channels} "
            f"channel{'s' * (channels != 1)}: give one for each, or one for all"
        )


def check_continues(
    run: Run | None, step: CompiledStep, task: Task, recipe: Recipe, train: Examples, validation: Examples | None
) -> None:
    """Raise a UserError if a run's directory, if there is one, has another training than this one in it."""
    if run:
        run.check_training(identity_of(step, task, recipe, train, validation), partial(lengthened, recipe=recipe))


def laid_out(task: Task, recipe: Recipe, train: Examples) -> tuple[Task, Order, int, Examples]:
    """Return the task as it is learned, the order of the examples, the steps of an epoch, and what these take."""
    steps = -(-train.size // recipe.batch_size)
    return task.for_training(train), order_of(task, recipe, train), steps, train.select(task.targets)


def order_of(task: Task, recipe: Recipe, train: Examples) -> Order:
    """Return what maps a seed and an epoch, from 0, to indices and weights (steps, batch) of the examples of its steps.

    Raises:
        UserError: examples are sampled by classes, and have none.
    """
    if recipe.sampling == "shuffled":
        return partial(epoch_order, count=train.size, batch_size=recipe.batch_size)
    return partial(balanced_order, classes=task.classes_of(train), batch_size=recipe.batch_size)
