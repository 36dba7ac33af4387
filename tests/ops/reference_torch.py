"""torch as the second reference, values and all gradients, element by element.

torch computes in double precision, from the values that ours rounds to its own precision.
"""

import numpy as np
import torch

from tests.ops import reference
from tests.ops.operations import PRECISION

F = torch.nn.functional
torch.set_num_threads(1)  # threads that wait for tiny operations take the cores from the other tests

PAD_MODES = reference.NUMPY_MODES | {"replicate": "replicate", "circular": "circular"}


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def on_nchw(function):
    """A function of an NCHW image as one of an NHWC image."""
    return lambda x, **others: nhwc(function(nchw(x), **others))


def conv2d(x, kernel, bias=None, *, stride, padding, dilation, groups, padding_mode, layout="NHWC"):
    if layout == "NHWC":
        x, kernel = nchw(x), kernel.permute(3, 2, 0, 1)
    added = reference.both_sides(padding, x.shape[2:], kernel.shape[2:], stride, dilation)
    x = F.pad(x, (*added[1], *added[0]), PAD_MODES[padding_mode])
    y = F.conv2d(x, kernel, bias, stride, 0, dilation, groups)
    return nhwc(y) if layout == "NHWC" else y


def convolve2d(x, kernel, bias=None, *, layout, **options):
    return conv2d(x, kernel.flip((2, 3) if layout == "NCHW" else (0, 1)), bias, layout=layout, **options)


def depthwise_conv2d(x, kernel, bias=None, **options):
    return conv2d(x, kernel, bias, groups=x.shape[3], **options)


def separable_conv2d(x, depthwise, pointwise, bias=None, **options):
    return depthwise_conv2d(x, depthwise, **options) @ pointwise[0, 0] + (0 if bias is None else bias)


def conv_transpose2d(x, kernel, bias=None, **options):
    return nhwc(F.conv_transpose2d(nchw(x), kernel.permute(2, 3, 0, 1), bias, **options))


def max_pool2d_with_indices(x, window, **options):
    values, indices = F.max_pool2d(nchw(x), window, **options, return_indices=True)
    return nhwc(values), nhwc(indices)


def max_unpool2d(y, indices, output_size):
    return nhwc(torch.ops.aten.max_unpool2d(nchw(y), nchw(indices.long()), output_size))


def upsample_bilinear(x, scale, align_corners):
    return resize_bilinear(
        x, [size * s for size, s in zip(x.shape[2:], reference.pair(scale), strict=True)], align_corners
    )


def resize_bilinear(x, output_size, align_corners):
    return F.interpolate(x, reference.pair(output_size), mode="bilinear", align_corners=align_corners)


def upsample_nearest(x, scale):
    return F.interpolate(x, [size * s for size, s in zip(x.shape[2:], reference.pair(scale), strict=True)])


def batch_norm(x, mean, var, scale, bias, eps):
    return F.batch_norm(x, mean.detach(), var.detach(), scale, bias, eps=eps)  # torch has no gradients of the two


def training_batch_norm(x, scale, bias, eps):
    return nhwc(F.batch_norm(nchw(x), None, None, scale, bias, training=True, eps=eps))


TORCH = {
    "conv2d": conv2d,
    "convolve2d": convolve2d,
    "depthwise_conv2d": depthwise_conv2d,
    "separable_conv2d": separable_conv2d,
    "conv_transpose2d": conv_transpose2d,
    "max_pool2d": on_nchw(lambda x, window, **options: F.max_pool2d(x, window, **options)),
    "min_pool2d": on_nchw(lambda x, window, **options: -F.max_pool2d(-x, window, **options)),
    "avg_pool2d": on_nchw(lambda x, window, **options: F.avg_pool2d(x, window, **options)),
    "lp_pool2d": on_nchw(lambda x, window, p, stride: F.lp_pool2d(x.abs(), p, window, stride)),  # x ** p, unsigned
    "max_pool2d_with_indices": max_pool2d_with_indices,
    "max_unpool2d": max_unpool2d,
    "global_avg_pool2d": lambda x: x.mean((1, 2)),
    "global_max_pool2d": lambda x: F.max_pool2d(nchw(x), x.shape[1:3])[..., 0, 0],  # amax shares ties out
    "adaptive_avg_pool2d": on_nchw(F.adaptive_avg_pool2d),
    "upsample_nearest": on_nchw(upsample_nearest),
    "upsample_bilinear": on_nchw(upsample_bilinear),
    "resize_bilinear": on_nchw(resize_bilinear),
    "pixel_shuffle": on_nchw(lambda x, scale: F.pixel_shuffle(x, reference.pair(scale)[0])),
    "moments": lambda x: (x.mean((0, 1, 2)), x.var((0, 1, 2), unbiased=False)),
    "batch_norm": on_nchw(batch_norm),
    "batch_norm of moments": training_batch_norm,
    "local_response_norm": on_nchw(F.local_response_norm),
}


