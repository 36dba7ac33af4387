"""Direct sums in double precision: slow, obvious, written from the formulas and without looking at the implementation.

Every function also takes complex arrays, and only compares real parts: `f(x + ih u) = f(x) + ih f'(x) u + O(h^2)`, so
a tiny imaginary step gives derivatives without cancellation. Arguments are those of the operations.
"""

import numpy as np

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pair(value):
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def sides(padding, size, window, stride, dilation):
    """Pixels added before and after, along one axis; `padding` is what was given for this axis."""
    extent = dilation * (window - 1) + 1
    if padding == "SAME":  # XLA's: ceil(size / stride) outputs, the odd pixel after
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        return total // 2, total - total // 2
    return pair({"VALID": 0, "HALF": window // 2, "FULL": extent - 1}.get(padding, padding))


def both_sides(padding, size, window, stride, dilation):
    """((top, bottom), (left, right)) of images of this size."""
    padding = (padding, padding) if isinstance(padding, str) else pair(padding)
    return tuple(sides(*axis) for axis in zip(padding, size, window, pair(stride), pair(dilation), strict=True))


def conv2d(
    x,
    kernel,
    bias=None,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    padding_mode="zeros",
    layout="NHWC",
):
    if layout == "NCHW":
        x, kernel = x.transpose(0, 2, 3, 1), kernel.transpose(2, 3, 1, 0)
    kh, kw, depth, outs = kernel.shape
    added = both_sides(padding, x.shape[1:3], (kh, kw), stride, dilation)
    x = np.pad(x, ((0, 0), *added, (0, 0)), mode=NUMPY_MODES[padding_mode])
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    height, width = (x.shape[1] - dh * (kh - 1) - 1) // sh + 1, (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((len(x), height, width, outs), np.result_type(x, kernel))
    groups = int(groups)  # which NumPy does not take from True
    taps = kernel.reshape(kh, kw, depth, groups, outs // groups)
    for i, j in np.ndindex(height, width):
        seen = x[:, i * sh : i * sh + dh * (kh - 1) + 1 : dh, j * sw : j * sw + dw * (kw - 1) + 1 : dw]
        seen = seen.reshape(len(x), kh, kw, groups, depth)
        y[:, i, j] = np.einsum("nabgc,abcgo->ngo", seen, taps).reshape(len(x), outs)
    y = y if bias is None else y + bias
    return y.transpose(0, 3, 1, 2) if layout == "NCHW" else y


def convolve2d(x, kernel, bias=None, *, layout="NHWC", **options):
    flipped = kernel[:, :, ::-1, ::-1] if layout == "NCHW" else kernel[::-1, ::-1]
    return conv2d(x, flipped, bias, layout=layout, **options)


def depthwise_conv2d(x, kernel, bias=None, **options):
    return conv2d(x, kernel, bias, groups=x.shape[3], **options)


def separable_conv2d(x, depthwise, pointwise, bias=None, **options):
    return conv2d(depthwise_conv2d(x, depthwise, **options), pointwise, bias)


def conv_transpose2d(x, kernel, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """A copy of the kernel at every pixel, on a canvas that is then cut."""
    (n, h, w, channels), (kh, kw, _, outs) = x.shape, kernel.shape
    (sh, sw), (dh, dw), (ph, pw), (eh, ew) = map(pair, (stride, dilation, padding, output_padding))
    height, width = (h - 1) * sh + dh * (kh - 1) + 1 + eh, (w - 1) * sw + dw * (kw - 1) + 1 + ew
    canvas = np.zeros((n, height, width, groups, outs), np.result_type(x, kernel))
    taps = kernel.reshape(kh, kw, groups, channels // groups, outs)
    for i, j in np.ndindex(h, w):
        pixel = x[:, i, j].reshape(n, groups, -1)
        rows = slice(i * sh, i * sh + dh * (kh - 1) + 1, dh)
        columns = slice(j * sw, j * sw + dw * (kw - 1) + 1, dw)
        canvas[:, rows, columns] += np.einsum("ngc,abgco->nabgo", pixel, taps)
    y = canvas.reshape(n, height, width, groups * outs)[:, ph : height - ph, pw : width - pw]
    return y if bias is None else y + bias


def upsample_nearest(x, scale):
    s, t = pair(scale)
    return x.repeat(s, 1).repeat(t, 2)


def upsample_bilinear(x, scale, *, align_corners=False):
    s, t = pair(scale)
    return resize_bilinear(x, (x.shape[1] * s, x.shape[2] * t), align_corners=align_corners)


def resize_bilinear(x, output_size, *, align_corners=False):
    for axis, out in zip((1, 2), pair(output_size), strict=True):
        size, position = x.shape[axis], np.arange(out)
        if align_corners:
            at = position * ((size - 1) / max(out - 1, 1))
        else:
            at = ((position + 0.5) * (size / out) - 0.5).clip(0, size - 1)
        low = np.floor(at).astype(int).clip(0, size - 1)
        high = (low + 1).clip(0, size - 1)
        weight = np.expand_dims(at - low, tuple(range(1, x.ndim - axis)))
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x


def bed_of_nails(x, scale):
    (n, h, w, c), (s, t) = x.shape, pair(scale)
    y = np.zeros((n, h * s, w * t, c), x.dtype)
    y[:, ::s, ::t] = x
    return y


def pixel_shuffle(x, scale):
    (n, h, w, c), (s, t) = x.shape, pair(scale)
    y = np.zeros((n, h * s, w * t, c // (s * t)), x.dtype)
    for k, u, v in np.ndindex(y.shape[3], s, t):
        y[:, u::s, v::t, k] = x[..., (k * s + u) * t + v]
    return y


def moments(x):
    mean = x.mean((0, 1, 2))
    return mean, ((x - mean) ** 2).mean((0, 1, 2))


def batch_norm(x, mean, var, scale, bias, *, eps=1e-5):
    return (x - mean) / np.sqrt(var + eps) * scale + bias


def group_norm(x, groups, scale, bias, *, eps=1e-5):
    n, h, w, c = x.shape
    split = x.reshape(n, h, w, int(groups), c // int(groups))
    centred = split - split.mean((1, 2, 4), keepdims=True)
    normal = centred / np.sqrt((centred**2).mean((1, 2, 4), keepdims=True) + eps)
    return normal.reshape(x.shape) * scale + bias


def layer_norm(x, scale, bias, *, eps=1e-5):
    centred = x - x.mean(3, keepdims=True)
    return centred / np.sqrt((centred**2).mean(3, keepdims=True) + eps) * scale + bias


def local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=2.0):
    y = np.zeros_like(x)
    for channel in range(x.shape[3]):
        first, last = max(channel - size // 2, 0), channel + (size - 1) // 2
        squares = (x[..., first : last + 1] ** 2).sum(3)
        y[..., channel] = x[..., channel] / (k + alpha / size * squares) ** beta
    return y
