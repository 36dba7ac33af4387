"""Sequences of layers and functions as layers, with the names of weights and feature maps that users know."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import nnx

from cnnjax.nn.module import Module


class Sequential(Module):
    """Call layers one after another.

    Args:
        *layers: named "0", "1", ...
        **named: layers with names of their own, called after those.
    """

    def __init__(self, *layers: Module, **named: Module):
        self.names = (*map(str, range(len(layers))), *named)
        self.layers = nnx.Dict(dict(zip(self.names, (*layers, *named.values()), strict=True)))

    def __iter__(self) -> Iterator[Module]:
        return (self.layers[name] for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Module:
        layer: Module = self.layers[self.names[index]]
        return layer

    def __setitem__(self, index: int, layer: Module) -> None:
        self.layers[self.names[index]] = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self:
            x = layer(x)
        return x


class Activation(Module):
    """A function of an array as a layer, `Activation(nnx.relu)`."""

    def __init__(self, function: Callable[[jax.Array], jax.Array]):
        self.function = function

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


class Identity(Module):
    """Return the input."""

    def __call__(self, x: Any) -> Any:
        return x


def path_name(path: tuple[Any, ...]) -> str:
    """Return the name of a module or array by its path in a model: "layer1.0.conv1".

    The layers of a `Sequential` are direct children of it.
    """
    return ".".join(str(part) for part in path if part != "layers")