def takes(operation, case):
    """Whether torch has the operation, and means the same by this call."""
    options, x = case.options, next(iter(case.arrays.values()))
    if operation.name not in TORCH:
        return False
    if operation.name in ("max_pool2d", "min_pool2d"):  # torch pads half a window's taps, ours half of what it spans
        taps = zip(options["padding"], reference.pair(options["window"]), strict=True)
        # Where a window holds no pixel, torch 2.13's gradient is written outside of its array: heap corruption.
        return all(p <= k // 2 for p, k in taps) and np.isfinite(operation.reference(x, **options)).all()
    if operation.name == "lp_pool2d":  # torch's gradient at zero is NaN
        return bool(x.all())
    if operation.name == "max_unpool2d":  # torch refuses indices outside of the plane
        return case.arrays["indices"].min() >= 0 and case.arrays["indices"].max() < np.prod(options["output_size"])
    if operation.name == "pixel_shuffle":  # torch has one scale for both axes
        return len(set(reference.pair(options["scale"]))) == 1
    if operation.name == "batch_norm of moments":  # of few values, what is left of a gradient is its rounding errors
        return x[..., 0].size >= 16
    return True


def leaves(outputs):
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [o for o in outputs if o.is_floating_point()], [o for o in outputs if not o.is_floating_point()]


def run(operation, case, arrays, cotangents):
    """Floating results, other results, and gradients."""
    tensors = {name: torch.tensor(array, requires_grad=name in case.floats) for name, array in arrays.items()}
    values, whole = leaves(TORCH[operation.name](**tensors, **case.options))
    torch.autograd.backward(values, [torch.tensor(g.astype(float)) for g in cotangents])
    gradients = {name: tensors[name].grad.numpy() for name in case.floats if tensors[name].grad is not None}
    return [v.detach().numpy() for v in values], [w.numpy() for w in whole], gradients


def magnitudes(operation, case, values, gradients, cotangents):
    """What errors are relative to: sums of absolute products, or else 10 times the largest value.

    The gradient of a bias is a sum of cotangents, of which next to nothing may be left: that of their absolute values.
    """
    if operation.magnitude:
        absolute = run(operation, case, case.arrays, [np.abs(g) for g in cotangents])[2]
        slopes = {name: 10 * np.abs([gradient, absolute[name]]).max() for name, gradient in gradients.items()}
        return [10 * np.abs(value).max() for value in values], slopes
    signed = operation.signed
    arrays = {k: a if signed or k not in case.floats else np.abs(a) for k, a in case.arrays.items()}
    values, _, gradients = run(operation, case, arrays, [np.abs(g) for g in cotangents])
    return values, gradients


def check(operation, case, cotangents, ours):
    """Assert that our values, integers and gradients are torch's."""
    values, whole, gradients = run(operation, case, case.arrays, cotangents)
    for mine, theirs in zip(ours[1], whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    bounds = magnitudes(operation, case, values, gradients, cotangents)
    for mine, theirs, bound in zip(ours[0], values, bounds[0], strict=True):
        if operation.exact:
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert_within(mine, theirs, PRECISION[case.dtype] * np.abs(bound), "torch's values")
    for name, theirs in gradients.items():
        bound = PRECISION[case.dtype] * np.abs(bounds[1][name])
        assert_within(ours[2][name], theirs, bound, f"torch's gradient of {name}")


def assert_within(ours, theirs, bound, what):
    error = np.abs(ours.astype(float) - theirs)
    assert (error <= bound).all(), f"{what}: {(error > bound).sum()} of {error.size} differ, by {error.max()} at most"
