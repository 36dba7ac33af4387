"""Find a learning rate: train for a hundred steps while the rate rises, and see where the loss falls and diverges.

    python launch.py find-lr --model resnet18 --data path/to/folder --image-size 64
    python launch.py find-lr --model resnet18 --data cifar10 --optimizer momentum --lowest 0.0001 --highest 100

The range test of Smith (2017, arXiv:1506.01186). It takes the options of `train`, of which it leaves out those of
the rate and of its schedule. The suggested rate is a tenth of the one at which the smoothed loss is the lowest. The
directory has the picture, and every rate and loss in summary.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnjax import models, runs, tasks, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown, training
from cnnjax.lab.claims import Claim
from cnnjax.lab.kinds import Loaded
from cnnjax.lab.options import with_flags
from cnnjax.options import Count, Positive
from cnnjax.train.rates import DIVERGED, LEAST, plain

CAPTIONS = {
    "rates": "The loss of each step of the sweep over its learning rate, smoothed over neighbouring steps, and the "
    "suggested rate."
}


@dataclass(frozen=True)
class Config(training.Config):
    """Which rates are tried, and the options of `train`."""

    lowest: Positive = 1e-6
    """First learning rate of the sweep."""
    highest: Positive = 10.0
    """Last learning rate of the sweep."""
    steps: Count = 100
    """Steps of the sweep, at least 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr is not None:
            raise UserError(f"`lr={self.lr:g}` is what is looked for: leave it out, and give `lowest` and `highest`")
        if self.lowest >= self.highest:
            raise UserError(f"`lowest` must be less than `highest`, got {self.lowest:g} and {self.highest:g}")
        if self.steps < LEAST:
            raise UserError(f"`steps` must be at least {LEAST}, got {self.steps}: fewer show no curve")


load = training.load


def run(config: Config, loaded: Loaded, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Try the rates, draw the losses, and return the summary."""
    dataset = loaded.dataset
    sweep = train.find_lr(
        loaded.model,
        tasks.Classification(config, dataset.class_names),
        loaded.recipe,
        loaded.training,
        lowest=config.lowest,
        highest=config.highest,
        steps=config.steps,
        parallel=parallel,
    )
    if run.writes:
        viz.save(viz.line_plots([curve(sweep)], size=(7.0, 4.2)), run.figures / "rates.png")
    return {
        "data": {"name": dataset.name, "version": dataset.version, "classes": len(dataset.class_names)},
        "model": config.model,
        "optimizer": config.optimizer,
        "params": models.count_params(loaded.model),
        "suggested_lr": sweep.suggested,
        "why": sweep.why,
        "rates": sweep.rates.tolist(),
        "losses": sweep.losses.tolist(),
        "smoothed": sweep.smoothed.tolist(),
    }


def curve(sweep: train.RateSweep) -> viz.Lines:
    """Return the losses over the rates as they are drawn: those that diverge are cut off, and the suggested rate."""
    top = DIVERGED * sweep.smoothed[0]
    lines = {
        "loss of a batch": (sweep.rates, np.minimum(sweep.losses, top)),
        "smoothed": (sweep.rates, np.minimum(sweep.smoothed, top)),
    }
    if sweep.suggested is not None:
        heights = np.array([sweep.losses.min(), min(sweep.losses.max(), top)])
        lines[f"suggested: {plain(sweep.suggested)}"] = (np.full(2, sweep.suggested), heights)
    return viz.Lines("", ("learning rate", "loss"), lines, ("log", "linear"), styles={"loss of a batch": "x"})


def table(summary: dict[str, Any]) -> str:
    """Return the suggested rate, the rule, and what was tried."""
    rates, losses = summary["rates"], summary["smoothed"]
    found, why = summary["suggested_lr"], with_flags(summary["why"], ("lowest", "highest", "steps"))
    said = f"Suggested learning rate: **{plain(found)}**, {why}." if found else f"No rate: {why}."
    swept = f"{plain(rates[0])} to {plain(rates[-1])}"
    row = [summary["model"], summary["optimizer"], len(rates), swept, f"{min(losses):.3f}"]
    head = ["network", "optimizer", "steps", "rates", "lowest smoothed loss"]
    return f"{said}\n\n{markdown.table(head, [row])}"


def claims(summary: dict[str, Any] | None) -> Sequence[Claim]:
    """Return none: the lectures say nothing about it."""
    return []
