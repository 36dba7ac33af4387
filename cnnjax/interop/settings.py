"""Static attributes of layers as text and back: constants beside variances, strides, padding."""

import json
from typing import Any

from flax import nnx

from cnnjax.errors import UserError
from cnnjax.interop.keras import Normalization
from cnnjax.interop.slots import some
from cnnjax.models import resnet_cifar
from cnnjax.nn import AvgPool, BatchNorm, Conv, GroupNorm, LayerNorm, MaxPool, Module, path_name
from cnnjax.ops.arguments import PADDING_NAMES

LARGEST = 1000  # largest value that a file may set: more padding could exhaust memory
_ATTRIBUTES: dict[type[nnx.Module], tuple[str, ...]] = {
    BatchNorm: ("eps", "momentum"),
    GroupNorm: ("eps",),
    LayerNorm: ("eps",),
    Conv: ("stride", "padding"),
    AvgPool: ("count_include_pad",),
    MaxPool: ("pool",),
    Normalization: ("mean", "std"),
    resnet_cifar.Block: ("residual",),
}
_FIXED = ("residual",)  # a network with another value is another network


def describe(model: Module) -> str:
    """Return these attributes of a model's layers as JSON, by the layers' names."""
    return json.dumps(_attributes(model), default=_plain)


def parse(model: Module, text: str) -> dict[str, dict[str, Any]]:
    """Return the attributes that `describe` has written of such a model; nothing but numbers is taken from the text.

    Raises:
        UserError: the text is damaged, describes a network with other layers, or sets a value that a file may not set.
    """
    mine = _attributes(model)
    try:
        given = json.loads(text)
        if not isinstance(given, dict) or given.keys() != mine.keys():
            other = some(sorted(given.keys() ^ mine.keys())) if isinstance(given, dict) else "all"
            raise UserError(
                f"it is of a network with other layers than this {type(model).__name__} ({other}): create the model "
                "with the options of that one, and for weights of Keras call interop.as_keras on it"
            )
        return {
            layer: {name: _value(f"{layer}.{name}", given[layer][name], own) for name, own in attributes.items()}
            for layer, attributes in mine.items()
        }
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"what it says of layers is damaged ({type(error).__name__}: {error})") from error


def apply(model: Module, attributes: dict[str, dict[str, Any]]) -> None:
    """Set attributes of a model's layers, as `parse` has them."""
    for path, layer in nnx.iter_modules(model):
        for name, value in attributes.get(path_name(path), {}).items():
            setattr(layer, name, value)


def _attributes(model: Module) -> dict[str, dict[str, Any]]:
    return {
        path_name(path): {name: getattr(layer, name) for name in names}
        for path, layer in nnx.iter_modules(model)
        for kind, names in _ATTRIBUTES.items()
        if isinstance(layer, kind)
    }


def _value(name: str, given: Any, own: Any) -> Any:
    if name.endswith(_FIXED) and given != own:
        raise UserError(f"{name} is {given!r}, where the model has {own!r}: it is of another network")
    if isinstance(given, list):
        return tuple(_value(name, part, None) for part in given)
    if given in PADDING_NAMES or (isinstance(given, int | float) and 0 <= given <= LARGEST):
        return given
    if isinstance(given, str) and given == _plain(own):
        return own
    raise UserError(
        f"{name} is {given!r}, where the model has {_plain(own)}: a file sets numbers from 0 to {LARGEST} and names of "
        "paddings alone; for weights of Keras call interop.as_keras on the model before"
    )


def _plain(value: Any) -> Any:
    """Return a number of NumPy as Python's, a function as its name, and anything else as text."""
    return value.item() if hasattr(value, "item") else getattr(value, "__name__", str(value))
