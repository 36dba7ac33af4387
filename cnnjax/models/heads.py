"""Adapt a network to other classes: only the layers that compute the logits are replaced."""

from typing import Any

from flax import nnx

from cnnjax.errors import UserError
from cnnjax.nn import Conv, Linear, Module, path_name, replace_module


def replace_head(model: Module, num_classes: int, *, seed: int = 0) -> None:
    """Replace the layers that compute the logits by freshly initialised ones for `num_classes` classes.

    For fine-tuning: load weights, replace the head, and train with `Recipe(freeze=...)` or
    `Recipe(lr_factors=...)` for the rest. Auxiliary classifiers are replaced too.

    Args:
        model: the network; the names of its last layers are `model.heads`.
        num_classes: number of logits.
        seed: seed of the initial parameters.

    Raises:
        UserError: the network has no classifier, or no layer of the name in its `heads`.
        ValueError: num_classes is below 1.
    """
    if not model.heads:
        raise UserError(f"{type(model).__name__} has no classifier whose last layer could be replaced")
    paths = {path_name(path): path for path, _ in nnx.iter_modules(model)}
    modules = dict(nnx.iter_modules(model))
    if model.heads[0] not in paths:
        raise UserError(f"{type(model).__name__}.heads names {model.heads[0]!r}, and it has no such layer")
    rngs = nnx.Rngs(seed)
    for name in model.heads:
        if name in paths:  # auxiliary classifiers can be left out
            replace_module(model, paths[name], _like(modules[paths[name]], num_classes, rngs))


def _like(layer: Any, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    if hasattr(layer, "for_classes"):  # a layer from classes to classes
        new: nnx.Module = layer.for_classes(outputs, rngs)
        return new
    if isinstance(layer, Linear):
        inputs = layer.image_shape or layer.in_features
        return Linear(inputs, outputs, layer.bias is not None, init=layer.init, rngs=rngs)
    if isinstance(layer, Conv):  # a map for each class
        kernel, padding = layer.kernel_size, layer.padding
        return Conv(
            layer.in_channels, outputs, kernel, 1, padding, bias=layer.bias is not None, init=layer.init, rngs=rngs
        )
    raise TypeError(f"a head is a linear layer or a convolution, not a {type(layer).__name__}")
