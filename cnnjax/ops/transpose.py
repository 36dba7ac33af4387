"""Transposed convolution: learnable upsampling, the gradient of a convolution with respect to its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints
from cnnjax.ops.conv_primitives import spread_by_convolution
from cnnjax.ops.precision import add_bias

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def conv_transpose2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o_per_group"],
    bias: Float[Array, " o"] | None = None,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Float[Array, "n oh ow o"]:
    """Add a copy of the kernel, scaled by every pixel, to the output.

    `y[n, i*s + a*d - p, j*s + b*d - p, o] += x[n, i, j, c] * kernel[a, b, c, o]`, where o runs over the output channels
    of c's group: `torch.nn.functional.conv_transpose2d`.

    Args:
        x: images (batch, height, width, in).
        kernel: (height, width, in, out / groups).
        bias: (out,), added to every pixel.
        stride: pixels between two copies of the kernel.
        padding: pixels cut off on each side.
        output_padding: pixels added after the last, less than the stride or the dilation.
        dilation: pixels between two taps.
        groups: channels are split into this many groups that do not see each other.

    Returns:
        (batch, out_height, out_width, out) of x's dtype; sizes as `geometry.conv_transpose_output_size`.

    Raises:
        ValueError: ranks, channels, groups or sizes that do not fit.

    Source: Dumoulin & Visin (2016), chapter 4.
    """
    x = arguments.image("x", x)
    kernel = arguments.kernel("kernel", kernel, axes="height, width, in, out / groups").astype(x.dtype)
    groups = arguments.integer("groups", groups, 1)
    channels, outs = x.shape[3], kernel.shape[3] * groups
    if channels % groups:
        raise ValueError(f"x has {channels} channels, not divisible by groups={groups}")
    if kernel.shape[2] != channels:
        raise ValueError(f"kernel of shape {kernel.shape} takes {kernel.shape[2]} channels, but x has {channels}")
    strides, dilations = arguments.pair("stride", stride, 1), arguments.pair("dilation", dilation, 1)
    paddings, extras = arguments.pair("padding", padding, 0), arguments.pair("output_padding", output_padding, 0)
    if any(extra >= max(s, d) for extra, s, d in zip(extras, strides, dilations, strict=True)):
        raise ValueError(f"output_padding={extras} must be less than stride={strides} or dilation={dilations}")
    height, width = (
        (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for size, k, s, p, d, extra in zip(
            arguments.spatial(x), arguments.spatial(kernel, 0), strides, paddings, dilations, extras, strict=True
        )
    )
    if min(height, width) < 1:
        raise ValueError(f"padding={paddings} leaves no output, a size of {(height, width)}: use less padding")
    arguments.check_size("stride", strides, (x.shape[0], height, width, outs))
    bias = None if bias is None else arguments.vector("bias", bias, outs, "output channel")
    y = spread_by_convolution(
        x, kernel, output_size=(height, width), stride=strides, padding=paddings, dilation=dilations, groups=groups
    )
    return y if bias is None else add_bias(y, bias)
