"""Pooling window by window, on the same terms as `reference`."""

import numpy as np

from tests.ops.reference import pair


def windows(x, window, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Output (height, width), and for every output pixel the rows and columns of the image that its window holds."""
    numbers = map(pair, (window, window if stride is None else stride, padding, dilation))
    axes = []
    for size, k, s, p, d in zip(x.shape[1:3], *numbers, strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        count = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (count - 1) * s >= size + p:  # as torch: no window starts in the last padding
            count -= 1
        axes.append([[q for q in range(o * s - p, o * s - p + d * k, d) if 0 <= q < size] for o in range(count)])
    size = tuple(map(len, axes))
    return size, {(i, j): (axes[0][i], axes[1][j]) for i, j in np.ndindex(size)}


def max_pool2d_with_indices(x, window, **options):
    (height, width), seen = windows(x, window, **options)
    y = np.full((len(x), height, width, x.shape[3]), -np.inf, x.dtype)
    indices = np.zeros(y.shape, int)
    for (i, j), (rows, columns) in seen.items():
        if rows and columns:
            values = x[:, rows][:, :, columns].reshape(len(x), len(rows) * len(columns), x.shape[3])
            winner = values.real.argmax(1)  # the first of equals
            y[:, i, j] = np.take_along_axis(values, winner[:, None], 1)[:, 0]
            row, column = np.array(rows)[winner // len(columns)], np.array(columns)[winner % len(columns)]
            indices[:, i, j] = row * x.shape[2] + column
    return y, indices


def max_pool2d(x, window, **options):
    return max_pool2d_with_indices(x, window, **options)[0]


def min_pool2d(x, window, **options):
    return -max_pool2d(-x, window, **options)


def global_max_pool2d(x):
    return max_pool2d(x, x.shape[1:3])[:, 0, 0]


def avg_pool2d(x, window, *, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    (height, width), seen = windows(x, window, stride, padding, 1, ceil_mode)
    y = np.zeros((len(x), height, width, x.shape[3]), x.dtype)
    for (i, j), (rows, columns) in seen.items():
        count = len(rows) * len(columns)
        if count_include_pad:  # the padding's zeros are values; what ceil_mode adds beyond them is not
            padded = zip(x.shape[1:3], (i, j), *map(pair, (window, stride or window, padding)), strict=True)
            count = np.prod([min(o * s - p + k, size + p) - (o * s - p) for size, o, k, s, p in padded])
        y[:, i, j] = x[:, rows][:, :, columns].sum((1, 2)) / count
    return y


def global_avg_pool2d(x):
    return x.mean((1, 2))


def lp_pool2d(x, window, p=2.0, *, stride=None):
    """At a zero, of a value or of a whole window, the derivative is taken as zero."""
    (height, width), seen = windows(x, window, stride)
    magnitude = x * np.sign(x.real)  # |x|, and analytic
    powers = np.where(x.real == 0, 0, np.where(x.real == 0, 1, magnitude) ** p)
    y = np.zeros((len(x), height, width, x.shape[3]), x.dtype)
    for (i, j), (rows, columns) in seen.items():
        total = powers[:, rows][:, :, columns].sum((1, 2))
        y[:, i, j] = np.where(total.real == 0, 0, np.where(total.real == 0, 1, total) ** (1 / p))
    return y


def adaptive_avg_pool2d(x, output_size):
    height, width = pair(output_size)
    y = np.zeros((len(x), height, width, x.shape[3]), x.dtype)
    for i, j in np.ndindex(height, width):
        top, bottom = i * x.shape[1] // height, -(-(i + 1) * x.shape[1] // height)
        left, right = j * x.shape[2] // width, -(-(j + 1) * x.shape[2] // width)
        y[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    return y


def max_unpool2d(y, indices, output_size):
    height, width = pair(output_size)
    x = np.zeros((len(y), height * width, y.shape[3]), y.dtype)
    for image, i, j, channel in np.ndindex(y.shape):
        place = indices[image, i, j, channel]
        if 0 <= place < height * width:  # others are dropped
            x[image, place, channel] = y[image, i, j, channel]
    return x.reshape(len(y), height, width, y.shape[3])
