"""Direct loops in float64: slow, obvious, and written without looking at the implementation."""

import itertools

import numpy as np


def conv2d(x, kernel, stride, sides, dilation, groups):
    """Sum over taps and channels of one window at a time; `x` is padded with zeros."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *sides, (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    kh, kw, channels, outs = kernel.shape
    height = (x.shape[1] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    width = (x.shape[2] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((x.shape[0], height, width, outs))
    for i, j, o in itertools.product(range(height), range(width), range(outs)):
        first = o // (outs // groups) * channels
        for a, b in itertools.product(range(kh), range(kw)):
            pixel = x[:, i * stride[0] + a * dilation[0], j * stride[1] + b * dilation[1], first : first + channels]
            y[:, i, j, o] += pixel @ kernel[a, b, :, o]
    return y


def max_pool2d(x, window, stride, padding, dilation, ceil_mode):
    """The largest value of a window, and the gradient of the sum of all: one to the first winner of each."""
    x = np.asarray(x, np.float64)
    n, *size, c = x.shape
    out = []
    for s, k, st, p, d in zip(size, window, stride, padding, dilation, strict=True):
        room = s + 2 * p - d * (k - 1) - 1
        count = (-(-room // st) if ceil_mode else room // st) + 1
        out.append(count - 1 if ceil_mode and (count - 1) * st >= s + p else count)
    y = np.full((n, *out, c), -np.inf)
    gradient = np.zeros_like(x)
    for image, i, j, channel in itertools.product(range(n), range(out[0]), range(out[1]), range(c)):
        winner = None
        for a, b in itertools.product(range(window[0]), range(window[1])):
            row = i * stride[0] + a * dilation[0] - padding[0]
            column = j * stride[1] + b * dilation[1] - padding[1]
            inside = 0 <= row < size[0] and 0 <= column < size[1]
            if inside and (winner is None or x[image, row, column, channel] > y[image, i, j, channel]):
                y[image, i, j, channel], winner = x[image, row, column, channel], (row, column)
        if winner is not None:
            gradient[image, winner[0], winner[1], channel] += 1
    return y, gradient
