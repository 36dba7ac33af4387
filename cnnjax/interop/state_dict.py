"""Weights under torch's names and in its layouts, into a model and out of it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cnnjax.interop.entries import fitting_prefix, under, unwrapped, weights_in
from cnnjax.interop.names import OLDER, Naming, namings, rename
from cnnjax.interop.slots import Slot, as_numpy, check, configure, slots
from cnnjax.nn import BatchNorm, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear, Module

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


def load_torch(
    model: Module, state_dict: Mapping[str, Any], *, entry: str | None = None, prefix: str | None = None
) -> None:
    """Put the arrays of a torch state dict into a model of that architecture.

    Every key is used exactly once, and every shape is checked before anything is changed. torch's counters
    `num_batches_tracked` are ignored. Words that wrappers put before all keys or into them are removed ("module.",
    "_orig_mod.", "model."), and names of the densenets published in 2017 (norm.1) are understood. Where timm uses
    another `eps` than torchvision (MobileNetV3 and EfficientNet), loading weights under its names sets it. Other
    settings of an earlier load or of `as_keras` remain, so load weights of another origin into a new model. timm's
    networks ported from TensorFlow (tf_...) have the same names as its others but other settings, which
    `from_pretrained` sets.

    Args:
        model: the network; its parameters and batch statistics are replaced.
        state_dict: arrays or tensors of any float type under torchvision's or timm's own key names; or a checkpoint
            that has them in an entry, such as "model_state_dict", beside an optimiser's.
        entry: which entry of a checkpoint, where several have weights: "state_dict_ema".
        prefix: use only the keys that begin with it, and ignore the others: "model." of Lightning's checkpoints of
            modules with more in them than the network.

    Raises:
        UserError: it is not a mapping from names, there is no such entry or prefix, or several entries have weights.
        ValueError: a key is missing, unknown or of another shape, or an array holds a NaN or infinity; each is listed.
    """
    state = weights_in(state_dict, entry)
    state = state if prefix is None else under(state, prefix)
    known = [(naming, dict(_named(model, naming))) for naming in namings(model)]
    names = [targets.keys() for _, targets in known]
    named = unwrapped(state, names, OLDER.get(type(model).__name__, ()))
    given = {key: as_numpy(value) for key, value in named.items()}
    naming, targets = max(known, key=lambda each: len(each[1].keys() & given.keys()))
    fitting = None if targets.keys() == given.keys() else fitting_prefix(state, names)
    hint = f"; those under {fitting!r} fit: give `prefix={fitting!r}` to ignore the others" if fitting else ""
    check(model, {key: _shape(naming, key, slot) for key, slot in targets.items()}, given, hint)
    for key, slot in targets.items():
        slot.fill(_from_torch(slot, given[key].reshape(_torch_shape(slot))))
    configure(model, naming.settings)


def to_torch(model: Module) -> dict[str, np.ndarray]:
    """Return parameters and batch statistics as torch has them: its names, its layouts."""
    torchvision = namings(model)[0]
    return {
        key: np.ascontiguousarray(_to_torch(slot, np.asarray(slot.variable[...])))
        for key, slot in _named(model, torchvision)
    }


def _named(model: Module, naming: Naming) -> Iterator[tuple[str, Slot]]:
    """Yield every parameter and statistic with its key in the state dict."""
    for path, slot in slots(model):
        leaves = next((_LEAVES[kind] for kind in type(slot.layer).__mro__ if kind in _LEAVES), {})
        leaf = leaves.get(slot.name, slot.name)
        yield rename(f"{path}.{leaf}" if path else leaf, naming.renames), slot


def _shape(naming: Naming, key: str, slot: Slot) -> tuple[int, ...]:
    """Return the library's shape: torch's for such a layer, unless its network has another kind of layer there."""
    for pattern, shape in naming.shapes:
        if re.search(pattern, key):
            return shape(slot)
    return _torch_shape(slot)


def _axes(slot: Slot) -> tuple[int, ...]:
    """The axes of a variable in torch's order."""
    count = len(slot.shape)
    if slot.name != "kernel":
        return tuple(range(count))
    if isinstance(slot.layer, Conv):  # (kh, kw, in, out) -> (out, in, kh, kw)
        return (3, 2, 0, 1)
    if isinstance(slot.layer, ConvTranspose):  # (kh, kw, in, out) -> (in, out, kh, kw)
        return (2, 3, 0, 1)
    return tuple(reversed(range(count)))


def _torch_shape(slot: Slot) -> tuple[int, ...]:
    return tuple(slot.shape[axis] for axis in _axes(slot))


def _to_torch(slot: Slot, array: np.ndarray) -> np.ndarray:
    layer = slot.layer
    if slot.name == "kernel" and isinstance(layer, Linear) and layer.image_shape:  # torch flattens channels first
        return array.reshape(*layer.image_shape, -1).transpose(3, 2, 0, 1).reshape(-1, layer.in_features)
    return array.transpose(_axes(slot))


def _from_torch(slot: Slot, array: np.ndarray) -> np.ndarray:
    layer = slot.layer
    if slot.name == "kernel" and isinstance(layer, Linear) and layer.image_shape:
        height, width, channels = layer.image_shape
        return array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(layer.in_features, -1)
    return array.transpose(np.argsort(_axes(slot)))
