"""When a training ends: early, where it no longer gets better; or later than it did before, with more epochs."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnnjax.errors import UserError
from cnnjax.tasks import Task
from cnnjax.train.optimizers import why_epochs_matter
from cnnjax.train.recipe import Recipe

log = logging.getLogger(__name__)

LENGTHS = ("epochs", "patience")  # options that decide when a training ends, and may decide nothing else


# ---------------------------------------------------------------- early stopping


@dataclass
class Patience:
    """Decides after every epoch whether a training ends early: a function of the curve of one validation figure.

    Attributes:
        epochs: so many without a better value end the training; None: none does.
        figure: the validation figure that is compared.
        highest: whether the highest value of it is the best.
        values: of the figure, by epoch from 1.
    """

    epochs: int | None
    figure: str
    highest: bool
    values: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, recipe: Recipe, history: Mapping[str, list[float]]) -> "Patience":
        """Return it for a training that has these curves so far."""
        curve = history.get(f"validation/{task.best}", ())
        return cls(recipe.patience, task.best, task.highest, dict(enumerate(curve, 1)))

    def note(self, epoch: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Take in what an epoch ended with."""
        if "validation" in figures:
            self.values[epoch] = figures["validation"].get(self.figure, 0.0)

    def best_of(self, epoch: int) -> int:
        """Return the first of the epochs so far whose value no other one betters; 0 if none has a value."""
        known = [number for number in range(1, epoch + 1) if not math.isnan(self.values.get(number, math.nan))]
        choose = max if self.highest else min
        return choose(known, key=self.values.__getitem__, default=0)  # of equal ones the first

    def is_over(self, epoch: int) -> bool:
        """Return whether the training ends after an epoch, whatever number of epochs it was given."""
        return self.epochs is not None and epoch - self.best_of(epoch) >= self.epochs

    def say(self, title: str, epoch: int, most: int) -> None:
        """Say that the training ends early, if it does."""
        if epoch < most and self.is_over(epoch):
            log.warning("%s: %s", title, stopped_early(epoch, most, self.figure, self.epochs or 0))


def stopped_early(epoch: int, most: int, figure: str, patience: int) -> str:
    """Return in words why a training ended before its last epoch."""
    epochs = f"{patience} epoch{'s' * (patience != 1)}"
    return f"stopped after epoch {epoch} of {most}: validation {figure} was not better for {epochs} (`patience`)"


# ---------------------------------------------------------------- more epochs


def lengthened(there: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the options of a training as they were, but for those that let it go on longer, which are as they are now.

    With more epochs, or more patience, a training goes on as if it had been given them from the start.

    Args:
        there: the training's options as it began, as JSON holds them; without "epochs" they are no training's.
        recipe: the options now.

    Raises:
        UserError: there are more epochs, and the schedule of the learning rate depends on their number.
    """
    known = {"patience": None, **there}
    before = known.get("epochs")
    if not isinstance(before, int) or known.get("schedule") != recipe.schedule:
        return dict(there)
    longer: dict[str, int | None] = {}
    if recipe.epochs > before:
        if why := why_epochs_matter(recipe):
            raise UserError(
                f"the training was started with `epochs={before}`, and {why}: with `epochs={recipe.epochs}` its first "
                "steps would have been others. Choose another directory (`out`), or start over (`overwrite`)"
            )
        longer["epochs"] = recipe.epochs
    patience = known["patience"]
    if patience is not None and (recipe.patience is None or recipe.patience > patience):
        longer["patience"] = recipe.patience
    return {**there, **longer}
