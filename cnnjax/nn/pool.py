"""Layers without parameters that change the size of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnjax import ops
from cnnjax.nn.module import Module
from cnnjax.ops.arguments import Ints

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


class MaxPool(Module):
    """`ops.max_pool2d`; the stride defaults to the window.

    With `return_indices` it is `ops.max_pool2d_with_indices` and gives (values, indices), for `MaxUnpool`; windows
    without gaps and sizes rounded down only.
    """

    pool = staticmethod(ops.max_pool2d)

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        if return_indices and (dilation not in (1, (1, 1)) or ceil_mode):
            raise ValueError(f"return_indices takes dilation=1 and ceil_mode=False, got {dilation} and {ceil_mode}")
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.return_indices, self.ceil_mode = dilation, return_indices, ceil_mode

    def __call__(self, x: Float[Array, "n h w c"]) -> Any:  # a union would have to be narrowed after every pooling
        if self.return_indices:
            return ops.max_pool2d_with_indices(x, self.kernel_size, stride=self.stride, padding=self.padding)
        return self.pool(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )


class MinPool(MaxPool):
    """`ops.min_pool2d`, with the arguments of `MaxPool` but its indices."""

    pool = staticmethod(ops.min_pool2d)

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
    ):
        super().__init__(kernel_size, stride, padding, dilation, False, ceil_mode)


class AvgPool(Module):
    """`ops.avg_pool2d`; the stride defaults to the window."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
        return ops.avg_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )


class LPPool(Module):
    """`ops.lp_pool2d`; the stride defaults to the window."""

    def __init__(self, norm_type: float, kernel_size: Ints, stride: Ints | None = None):
        self.norm_type, self.kernel_size, self.stride = norm_type, kernel_size, stride

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
        return ops.lp_pool2d(x, self.kernel_size, self.norm_type, stride=self.stride)


class GlobalAvgPool(Module):
    """`ops.global_avg_pool2d`: images to (batch, channels)."""

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
        return ops.global_avg_pool2d(x)


class GlobalMaxPool(Module):
    """`ops.global_max_pool2d`: images to (batch, channels)."""

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
        return ops.global_max_pool2d(x)


class AdaptiveAvgPool(Module):
    """`ops.adaptive_avg_pool2d`."""

    def __init__(self, output_size: Ints):
        self.output_size = output_size

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
        return ops.adaptive_avg_pool2d(x, self.output_size)


class MaxUnpool(Module):
    """`ops.max_unpool2d`, called with values and the indices of `ops.max_pool2d_with_indices`."""

    def __init__(self, output_size: Ints):
        self.output_size = output_size

    def __call__(self, y: Float[Array, "n h w c"], indices: Int[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
        return ops.max_unpool2d(y, indices, self.output_size)


class Upsample(Module):
    """`ops.upsample_nearest` or, with `mode="bilinear"`, `ops.upsample_bilinear`."""

    def __init__(self, scale: Ints, mode: str = "nearest", align_corners: bool = False):
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f"mode must be 'nearest' or 'bilinear', got {mode!r}")
        self.scale, self.mode, self.align_corners = scale, mode, align_corners

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
        if self.mode == "nearest":
            return ops.upsample_nearest(x, self.scale)
        return ops.upsample_bilinear(x, self.scale, align_corners=self.align_corners)


class BedOfNails(Module):
    """`ops.bed_of_nails`."""

    def __init__(self, scale: Ints):
        self.scale = scale

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
        return ops.bed_of_nails(x, self.scale)


class PixelShuffle(Module):
    """`ops.pixel_shuffle`."""

    def __init__(self, scale: Ints):
        self.scale = scale

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow k"]:
        return ops.pixel_shuffle(x, self.scale)
