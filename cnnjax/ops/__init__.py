"""Pure functions on batched NHWC arrays: what a convolutional network computes, without parameters or state.

Every function works under `jit`, `grad`, `jvp`, `vmap` and second derivatives, keeps the input's float dtype, and
raises a `ValueError` that names the argument, its value and what was expected.
"""

from cnnjax.ops.boxes import box_iou, generalized_box_iou, nms, roi_align
from cnnjax.ops.conv import conv2d, convolve2d, depthwise_conv2d, separable_conv2d
from cnnjax.ops.norm import batch_norm, group_norm, layer_norm, local_response_norm, moments
from cnnjax.ops.pool import (
    adaptive_avg_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
    min_pool2d,
)
from cnnjax.ops.transpose import conv_transpose2d
from cnnjax.ops.unpool import max_pool2d_with_indices, max_unpool2d
from cnnjax.ops.upsample import bed_of_nails, pixel_shuffle, resize_bilinear, upsample_bilinear, upsample_nearest

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "bed_of_nails",
    "box_iou",
    "conv2d",
    "conv_transpose2d",
    "convolve2d",
    "depthwise_conv2d",
    "generalized_box_iou",
    "global_avg_pool2d",
    "global_max_pool2d",
    "group_norm",
    "layer_norm",
    "local_response_norm",
    "lp_pool2d",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_unpool2d",
    "min_pool2d",
    "moments",
    "nms",
    "pixel_shuffle",
    "resize_bilinear",
    "roi_align",
    "separable_conv2d",
    "upsample_bilinear",
    "upsample_nearest",
]
