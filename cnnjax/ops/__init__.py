"""Pure functions on batched NHWC arrays: what a convolutional network computes, without parameters or state.

Every function works under `jit`, `grad`, `jvp`, `vmap` and second derivatives, keeps the input's float dtype, and
raises a `ValueError` that names the argument, its value and what was expected.
"""

from cnnjax.ops.conv import conv2d
from cnnjax.ops.pool import max_pool2d

__all__ = ["conv2d", "max_pool2d"]
