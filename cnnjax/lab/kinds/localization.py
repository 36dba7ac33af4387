"""Training a network to name the object of an image and to put a box around it, and its figures: boxes, confusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from cnnjax import data, tasks, train, viz
from cnnjax.errors import UserError
from cnnjax.lab.kinds.classification import MOST_CLASSES
from cnnjax.lab.kinds.shared import Column, Kind, Loaded, Network, Trains
from cnnjax.options import Count
from cnnjax.tasks.localization import largest_object

SHOWN = 12  # images with their boxes
SOURCE = ("annotations", "box_format", "max_objects", "keep_largest", "bad_boxes")  # how `evaluate` reads data, too


@dataclass(frozen=True)
class Config(Trains, train.Recipe, tasks.LocalizationLoss, data.BoxSource):
    """Train a network on images with boxes, of which it learns the largest."""

    task: Literal["localization"] = "localization"
    """What the network learns: localization, or another task, which has options of its own."""
    model: str = "localizer"
    """Network; `models --task localization` lists all of them."""
    backbone: str = ""
    """Network of the zoo whose features the class and the box are read from; default: a narrow VGG."""
    max_objects: Count | None = 1
    """Places for objects in each image; of several the largest is learned. With 1, shapes are images of one object."""
    keep_largest: bool = True
    """Keep the largest where an image has more objects than places; else it is an error."""
    instances: tyro.conf.Suppress[bool] = False
    """Masks of objects are not needed."""

    def dataset(self) -> data.Dataset:
        """Load what the options name."""
        dataset = super().dataset()
        if isinstance(dataset.test, data.Split) and (dataset.test.labels < 0).all():  # before a long training
            raise UserError(f"{self.data}: no test image has an object: expected some with boxes")
        return dataset


def draw(
    folder: Path, examples: data.Examples, names: Sequence[str], evaluation: train.Evaluation, network: Network
) -> list[Path]:
    """Draw images with their predicted and true boxes, and the confusion matrix; return the files."""
    chosen = np.unique(np.linspace(0, examples.size - 1, SHOWN).round().astype(int))
    batch = next(examples.batches(chosen[None], np.ones((1, len(chosen)), np.float32)))
    task = tasks.Localization(class_names=tuple(names))
    predictions = task.decode(network(batch.images))
    truth = largest_object(batch.labels, batch.boxes)  # type: ignore[arg-type] # the data has them
    boxes = {"prediction": np.asarray(predictions["box"]), "ground truth": np.asarray(truth.boxes)}
    titles = [
        f"{said}\nis {names[label] if there else 'no object'}"
        for said, label, there in zip(task.titles(predictions), truth.labels, truth.there, strict=True)
    ]
    files = [folder / "located.png"]
    viz.save(viz.boxed_images(np.asarray(batch.images), boxes, titles, 4), files[-1])
    if len(names) <= MOST_CLASSES:
        files.append(folder / "confusion.png")
        counts = {"test images, in % of each true class": _confusion(evaluation)}
        viz.save(viz.confusion_matrices(counts, names), files[-1])
    return files


def _confusion(evaluation: train.Evaluation) -> np.ndarray:
    return evaluation.sums["confusion"].astype(int)


def _task(config: Any, names: tuple[str, ...]) -> tasks.Localization:
    return tasks.Localization(config, names)


def _judge(config: Any, names: tuple[str, ...], whole: bool) -> tasks.Localization:
    return tasks.Localization(config, names)


def _about(config: Config, loaded: Loaded) -> dict[str, Any]:
    return {
        "loss": config.box_loss,
        "loss_options": {"box_weight": config.box_weight, "box_beta": config.box_beta},
        "boxes": {name: getattr(config, name) for name in SOURCE},
        "preprocessing": "scaled (bilinear, antialiased) until it fits into image_size, with black around it, over 255"
        + (", minus mean, over std" if loaded.recipe.mean else ""),
    }


KIND = Kind(
    Config,
    _task,
    _judge,
    _about,
    {
        "joint_iou": Column("joint IoU", ".1%"),
        "located": Column("located", ".1%"),
        "accuracy": Column("accuracy", ".1%"),
        "mean_iou": Column("mean IoU", ".1%"),
        "loss": Column("loss", ".3f"),
    },
    ("loss", "accuracy", "mean_iou", "located"),
    draw,
    _confusion,
)
