"""Convolutions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints, Padding, Sides
from cnnjax.ops.conv_primitives import convolve
from cnnjax.ops.meshes import sharded_by_batch
from cnnjax.ops.precision import add_bias, in_single_precision

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
_LAYOUTS = {"NHWC": "HWIO", "NCHW": "OIHW"}


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c_per_group o"],
    bias: Float[Array, " o"] | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "NHWC",
) -> Float[Array, "n oh ow o"]:
    """Cross-correlate images with a kernel, as every deep-learning library's "convolution" does.

    `y[n, i, j, o] = bias[o] + sum_abc x[n, i*s + a*d - p, j*s + b*d - p, c] * kernel[a, b, c, o]`, where `c` runs over
    the input channels of o's group. `convolve2d` flips the kernel.

    Args:
        x: images (batch, height, width, channels), or (batch, channels, height, width) with `layout="NCHW"`.
        kernel: (height, width, channels / groups, out), or (out, channels / groups, height, width) with "NCHW".
        bias: (out,), added to every pixel.
        stride: pixels between two windows, an integer or (vertical, horizontal).
        padding: pixels added around the image: an integer, (vertical, horizontal), ((top, bottom), (left, right)), or
            "VALID" (none), "SAME" (XLA's), "HALF" (kernel // 2), "FULL" (dilation * (kernel - 1)).
        dilation: pixels between two taps of the kernel.
        groups: channels are split into this many groups that do not see each other.
        padding_mode: how the added pixels are filled: "zeros", "reflect", "replicate" or "circular".
        layout: "NHWC" with kernels HWIO, or "NCHW" with kernels OIHW; the output has the input's layout.

    Returns:
        (batch, out_height, out_width, out) of x's dtype; sizes as `geometry.conv_output_size`, rounded down.

    Raises:
        ValueError: ranks, channels, groups or sizes that do not fit, or an unknown name.

    Source: Dumoulin & Visin (2016).
    """
    if arguments.one_of("layout", layout, _LAYOUTS) == "NCHW":
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return _conv2d_of_nchw(x, kernel, bias, padding_mode=padding_mode, **options)
    x = arguments.image("x", x)
    kernel = arguments.kernel("kernel", kernel, axes="height, width, channels / groups, out").astype(x.dtype)
    groups = arguments.integer("groups", groups, 1)
    _check_channels(x.shape[3], kernel.shape, groups)
    stride = arguments.pair("stride", stride, 1)
    dilation = arguments.pair("dilation", dilation, 1)
    size, window = arguments.spatial(x), arguments.spatial(kernel, 0)
    sides = arguments.sides(padding, size, window, stride, dilation)
    arguments.check_fits(size, sides, window, dilation)
    padded = [s + before + after for s, (before, after) in zip(size, sides, strict=True)]
    arguments.check_size("padding", padding, (x.shape[0], *padded, x.shape[3]))
    if arguments.one_of("padding_mode", padding_mode, _PAD_MODES) != "zeros":
        x, sides = _pad(x, sides, padding_mode), ((0, 0), (0, 0))
    bias = None if bias is None else arguments.vector("bias", bias, kernel.shape[3], "output channel")
    y = convolve(x, kernel, stride=stride, padding=sides, dilation=dilation, groups=groups)
    return y if bias is None else add_bias(y, bias)


def convolve2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c_per_group o"],
    bias: Float[Array, " o"] | None = None,
    **options: Any,
) -> Float[Array, "n oh ow o"]:
    """Convolve images in the mathematical sense: `y(i, j) = sum_ab kernel(a, b) x(i - a, j - b)`.

    This is `conv2d` with the kernel flipped along both spatial axes; args, returns and raises as there.
    """
    axes = (2, 3) if options.get("layout") == "NCHW" else (0, 1)
    kernel = arguments.kernel("kernel", kernel, axes="height, width, channels / groups, out")
    return conv2d(x, jnp.flip(kernel, axes), bias, **options)


def depthwise_conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw 1 o"],
    bias: Float[Array, " o"] | None = None,
    **options: Any,
) -> Float[Array, "n oh ow o"]:
    """Filter every channel on its own: `conv2d` with as many groups as x has channels.

    Args:
        x: images (batch, height, width, in).
        kernel: (height, width, 1, in * multiplier); its `multiplier` outputs of each input channel lie together.
        bias: (in * multiplier,).
        **options: stride, padding, dilation, padding_mode and layout, as `conv2d`.

    Raises:
        ValueError: as `conv2d`.

    Source: Sifre, "Rigid-motion scattering for image classification" (2014).
    """
    x = arguments.image("x", x)
    return conv2d(x, kernel, bias, groups=x.shape[1 if options.get("layout") == "NCHW" else 3], **options)


def separable_conv2d(
    x: Float[Array, "n h w c"],
    depthwise: Float[Array, "kh kw 1 m"],
    pointwise: Float[Array, "1 1 m o"],
    bias: Float[Array, " o"] | None = None,
    **options: Any,
) -> Float[Array, "n oh ow o"]:
    """Filter every channel on its own, then mix the channels of each pixel.

    Args:
        x: images (batch, height, width, in).
        depthwise: (height, width, 1, in * multiplier).
        pointwise: (1, 1, in * multiplier, out).
        bias: (out,).
        **options: stride, padding, dilation and padding_mode of the depthwise convolution, as `conv2d`.

    Raises:
        ValueError: as `conv2d`.

    Source: Chollet, "Xception" (2017).
    """
    arguments.one_of("layout", options.get("layout", "NHWC"), ("NHWC",))
    x = arguments.image("x", x)
    depthwise = arguments.kernel("depthwise", depthwise, "height, width, 1, in * multiplier")
    pointwise = arguments.kernel("pointwise", pointwise, "1, 1, in * multiplier, out")
    if depthwise.shape[2] != 1 or depthwise.shape[3] % x.shape[3]:
        raise ValueError(f"depthwise must have shape (height, width, 1, {x.shape[3]} * n), got {depthwise.shape}")
    if pointwise.shape[:3] != (1, 1, depthwise.shape[3]):
        raise ValueError(f"pointwise must have shape (1, 1, {depthwise.shape[3]}, out), got {pointwise.shape}")
    return conv2d(depthwise_conv2d(x, depthwise, **options), pointwise, bias)


def _conv2d_of_nchw(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, **options: Any) -> jax.Array:
    x = jnp.moveaxis(arguments.image("x", x, axes="batch, channels, height, width"), 1, 3)
    kernel = arguments.kernel("kernel", kernel, axes="out, channels / groups, height, width").transpose(2, 3, 1, 0)
    return jnp.moveaxis(conv2d(x, kernel, bias, **options), 3, 1)


def _check_channels(channels: int, kernel_shape: tuple[int, ...], groups: int) -> None:
    if channels % groups:
        raise ValueError(f"x has {channels} channels, not divisible by groups={groups}")
    if kernel_shape[3] % groups:
        raise ValueError(f"kernel has {kernel_shape[3]} output channels, not divisible by groups={groups}")
    if kernel_shape[2] != channels // groups:
        raise ValueError(
            f"kernel takes {kernel_shape[2]} channels a group, but x has {channels} channels in groups={groups}: "
            f"expected x of {kernel_shape[2] * groups} channels, or a kernel that takes {channels // groups}"
        )


def _pad(x: jax.Array, sides: Sides, mode: str) -> jax.Array:
    """Pad images with their own pixels."""
    for axis, size, amounts in zip(("height", "width"), x.shape[1:3], sides, strict=True):
        limit = {"reflect": size - 1, "circular": size}.get(mode)
        if limit is not None and max(amounts) > limit:
            raise ValueError(
                f"padding={amounts} of {axis}: padding_mode={mode!r} allows at most {limit} for size {size}"
            )
    pad = partial(jnp.pad, pad_width=((0, 0), *sides, (0, 0)), mode=_PAD_MODES[mode])
    return sharded_by_batch(in_single_precision(pad))(x)
