"""Sizes, receptive fields, parameter and multiply-add counts: plain integers along one axis or for one layer.

No function runs a network; `tests/test_geometry.py` compares each of them with what the layers do.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import numpy as np


def conv_output_size(
    size: int, kernel: int, *, stride: int = 1, padding: int | tuple[int, int] = 0, dilation: int = 1
) -> int:
    """Output size of a convolution or pooling along one axis.

    `floor((size + before + after - dilation * (kernel - 1) - 1) / stride) + 1`: pixels at the border stay unused where
    the last step does not fit.

    Args:
        size: input size in pixels.
        kernel: window size in taps.
        stride: pixels between two windows.
        padding: pixels added on each side, or `(before, after)`.
        dilation: pixels between two taps of a window.

    Raises:
        ValueError: an argument is out of range, or the window is larger than the padded input.

    Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016).
    """
    size, kernel, stride, dilation = _at_least(1, size=size, kernel=kernel, stride=stride, dilation=dilation)
    before, after = (padding, padding) if not isinstance(padding, Sequence) else padding
    before, after = _at_least(0, **{"padding before": before, "padding after": after})
    window = dilation * (kernel - 1) + 1
    padded = size + before + after
    if window > padded:
        raise ValueError(
            f"the window spans {window} pixels (kernel={kernel}, dilation={dilation}) but the padded input has only "
            f"{padded} (size={size}, padding={padding}): use a smaller kernel or more padding"
        )
    return (padded - window) // stride + 1


def conv_transpose_output_size(
    size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, output_padding: int = 0
) -> int:
    """Output size of a transposed convolution along one axis.

    `(size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1`: the input size of the
    convolution whose gradient it is. `output_padding` chooses among the sizes that this convolution's floor maps to
    the same output size.

    Raises:
        ValueError: an argument is out of range, or no pixel is left.

    Source: Dumoulin & Visin (2016), relationship 14.
    """
    size, kernel, stride, dilation = _at_least(1, size=size, kernel=kernel, stride=stride, dilation=dilation)
    padding, output_padding = _at_least(0, padding=padding, output_padding=output_padding)
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding={output_padding} must be smaller than stride={stride} or dilation={dilation}: "
            "it only chooses among the sizes that one stride covers"
        )
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    if out < 1:
        raise ValueError(f"padding={padding} leaves no output (size {out}): use less padding")
    return out


def same_padding(kernel: int, dilation: int = 1) -> int:
    """Padding on each side that keeps the size at stride 1: `dilation * (kernel - 1) / 2`, for odd windows.

    Raises:
        ValueError: the window spans an even number of pixels, so no symmetric padding keeps the size.
    """
    kernel, dilation = _at_least(1, kernel=kernel, dilation=dilation)
    border = dilation * (kernel - 1)
    if border % 2:
        raise ValueError(
            f"kernel={kernel} with dilation={dilation} spans {border + 1} pixels, an even number: no padding of equal "
            "sides keeps the size; use an odd kernel, or the padding ((top, bottom), (left, right))"
        )
    return border // 2


def receptive_field(layers: Iterable[tuple[int, int, int]]) -> int:
    """Number of input pixels along one axis that one output pixel sees through `(kernel, stride, dilation)` layers.

    `1 + sum_l dilation_l * (kernel_l - 1) * prod_{m<l} stride_m`; layers are given from input to output.

    Source: Araujo, Norris & Sim, "Computing receptive fields of convolutional neural networks" (2019).
    """
    field, jump = 1, 1
    for kernel, stride, dilation in layers:
        kernel, stride, dilation = _at_least(1, kernel=kernel, stride=stride, dilation=dilation)
        field += dilation * (kernel - 1) * jump
        jump *= stride
    return field


def conv_params(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int], *, groups: int = 1, bias: bool = True
) -> int:
    """Parameters of a 2-D convolution: `kh * kw * in_channels / groups * out_channels`, and a bias per output."""
    return _taps(in_channels, out_channels, kernel, groups) + (out_channels if bias else 0)


def conv_macs(
    out_size: int | tuple[int, int],
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int],
    *,
    groups: int = 1,
) -> int:
    """Multiply-adds of a 2-D convolution for one image: one per parameter (bias aside) and output pixel."""
    height, width = _pair("out_size", out_size)
    return height * width * _taps(in_channels, out_channels, kernel, groups)


def dense_params(in_features: int, out_features: int, bias: bool = True) -> int:
    """Parameters of a fully connected layer: `in_features * out_features`, and a bias per output."""
    in_features, out_features = _at_least(1, in_features=in_features, out_features=out_features)
    return in_features * out_features + (out_features if bias else 0)


def pixel_utilization(size: int, kernel: int) -> np.ndarray:
    """Count the windows of a valid `kernel x kernel` convolution that use each pixel of a `size x size` image.

    Returns:
        Integer array (size, size): the outer product of each axis's counts. Pixels at the border are used least.
    """
    windows = conv_output_size(size, kernel)
    axis = np.convolve(np.ones(windows, int), np.ones(kernel, int))
    return np.outer(axis, axis)


def _taps(in_channels: int, out_channels: int, kernel: int | tuple[int, int], groups: int) -> int:
    in_channels, out_channels, groups = _at_least(1, in_channels=in_channels, out_channels=out_channels, groups=groups)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(f"{name}={channels} is not divisible by groups={groups}")
    height, width = _pair("kernel", kernel)
    return height * width * (in_channels // groups) * out_channels


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    first, second = value if isinstance(value, Sequence) else (value, value)
    height, width = _at_least(1, **{name: first, f"{name} (second)": second})
    return height, width


def _at_least(minimum: int, **arguments: SupportsIndex) -> list[int]:
    """Return the arguments as integers; raise a ValueError that names the first one below `minimum`."""
    values = []
    for name, argument in arguments.items():
        try:
            value = operator.index(argument)
        except TypeError:
            raise ValueError(f"{name} must be an integer, got {argument!r}") from None
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")
        values.append(value)
    return values
