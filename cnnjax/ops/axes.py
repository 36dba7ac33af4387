"""How the windows of a pool lie over an image."""

from typing import NamedTuple

import jax

from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints


class Axis(NamedTuple):
    """Windows along one axis: tap `a` of output `o` reads input `o * stride + a * dilation - padding`."""

    size: int
    window: int
    stride: int
    padding: int
    dilation: int
    out: int

    def position(self, output: int, tap: int) -> int:
        """Return the input position that a tap reads; outside of [0, size) it is padding."""
        return output * self.stride + tap * self.dilation - self.padding


def pool_axes(
    x: jax.Array, window: Ints, stride: Ints | None, padding: Ints, dilation: Ints = 1, ceil_mode: bool = False
) -> tuple[Axis, Axis]:
    """Check pooling arguments and return the rows' and columns' geometry.

    Raises:
        ValueError: naming the argument, its value and what was expected.
    """
    windows = arguments.pair("window", window, 1)
    strides = windows if stride is None else arguments.pair("stride", stride, 1)
    paddings, dilations = arguments.pair("padding", padding, 0), arguments.pair("dilation", dilation, 1)
    numbers = zip(arguments.spatial(x), windows, strides, paddings, dilations, strict=True)
    ceil_mode = arguments.flag("ceil_mode", ceil_mode)
    beyond = [stride - 1 if ceil_mode else 0 for stride in strides]  # how far the last window may reach out
    sides = ((paddings[0], paddings[0] + beyond[0]), (paddings[1], paddings[1] + beyond[1]))
    arguments.check_fits(arguments.spatial(x), sides, windows, dilations)
    rows, columns = (_axis(*axis, ceil_mode) for axis in numbers)
    return rows, columns


def _axis(size: int, window: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Axis:
    """Output size as in torch: floor or ceil, and no window starts beyond the input and its first padding."""
    extent = dilation * (window - 1) + 1
    if padding > extent // 2:
        raise ValueError(f"padding must be at most half the window's {extent} pixels, {extent // 2}, got {padding}")
    room = size + 2 * padding - extent
    out = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    within = (size + 2 * padding - 1) // dilation + 1  # taps beyond the padding are neither read nor counted
    return Axis(size, min(window, within), stride, padding, dilation, out)


def whole(size: int) -> Axis:
    """Return the geometry that leaves an axis as it is: windows of one pixel."""
    return Axis(size, 1, 1, 0, 1, size)
