"""Blocks that several architectures share: normalised convolutions, squeeze-and-excitation, inverted residuals.

Layers have torchvision's names and nesting, so that its weights fit.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.nn import Activation, BatchNorm, Conv, GlobalAvgPool, Identity, Module, Sequential, StochasticDepth
from cnnjax.ops.cpu.fusion import stored_on_cpu
from cnnjax.ops.precision import in_single_precision

Function = Callable[[jax.Array], jax.Array]
Norm = Callable[[int], Module]  # a normalisation of so many channels

# Recomputed in the backward pass from x alone; otherwise each intermediate result (erfc, exp) would be stored for it
# (EfficientNet-B1's training step needs 1.9 GB instead of 2.5, ConvNeXt-T's 2.6 instead of 3.7).
silu = jax.checkpoint(nnx.silu)
gelu = jax.checkpoint(partial(nnx.gelu, approximate=False))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Return the multiple of `divisor` that is nearest to `channels`, or the next one if that is over 10% less.

    Source: the code published with Sandler et al., "MobileNetV2" (2018).
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def stage(
    block: Callable[[int, int, int], Module], in_channels: int, out_channels: int, depth: int, stride: int
) -> list[Module]:
    """Return `depth` blocks (in_channels, out_channels, stride); only the first changes channels and size."""
    first = block(in_channels, out_channels, stride)
    return [first, *(block(out_channels, out_channels, 1) for _ in range(depth - 1))]


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Interleave `groups` groups of channels: output channel `c * groups + g` is channel c of group g.

    Between two grouped convolutions, it gives every group of the second some channels from every group of the first.

    Args:
        x: images (..., channels).
        groups: divides the channels.

    Source: Zhang et al., "ShuffleNet" (2017).
    """
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).swapaxes(-1, -2).reshape(x.shape)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    norm: Norm = BatchNorm,
    activation: Function | None = nnx.relu,
    init: str = "he_normal_fan_out",
    rngs: nnx.Rngs,
) -> Sequential:
    """Return a convolution without bias, padded by half its kernel, a normalisation, and an optional activation."""
    conv = Conv(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        kernel_size // 2,
        groups=groups,
        bias=False,
        init=init,
        rngs=rngs,
    )
    return Sequential(conv, norm(out_channels), *([Activation(activation)] if activation else []))


class SqueezeExcitation(Module):
    """Weigh each channel by what all channels are on average: `x * gate(fc2(activation(fc1(mean(x)))))`.

    Args:
        channels: of the images.
        squeezed: channels between the two layers.
        activation: after the first layer.
        gate: after the second, to weights from 0 to 1.
        rngs: source of the initial parameters.

    Source: Hu, Shen & Sun, "Squeeze-and-excitation networks" (2017).
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        *,
        activation: Function = nnx.relu,
        gate: Function = nnx.sigmoid,
        rngs: nnx.Rngs,
    ):
        self.avgpool = GlobalAvgPool()
        self.fc1 = Conv(channels, squeezed, 1, init="he_normal_fan_out", rngs=rngs)
        self.fc2 = Conv(squeezed, channels, 1, init="he_normal_fan_out", rngs=rngs)
        self.activation, self.gate = activation, gate

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = self.avgpool(x)[:, None, None, :]
        return in_single_precision(jnp.multiply)(x, self.gate(self.fc2(self.activation(self.fc1(mean)))))


class Residual(Module):
    """`x + block(x)`, or `block(x)` where the shapes differ.

    Args:
        block: the layers beside the shortcut.
        shortcut: whether there is one.
        drop_path: share of the images that take only the shortcut in training.
        rngs: source of the random numbers.
    """

    def __init__(self, block: Sequential, shortcut: bool, drop_path: float = 0.0, *, rngs: nnx.Rngs):
        self.block, self.shortcut = block, shortcut
        self.stochastic_depth = StochasticDepth(drop_path, rngs=rngs) if shortcut and drop_path else Identity()

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.block(x)
        if not self.shortcut:
            return y
        # XLA:CPU would compute the sum again in whatever reads it: EfficientNet-B0's training step in 174 ms, not 135.
        return stored_on_cpu(jnp.add, x, self.stochastic_depth(y))


class InvertedResidual(Residual):
    """Expand the channels with a 1x1 convolution, filter each on its own, weigh them, and project them to few channels.

    The shortcut connects the thin ends, if size and channels are the same. The projection has no activation.

    Args:
        in_channels: of the input.
        expanded: channels of the depthwise convolution; if equal to `in_channels`, there is no expansion.
        out_channels: of the projection.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        excitation: what weighs the filtered channels, or None.
        norm: after each convolution.
        activation: after the first two.
        drop_path: share of the images that take only the shortcut in training.
        rngs: source of the initial parameters.

    Source: Sandler et al., "MobileNetV2" (2018); with excitation Tan et al., "MnasNet" (2018).
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        excitation: SqueezeExcitation | None,
        norm: Norm,
        activation: Function,
        drop_path: float = 0.0,
        rngs: nnx.Rngs,
    ):
        layers: list[Module] = []
        if expanded != in_channels:
            layers.append(conv_norm(in_channels, expanded, 1, norm=norm, activation=activation, rngs=rngs))
        layers.append(
            conv_norm(
                expanded, expanded, kernel_size, stride, groups=expanded, norm=norm, activation=activation, rngs=rngs
            )
        )
        if excitation is not None:
            layers.append(excitation)
        layers.append(conv_norm(expanded, out_channels, 1, norm=norm, activation=None, rngs=rngs))
        super().__init__(Sequential(*layers), stride == 1 and in_channels == out_channels, drop_path, rngs=rngs)
