"""What `fit` is called with: anything of another kind is refused by its argument's name."""

import os
from typing import Any

from flax import nnx

from cnnjax.errors import UserError
from cnnjax.runs.directory import Run
from cnnjax.tasks import Task
from cnnjax.train.recipe import Recipe

METHODS = ("image_shape", "select", "batches")  # of data.Examples, by which it is known
EXAMPLES = "examples (a Split or a Stream)"


def check_kinds(model: Any, task: Any, recipe: Any, train: Any, validation: Any, run: Any) -> None:
    """Raise a UserError for an argument of `fit` that is of another kind than it takes; the message says what to do."""
    _check("model", model, nnx.Module, "a network, a Flax NNX module", "models.create_model(NAME) makes one")
    _check("task", task, Task, "a task", "tasks.Classification() makes one")
    _check("recipe", recipe, Recipe, "a train.Recipe", "train.Recipe(epochs=20, batch_size=32) makes one")
    for name, value, what in (("train", train, EXAMPLES), ("validation", validation, f"{EXAMPLES} or None")):
        if value is None and name == "validation":
            continue
        if isinstance(value, type) or not all(hasattr(value, method) for method in METHODS):
            raise UserError(f"`{name}` must be {what}, got {_kind(value)}: {_instead_of(value)}")
    if run is not None and not isinstance(run, Run):
        path = os.fspath(run) if isinstance(run, str | os.PathLike) else "results/runs/mine"
        raise UserError(f"`run` must be a runs.Run, got {_kind(run)}: runs.Run(Path({path!r})) makes one")


def _check(name: str, value: Any, kind: type, what: str, how: str) -> None:
    if not isinstance(value, kind):
        raise UserError(f"`{name}` must be {what}, got {_kind(value)}: {how}")


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _instead_of(value: Any) -> str:
    if hasattr(value, "train"):
        return "give its train, validation or test"
    if hasattr(value, "dtype"):
        return "data.Split(images, labels) takes arrays"
    return "data.load(NAME).train is some"
