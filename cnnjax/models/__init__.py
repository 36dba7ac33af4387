"""Networks by the names that users know them by; importing this package registers the families in its files."""

import importlib
import pkgutil

from cnnjax.models.backbones import load_backbone
from cnnjax.models.features import features
from cnnjax.models.googlenet import WithAuxiliary
from cnnjax.models.heads import replace_head
from cnnjax.models.lecture import LectureCNN, LectureFCN
from cnnjax.models.registry import create_model, list_models, register
from cnnjax.models.summary import LayerRow, count_params, layer_rows, summary
from cnnjax.nn import Module

for _file in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_file.name)

__all__ = [
    "LayerRow",
    "LectureCNN",
    "LectureFCN",
    "Module",
    "WithAuxiliary",
    "count_params",
    "create_model",
    "features",
    "layer_rows",
    "list_models",
    "load_backbone",
    "register",
    "replace_head",
    "summary",
]
