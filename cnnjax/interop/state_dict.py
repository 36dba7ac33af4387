"""Weights under torch's names and in its layouts, into a model and out of it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.interop.names import RENAMES
from cnnjax.nn import BatchNorm, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear, Module, path_name

SHOWN = 5  # keys of each kind that a message lists
_NORM = {"scale": "weight", "mean": "running_mean", "var": "running_var"}
_KERNEL = {"kernel": "weight"}
_LEAVES: dict[type, dict[str, str]] = {
    Conv: _KERNEL,
    ConvTranspose: _KERNEL,
    Linear: _KERNEL,
    BatchNorm: _NORM,
    GroupNorm: _NORM,
    LayerNorm: _NORM,
}


class Slot(NamedTuple):
    """Where an array of a state dict belongs: the layer, the name of its variable, and the variable."""

    layer: nnx.Module
    name: str
    variable: nnx.Variable[Any]


def load_torch(model: Module, state_dict: Mapping[str, Any]) -> None:
    """Put the arrays of a torch state dict into a model of that architecture.

    Every key is used exactly once, and every shape is checked before anything is changed. torch's counters
    `num_batches_tracked` have no place here and are passed over.

    Args:
        model: the network; its parameters and batch statistics are replaced.
        state_dict: arrays or tensors under torchvision's or timm's own key names.

    Raises:
        ValueError: a key is missing, unknown or of another shape, or an array holds a NaN; each is listed.
    """
    slots = dict(_slots(model))
    given = {key: _array(value) for key, value in state_dict.items() if not key.endswith("num_batches_tracked")}
    expected = {key: _torch_shape(slot) for key, slot in slots.items()}
    problems = {
        "missing": [key for key in slots if key not in given],
        "not in the model": [key for key in given if key not in slots],
        "of another shape": [
            f"{key} {given[key].shape} instead of {shape}"
            for key, shape in expected.items()
            if key in given and given[key].shape != shape
        ],
        "not a number in": [key for key, array in given.items() if np.isnan(array).any()],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"these are not the weights of this {type(model).__name__}: {listed}")
    for key, slot in slots.items():
        slot.variable.set_value(jnp.asarray(_from_torch(slot, given[key]), slot.variable.get_value().dtype))


def to_torch(model: Module) -> dict[str, np.ndarray]:
    """Return parameters and batch statistics as torch has them: its names, its layouts."""
    return {key: np.ascontiguousarray(_to_torch(slot, np.asarray(slot.variable[...]))) for key, slot in _slots(model)}


def _slots(model: Module) -> Iterator[tuple[str, Slot]]:
    """Yield every parameter and statistic with its key in torch's state dict."""
    renames = RENAMES.get(type(model).__name__, ())
    for path, layer in nnx.iter_modules(model):
        leaves = next((_LEAVES[kind] for kind in type(layer).__mro__ if kind in _LEAVES), {})
        for name, value in vars(layer).items():
            if isinstance(value, nnx.Param | nnx.BatchStat):
                key = path_name((*path, leaves.get(name, name)))
                for pattern, replacement in renames:
                    key = re.sub(pattern, replacement, key)
                yield key, Slot(layer, name, value)


def _to_torch(slot: Slot, array: Any) -> Any:
    layer = slot.layer
    if slot.name != "kernel":
        return array
    if isinstance(layer, Conv):  # (kh, kw, in, out) -> (out, in, kh, kw)
        return array.transpose(3, 2, 0, 1)
    if isinstance(layer, ConvTranspose):  # (kh, kw, in, out) -> (in, out, kh, kw)
        return array.transpose(2, 3, 0, 1)
    if isinstance(layer, Linear) and layer.image_shape:  # torch flattens channels first
        return array.reshape(*layer.image_shape, -1).transpose(3, 2, 0, 1).reshape(-1, layer.in_features)
    return array.T


def _torch_shape(slot: Slot) -> tuple[int, ...]:
    shape: tuple[int, ...] = jax.eval_shape(lambda array: _to_torch(slot, array), slot.variable.get_value()).shape
    return shape


def _from_torch(slot: Slot, array: np.ndarray) -> np.ndarray:
    layer = slot.layer
    if slot.name != "kernel":
        return array
    if isinstance(layer, Conv):
        return array.transpose(2, 3, 1, 0)
    if isinstance(layer, ConvTranspose):
        return array.transpose(2, 3, 0, 1)
    if isinstance(layer, Linear) and layer.image_shape:
        height, width, channels = layer.image_shape
        return array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(layer.in_features, -1)
    return array.T


def _array(value: Any) -> np.ndarray:
    """A torch tensor of any float type on any device, or whatever NumPy takes."""
    return value.detach().cpu().float().numpy() if hasattr(value, "detach") else np.asarray(value)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
