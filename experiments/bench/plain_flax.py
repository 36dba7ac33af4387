"""A network of ours as a Flax user would have built it: Flax's own layers in the same places, with the same weights."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from cnnjax.nn import AvgPool, BatchNorm, Conv, GlobalAvgPool, LayerNorm, MaxPool, Module, replace_module
from cnnjax.ops.arguments import Pair, pair, sides


def plain_flax(model: Module) -> Module:
    """Put Flax's convolutions, normalisations and poolings in place of a network's, and return it.

    Linear layers are matrix products in both, and stay; so do layers that Flax has not, such as adaptive pooling.
    """
    for path, layer in list(nnx.iter_modules(model)):
        convert = next((_LAYERS[kind] for kind in type(layer).__mro__ if kind in _LAYERS), None)
        if convert is not None:
            replace_module(model, path, convert(layer))
    return model


def _conv(layer: Conv) -> nnx.Conv:
    window, stride, dilation = layer.kernel_size, pair("stride", layer.stride, 1), pair("dilation", layer.dilation, 1)
    padding = layer.padding if layer.padding == "SAME" else sides(layer.padding, window, window, stride, dilation)
    conv = nnx.eval_shape(
        lambda: nnx.Conv(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            strides=stride,
            padding=padding,
            kernel_dilation=dilation,
            feature_group_count=layer.groups,
            use_bias=layer.bias is not None,
            rngs=nnx.Rngs(0),
        )
    )
    conv.kernel, conv.bias = layer.kernel, layer.bias
    return conv


def _batch_norm(layer: BatchNorm) -> nnx.BatchNorm:
    norm = nnx.BatchNorm(layer.num_features, momentum=1 - layer.momentum, epsilon=layer.eps, rngs=nnx.Rngs(0))
    norm.scale, norm.bias, norm.mean, norm.var = layer.scale, layer.bias, layer.mean, layer.var
    return norm


def _layer_norm(layer: LayerNorm) -> nnx.LayerNorm:
    norm = nnx.LayerNorm(layer.normalized_shape, epsilon=layer.eps, rngs=nnx.Rngs(0))
    norm.scale, norm.bias = layer.scale, layer.bias
    return norm


class _Pool(Module):
    """One of Flax's poolings, with what rounding sizes up adds at the end."""

    def __init__(self, pool: Callable[..., jax.Array], layer: MaxPool | AvgPool, **options: Any):
        self.pool, self.options, self.ceil_mode = pool, options, layer.ceil_mode
        self.window = pair("kernel_size", layer.kernel_size, 1)
        self.stride = pair("stride", layer.kernel_size if layer.stride is None else layer.stride, 1)
        self.padding = pair("padding", layer.padding, 0)

    def __call__(self, x: jax.Array) -> jax.Array:
        ends = self._missing((x.shape[1], x.shape[2])) if self.ceil_mode else (0, 0)
        padding = [(before, before + end) for before, end in zip(self.padding, ends, strict=True)]
        return self.pool(x, self.window, strides=self.stride, padding=padding, **self.options)

    def _missing(self, size: Pair) -> Pair:
        """Return how many pixels the last windows miss."""
        rows, columns = (
            -(n + 2 * p - k) % s for n, p, k, s in zip(size, self.padding, self.window, self.stride, strict=True)
        )
        return rows, columns


class _GlobalMean(Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.mean(axis=(1, 2))


_LAYERS: dict[type, Callable[[Any], nnx.Module]] = {
    Conv: _conv,
    BatchNorm: _batch_norm,
    LayerNorm: _layer_norm,
    MaxPool: lambda layer: _Pool(nnx.max_pool, layer),
    AvgPool: lambda layer: _Pool(nnx.avg_pool, layer, count_include_pad=layer.count_include_pad),
    GlobalAvgPool: lambda layer: _GlobalMean(),
}
