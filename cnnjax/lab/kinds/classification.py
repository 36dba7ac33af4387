"""Training a network to classify images, and its figures: the confusion matrix and the most confident mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import data, tasks, train, viz
from cnnjax.data.augment import Sample
from cnnjax.lab.kinds.shared import Column, Kind, Loaded, Network, Trains
from cnnjax.tasks.task import Outputs

TOP = 5  # classes among which "top5" looks for the true one, where there are more
MISTAKES = 12  # that are shown
JUDGED = ("label_smoothing", "focal_gamma", "focal_alpha", "ignore_index")  # options that evaluations have, too
MOST_CLASSES = 60  # that a confusion matrix shows legibly


@dataclass(frozen=True)
class Config(Trains, train.Recipe, tasks.ClassificationLoss, data.Source):
    """Train a network on labelled images."""

    task: Literal["classification"] = "classification"
    """What the network learns: classification, or localization or segmentation, which have options of their own."""


class Judged(tasks.Classification):
    """Classification that also counts how often the true class is among the five most probable ones."""

    def measure(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        measured = super().measure(outputs, batch)
        if outputs.shape[-1] > TOP:
            _, best = jax.lax.top_k(outputs, TOP)
            found = (best == jnp.asarray(batch.labels)[:, None]).any(1)
            measured["top5"] = jnp.sum(found * batch.weights)
        return measured


class Reviewed(Judged):
    """The same, with the predictions of every image."""

    gathers = True


def draw_evaluation(
    folder: Path,
    examples: data.Examples,
    names: Sequence[str],
    evaluation: train.Evaluation,
    network: Network | None = None,
) -> list[Path]:
    """Draw the confusion matrix and the most confident mistakes of an evaluation; return the files.

    Nothing is drawn of more classes than are legible, and no mistakes where there are none.
    """
    files = []
    if len(names) <= MOST_CLASSES:
        files.append(folder / "confusion.png")
        confusion = {"test images, in % of each true class": evaluation.sums["confusion"].astype(int)}
        viz.save(viz.confusion_matrices(confusion, names), files[-1])
    worst = mistakes(evaluation)
    if len(worst) and len(evaluation.predictions["label"]) == examples.size:  # none was left out, which shifts indices
        predictions = evaluation.predictions
        batch = next(examples.batches(worst[None], np.ones((1, len(worst)), np.float32)))
        titles = [
            f"{names[predictions['label'][k]]} ({predictions['scores'][k].max():.0%})\nis {names[label]}"
            for k, label in zip(worst, np.asarray(batch.labels), strict=True)
        ]
        files.append(folder / "mistakes.png")
        viz.save(viz.image_grid(np.asarray(batch.images), titles, columns=min(4, len(worst))), files[-1])
    return files


def mistakes(evaluation: train.Evaluation) -> np.ndarray:
    """Return the images whose class is another than the predicted one, those with the highest scores first."""
    predictions, targets = evaluation.predictions, evaluation.targets
    assert targets is not None
    assert targets.weights is not None
    wrong = np.flatnonzero((predictions["label"] != np.asarray(targets.labels)) & (np.asarray(targets.weights) > 0))
    return wrong[np.argsort(-predictions["scores"][wrong].max(1), kind="stable")][:MISTAKES]


def _task(config: Any, names: tuple[str, ...]) -> tasks.Classification:
    return tasks.Classification(config, names)


def _judge(config: Any, names: tuple[str, ...], whole: bool) -> Judged:
    return (Reviewed if whole else Judged)(config, names)


def _about(config: Config, loaded: Loaded) -> dict[str, Any]:
    return {
        "loss": config.loss,
        "loss_options": {name: getattr(config, name) for name in JUDGED if getattr(config, name) is not None},
        "preprocessing": "scaled (bilinear, antialiased) until it covers image_size, cropped to its middle, over 255"
        + (", minus mean, over std" if loaded.recipe.mean else ""),
        "deep": config.deep,
    }


KIND = Kind(
    Config,
    _task,
    _judge,
    _about,
    {"accuracy": Column("accuracy", ".1%"), "top5": Column("top-5", ".1%"), "loss": Column("loss", ".3f")},
    ("loss", "accuracy"),
    draw_evaluation,
    lambda evaluation: evaluation.sums["confusion"].astype(int),
)
