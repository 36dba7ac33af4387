"""Training a network to give every pixel a class, and its figures: masks beside the truth, the IoU of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnnjax import data, tasks, train, viz
from cnnjax.lab.kinds.shared import Column, Kind, Loaded, Network, Table, Trains
from cnnjax.tasks.masks import iou_of, whole

SHOWN = 6  # images with their masks
MOST_CLASSES = 60  # whose IoU a figure shows legibly


@dataclass(frozen=True)
class Config(Trains, train.Recipe, tasks.SegmentationLoss, data.MaskSource):
    """Train a network on images with masks."""

    task: Literal["segmentation"] = "segmentation"
    """What the network learns: segmentation, or another task, which has options of its own."""
    model: str = "fcn8s_tiny"
    """Network; `models --task segmentation` lists all of them."""
    backbone: str = ""
    """Network of the zoo that takes the place of the one that the name says; default: that one."""


def draw(
    folder: Path, examples: data.Examples, names: Sequence[str], evaluation: train.Evaluation, network: Network
) -> list[Path]:
    """Draw images with their predicted and true masks, and the IoU of every class; return the files."""
    chosen = np.unique(np.linspace(0, examples.size - 1, SHOWN).round().astype(int))
    batch = next(examples.batches(chosen[None], np.ones((1, len(chosen)), np.float32)))
    task = tasks.Segmentation(class_names=tuple(names))
    predicted = np.asarray(task.decode(network(batch.images))["mask"])
    masks = {"prediction": predicted, "ground truth": np.asarray(batch.masks)}
    files = [folder / "masks.png"]
    viz.save(viz.segmentations(np.asarray(batch.images), masks, names), files[-1])
    if len(names) <= MOST_CLASSES:
        confusion = whole(evaluation.sums["confusion"])
        files += [folder / "iou.png", folder / "confusion.png"]
        viz.save(viz.class_bars("IoU of each class", dict(zip(names, iou_of(confusion), strict=True))), files[-2])
        viz.save(viz.confusion_matrices({"pixels, in % of each true class": confusion}, names), files[-1])
    return files


def _task(config: Any, names: tuple[str, ...]) -> tasks.Segmentation:
    return tasks.Segmentation(config, names)


def _judge(config: Any, names: tuple[str, ...], whole: bool) -> tasks.Segmentation:
    return tasks.Segmentation(config, names, boundaries=whole)


def _about(config: Config, loaded: Loaded) -> dict[str, Any]:
    return {
        "loss": config.loss,
        "score_size": config.score_size,
        "mask_ignore": config.mask_ignore,
        "preprocessing": "scaled (bilinear, antialiased) until it fits into image_size, with black around it, over 255"
        + (", minus mean, over std" if loaded.recipe.mean else ""),
    }


def _details(evaluation: train.Evaluation, names: Sequence[str]) -> list[Table]:
    confusion = whole(evaluation.sums["confusion"])
    rows = [
        [name, "-" if np.isnan(iou) else f"{iou:.2%}", f"{pixels / max(confusion.sum(), 1):.2%}"]
        for name, iou, pixels in zip(names, iou_of(confusion), confusion.sum(1), strict=True)
    ]
    return [(("class", "IoU", "share of the pixels"), rows)]


KIND = Kind(
    Config,
    _task,
    _judge,
    _about,
    {
        "mean_iou": Column("mean IoU", ".1%"),
        "pixel_accuracy": Column("pixel accuracy", ".1%"),
        "mean_accuracy": Column("mean accuracy", ".1%"),
        "frequency_weighted_iou": Column("weighted IoU", ".1%"),
        "boundary_f1": Column("boundary F1", ".1%"),
        "thin_accuracy": Column("thin regions", ".1%"),
        "loss": Column("loss", ".3f"),
    },
    ("loss", "pixel_accuracy", "mean_iou"),
    draw,
    lambda evaluation: whole(evaluation.sums["confusion"]),
    _details,
)
