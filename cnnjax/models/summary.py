"""The table of a network's layers in Keras's format, with multiply-adds."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax import geometry
from cnnjax.nn import Conv, ConvTranspose, Linear, Module, path_name, watch_calls


class LayerRow(NamedTuple):
    """One line of a summary; the output shape is without the batch."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int


def layer_rows(model: Module, input_shape: tuple[int, ...]) -> list[LayerRow]:
    """Return a row for every layer that has no sub-layers or has parameters of its own, in the order of the calls.

    Nothing is computed: shapes are traced. A layer that is called twice has two rows, and the first
    counts its parameters. For a layer that returns several arrays, the shape is that of the first.

    Args:
        model: the network.
        input_shape: (height, width, channels).
    """
    graphdef, state = nnx.split(model)
    layers: dict[int, tuple[str, int]] = {}  # names and parameters
    rows: list[LayerRow] = []

    def watch(module: Module, x: Any, y: Any) -> None:
        if id(module) not in layers:
            return
        name, params = layers[id(module)]
        shape = jax.tree.leaves(y)[0].shape
        params = 0 if any(row.name == name for row in rows) else params
        rows.append(LayerRow(name, type(module).__name__, shape[1:], params, _macs(module, x, shape)))

    def trace(state: Any, x: jax.Array) -> None:
        copy = nnx.merge(graphdef, state)  # whose batch statistics may be those of a trace
        modules = {path: module for path, module in nnx.iter_modules(copy) if isinstance(module, Module)}
        outer = {path[:depth] for path in modules for depth in range(len(path))}
        for path, module in modules.items():
            own = sum(param.size for param in vars(module).values() if isinstance(param, nnx.Param))
            if own or path not in outer:
                layers[id(module)] = path_name(path), own if path in outer else count_params(module)
        with watch_calls(watch):
            copy(x)

    # Two images, because of one there are no batch statistics behind a global average (in DeepLabv3).
    jax.eval_shape(trace, state, jax.ShapeDtypeStruct((2, *input_shape), jnp.float32))
    return rows


def count_params(model: nnx.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def summary(model: Module, input_shape: tuple[int, ...]) -> str:
    """Return the table of a network's layers: output shape, parameters, multiply-adds for one image, and totals.

    Args:
        model: the network.
        input_shape: (height, width, channels) of one image.
    """
    rows = layer_rows(model, input_shape)
    cells = [("Layer (type)", "Output Shape", "Param #", "Multiply-adds")]
    cells += [
        (f"{row.name} ({row.kind})", str((None, *row.output_shape)), f"{row.params:,}", f"{row.macs:,}") for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        f"{layer:<{widths[0]}}  {shape:<{widths[1]}}  {params:>{widths[2]}}  {macs:>{widths[3]}}"
        for layer, shape, params, macs in cells
    ]
    rule = "-" * len(lines[0])
    trainable = count_params(model)
    other = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.BatchStat)))
    return "\n".join(
        [
            f'Model: "{type(model).__name__}"',
            rule,
            lines[0],
            rule,
            *lines[1:],
            rule,
            f"Total params: {trainable + other:,}",
            f"Trainable params: {trainable:,}",
            f"Non-trainable params: {other:,}",
            f"Total multiply-adds: {sum(row.macs for row in rows):,}",
        ]
    )


def _macs(module: Module, x: Any, output_shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of one layer for one image; layers without a product count none."""
    if isinstance(module, Conv):
        return geometry.conv_macs(
            (output_shape[1], output_shape[2]),
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            groups=module.groups,
        )
    if isinstance(module, ConvTranspose):  # every input pixel meets the whole kernel
        size = (x.shape[1], x.shape[2])
        return geometry.conv_macs(
            size, module.in_channels, module.out_channels, module.kernel_size, groups=module.groups
        )
    if isinstance(module, Linear):
        return math.prod(output_shape[1:-1]) * module.in_features * module.out_features
    return 0
