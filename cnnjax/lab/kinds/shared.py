"""The options that training has for every task, and what a task adds to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax import data, models, tasks, train
from cnnjax.errors import UserError
from cnnjax.lab.starting import Pretrained
from cnnjax.options import Checked, Fraction

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
Network = Callable[[Any], jax.Array]  # from float images in [0, 1] to outputs


@dataclass(frozen=True)
class Trains(Checked):
    """Which network is trained, and from what."""

    model: str = "resnet18"
    """Network; `models` lists all of them."""
    validation_split: Fraction = 0.1
    """Share of the training images held out for validation, by which the best epoch is chosen; data that have
    validation images of their own are validated on those."""
    pretrained: Pretrained = ""
    """Weights to start from, with the normalisation that they were trained with, unless `mean` and `std` are given;
    where they are for other classes, the layer that computes the logits starts anew; weights of the backbone alone do
    as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        seeds = getattr(self, "seeds", 1)
        if seeds != 1:
            raise UserError(
                f"`seeds` must be 1, got {seeds}: a run of train is one network; several are the cells of a "
                "sweep, as with sweep train --grid seed=0,1,2"
            )


class Loaded(NamedTuple):
    """The data, the network with its initial parameters, the arguments that it was built with, and the recipe.

    The recipe is the config, with the normalisation of the weights that the training starts from.
    """

    dataset: data.Dataset
    training: data.Examples
    validation: data.Examples
    model: models.Module
    arguments: dict[str, Any]
    recipe: Any


class Column(NamedTuple):
    """A figure of an evaluation in a table: its name in words, and how it is written."""

    title: str
    format: str


class Kind(NamedTuple):
    """What training, evaluating and predicting need to know of a task.

    Attributes:
        Config: the options of `train`.
        task: what is learned, given the options and the names of the classes.
        judge: likewise, for evaluations at the end; of the test images, the whole of what is drawn is measured.
        about: what `model.json` says beside what it says for every task.
        columns: the figures that a table shows, of an evaluation that has them.
        curves: the quantities that are drawn over the epochs.
        draw: draws an evaluation into a folder and returns the files.
        confusion: counts (classes, classes) of an evaluation, class row taken for column.
        details: tables that `evaluate` prints besides, each as its head and its rows.
    """

    Config: type[Any]
    task: Callable[[Any, tuple[str, ...]], tasks.Task]
    judge: Callable[[Any, tuple[str, ...], bool], tasks.Task]
    about: Callable[[Any, Loaded], dict[str, Any]]
    columns: dict[str, Column]
    curves: Sequence[str]
    draw: Callable[[Path, data.Examples, Sequence[str], train.Evaluation, Network], list[Path]]
    confusion: Callable[[train.Evaluation], np.ndarray]
    details: Callable[[train.Evaluation, Sequence[str]], list[Table]] = lambda evaluation, names: []
