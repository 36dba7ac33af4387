"""Layers with the arguments of their `torch.nn` namesakes, on NHWC images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from flax import nnx

from cnnjax import ops
from cnnjax.nn.initializers import next_key, scheme
from cnnjax.nn.module import Module
from cnnjax.ops.arguments import Ints, Padding, integer, pair
from cnnjax.ops.precision import add_bias

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Conv(Module):
    """`ops.conv2d` with its kernel and bias.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps, an integer or (height, width).
        stride: pixels between two windows.
        padding: as `ops.conv2d`.
        dilation: pixels between two taps.
        groups: number of channel groups that are convolved independently.
        bias: whether a bias is added.
        padding_mode: as `ops.conv2d`.
        init: name in `nn.SCHEMES`.
        rngs: source of the initial parameters.

    Raises:
        ValueError: an argument is out of range, or channels do not divide into groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        init: str = "torch",
        rngs: nnx.Rngs,
    ):
        _check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.padding, self.dilation, self.padding_mode = stride, padding, dilation, padding_mode
        self.init = init
        fan_in = math.prod(self.kernel_size) * in_channels // groups
        shape = (*self.kernel_size, in_channels // groups, out_channels)
        self.kernel = nnx.Param(scheme(init).kernel(next_key(rngs.params), shape))
        self.bias = nnx.Param(scheme(init).bias(fan_in)(next_key(rngs.params), (out_channels,))) if bias else None

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow k"]:
        return ops.conv2d(
            x,
            self.kernel[...],
            None if self.bias is None else self.bias[...],
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
        )


class DepthwiseConv(Conv):
    """`Conv` with a group for every input channel, and `multiplier` outputs a channel."""

    def __init__(self, in_channels: int, kernel_size: Ints, multiplier: int = 1, *, rngs: nnx.Rngs, **options: Any):
        integer("multiplier", multiplier, 1)
        super().__init__(in_channels, in_channels * multiplier, kernel_size, groups=in_channels, rngs=rngs, **options)


class SeparableConv(Module):
    """A `DepthwiseConv` without bias, then a 1x1 `Conv` that mixes the channels.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: taps of the depthwise convolution.
        multiplier: depthwise outputs for every input channel.
        bias: whether the 1x1 convolution adds one.
        init: name in `nn.SCHEMES`.
        rngs: source of the initial parameters.
        **options: stride, padding, dilation and padding_mode of the depthwise convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        multiplier: int = 1,
        bias: bool = True,
        *,
        init: str = "torch",
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.depthwise = DepthwiseConv(
            in_channels, kernel_size, multiplier, bias=False, init=init, rngs=rngs, **options
        )
        self.pointwise = Conv(in_channels * multiplier, out_channels, 1, bias=bias, init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow k"]:
        return self.pointwise(self.depthwise(x))


class ConvTranspose(Module):
    """`ops.conv_transpose2d` with its kernel and bias, and the arguments of `torch.nn.ConvTranspose2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        *,
        init: str = "torch",
        rngs: nnx.Rngs,
    ):
        _check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.padding, self.output_padding, self.dilation = stride, padding, output_padding, dilation
        # torch computes the fan-in from its weight (in, out / groups, kh, kw) without the first axis.
        fan_in = math.prod(self.kernel_size) * out_channels // groups
        shape = (*self.kernel_size, in_channels, out_channels // groups)
        swapped = scheme(init).kernel(next_key(rngs.params), (*self.kernel_size, out_channels // groups, in_channels))
        self.kernel = nnx.Param(swapped.swapaxes(2, 3).reshape(shape))
        self.bias = nnx.Param(scheme(init).bias(fan_in)(next_key(rngs.params), (out_channels,))) if bias else None

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow k"]:
        return ops.conv_transpose2d(
            x,
            self.kernel[...],
            None if self.bias is None else self.bias[...],
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class Linear(Module):
    """Fully connected layer on the last axis, `y = x @ kernel + bias`.

    Args:
        in_features: size of the input's last axis; or (height, width, channels) of images, which are flattened.
        out_features: size of the output's last axis.
        bias: whether a bias is added.
        init: name in `nn.SCHEMES`.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        in_features: int | tuple[int, int, int],
        out_features: int,
        bias: bool = True,
        *,
        init: str = "torch",
        rngs: nnx.Rngs,
    ):
        self.image_shape = in_features if isinstance(in_features, tuple) else None
        size = math.prod(in_features) if isinstance(in_features, tuple) else in_features
        self.in_features = integer("in_features", size, 1)
        self.out_features = integer("out_features", out_features, 1)
        self.init = init
        self.kernel = nnx.Param(scheme(init).kernel(next_key(rngs.params), (size, out_features)))
        self.bias = nnx.Param(scheme(init).bias(size)(next_key(rngs.params), (out_features,))) if bias else None

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n ... k"]:
        if self.image_shape and x.shape[1:] == self.image_shape:
            x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        if x.shape[-1] != self.in_features:
            raise ValueError(f"expected {self.in_features} features on the last axis of x, got shape {x.shape}")
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else add_bias(y, self.bias[...])


class Flatten(Module):
    """Images (batch, ...) to vectors (batch, features), rows first and channels last."""

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n f"]:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    for name, value in {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}.items():
        integer(name, value, 1)
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"in_channels={in_channels} and out_channels={out_channels} must both be divisible by groups={groups}"
        )
