"""Intermediate outputs of a network: the feature maps of its layers, by their names."""

from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx

from cnnjax.errors import UserError, unknown_name
from cnnjax.nn import Module, path_name, watch_calls


def features(model: Module, x: jax.Array, names: Iterable[str]) -> dict[str, Any]:
    """Return the outputs of the named layers for images x; jit and grad apply, and the network is not changed.

    In training mode, as `create_model` returns it, the outputs use this batch's statistics and dropout.

    Args:
        model: the network.
        x: images (batch, height, width, channels).
        names: of layers or blocks, as `summary` lists them and as torch names them: "layer2.0", "features.16"; "" is
            the network itself. A layer that is called several times gives its last output.

    Raises:
        UserError: names is not a list, a layer does not exist (the nearest are suggested), or it is not called.
    """
    model = nnx.merge(*nnx.split(model), copy=True)  # whose batch statistics may be those of a trace
    layers = {path_name(path): module for path, module in nnx.iter_modules(model) if isinstance(module, Module)}
    if isinstance(names, str):
        raise UserError(f"names must be a list of layers, got {names!r}: write [{names!r}]")
    wanted = list(names)
    for name in wanted:
        if name not in layers:
            raise unknown_name(f"layer of {type(model).__name__}", name, layers)
    names_of = {id(layers[name]): name for name in wanted}
    found: dict[str, Any] = {}

    def watch(module: Module, x: Any, y: Any) -> None:
        if id(module) in names_of:
            found[names_of[id(module)]] = y

    with watch_calls(watch):
        model(x)
    for name in wanted:
        if name not in found:
            raise UserError(
                f"{type(model).__name__} does not call its layer {name!r} here: it only holds others, as summary "
                "lists them, or belongs to an auxiliary classifier, which is called in training alone"
            )
    return {name: found[name] for name in wanted}
