"""The tasks that `train`, `evaluate` and `predict` know, by name; a task's module is imported when it is asked for."""

import importlib

from cnnjax.errors import unknown_name
from cnnjax.lab.kinds.shared import Column, Kind, Loaded, Trains

KINDS = ("classification", "localization", "segmentation")


def kind_of(task: str) -> Kind:
    """Return what is known of a task; raise a UserError if there is none of that name."""
    if task not in KINDS:
        raise unknown_name("`task`", task, KINDS)
    kind: Kind = importlib.import_module(f"cnnjax.lab.kinds.{task}").KIND
    return kind


__all__ = ["KINDS", "Column", "Kind", "Loaded", "Trains", "kind_of"]
