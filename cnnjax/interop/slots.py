"""The arrays of a model and the checks before any of them is replaced, for weights of every origin."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.nn import Module, path_name

SHOWN = 5  # keys of each kind that a message lists


class Slot(NamedTuple):
    """Where an array belongs: the layer, the name of its variable, and the variable."""

    layer: nnx.Module
    name: str
    variable: nnx.Variable[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's own shape."""
        shape: tuple[int, ...] = self.variable.get_value().shape
        return shape

    def fill(self, array: np.ndarray) -> None:
        """Replace the variable's value, and keep its dtype."""
        self.variable.set_value(jnp.asarray(array, self.variable.get_value().dtype))


class Setting(NamedTuple):
    """Static attributes to set on layers of one class whose names match, where a library's network differs."""

    kind: type[nnx.Module]
    attributes: Mapping[str, Any]
    pattern: str = ""


class MisfitError(ValueError):
    """Weights are not those of a network.

    Args:
        message: what does not fit.
        shapes: of every array of another shape, its own and the one that the network has.
    """

    def __init__(self, message: str, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]):
        super().__init__(message)
        self.shapes = shapes


def slots(model: Module) -> Iterator[tuple[str, Slot]]:
    """Yield every parameter and statistic with the name of its layer, "layer1.0.conv1"."""
    for path, layer in nnx.iter_modules(model):
        for name, value in vars(layer).items():
            if isinstance(value, nnx.Param | nnx.BatchStat):
                yield path_name(path), Slot(layer, name, value)


def as_numpy(value: Any) -> np.ndarray:
    """Return a torch tensor of any float type on any device, or whatever NumPy takes, as an array."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()  # NumPy has no bfloat16


def check(
    model: Module, expected: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray], hint: str = ""
) -> None:
    """Raise a MisfitError that lists what is missing, unknown, of another shape, or not finite numbers.

    Args:
        model: the network, for the message.
        expected: the shape of every array that there has to be.
        given: the arrays.
        hint: end of the message: what a user can do.
    """
    shapes = {
        key: (given[key].shape, shape) for key, shape in expected.items() if key in given and given[key].shape != shape
    }
    problems = {
        "missing": [key for key in expected if key not in given],
        "not in the model": [key for key in given if key not in expected],
        "of another shape": [f"{key} {own} instead of {shape}" for key, (own, shape) in shapes.items()],
        "of integers, as if quantised": [  # single ones are counters, such as of Keras's Normalization
            f"{key} {array.dtype}"
            for key, array in given.items()
            if array.ndim and jnp.issubdtype(array.dtype, jnp.integer)
        ],
        "not all finite numbers": [
            key
            for key, array in given.items()
            if not jnp.issubdtype(array.dtype, jnp.integer)
            and not (jnp.issubdtype(array.dtype, jnp.floating) and _finite(array))
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {some(keys)}" for kind, keys in problems.items() if keys)
        raise MisfitError(f"these are not the weights of this {type(model).__name__}: {listed}{hint}", shapes)


def _finite(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32)).all())  # as the model will have them


def configure(model: Module, settings: Iterable[Setting]) -> None:
    """Set static attributes of a model's layers; parameters and statistics stay as they are."""
    rows = list(settings)
    for path, layer in nnx.iter_modules(model):
        for kind, attributes, pattern in rows:
            if isinstance(layer, kind) and re.search(pattern, path_name(path)):
                for name, value in attributes.items():
                    setattr(layer, name, value)


def some(keys: list[str]) -> str:
    """Return the first keys, and how many more there are."""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
