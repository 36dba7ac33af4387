"""A convolution and its two gradients in the forms that XLA's CPU backend runs fastest.

Convolutions in groups need forms of their own: XLA:CPU computes a kernel gradient in groups (`batch_group_count`) in a
scalar loop, and a forward convolution in groups slowly. `dense` and `depthwise` say what is slow there.

All three functions take parsed arguments: pairs, and padding as ((top, bottom), (left, right)).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.cpu import dense, depthwise
from cnnjax.ops.cpu.finite import where_finite
from cnnjax.ops.cpu.phases import Pair, Sides

CHANNELS_PER_VECTOR = 16  # float32 values in a vector register: groups are merged until they fill one
MAX_CONVOLUTIONS_PER_LAYER = 64  # into which a convolution in groups is split


def forward(x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Sides, dilation: Pair, groups: int) -> jax.Array:
    """`y[n, i, j, o] = sum_abc x[n, i*s + a*d - p, j*s + b*d - p, c] * kernel[a, b, c, o]`."""
    if groups == 1:
        return dense.convolution(x, kernel, stride, padding, dilation)
    if kernel.shape[2] == 1:
        return depthwise.forward(x, kernel, stride, padding, dilation)
    one = functools.partial(dense.convolution, stride=stride, padding=padding, dilation=dilation)
    return by_merged_groups(one, x, kernel, groups)


def input_gradient(
    dy: jax.Array, kernel: jax.Array, *, input_size: Pair, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> jax.Array:
    """The gradient of `sum(forward * dy)` with respect to x, which is `input_size` high and wide."""
    if groups == 1:
        return dense.input_gradient(dy, kernel, input_size, stride, padding, dilation)
    if kernel.shape[2] == 1:
        return depthwise.input_gradient(dy, kernel, groups, input_size, stride, padding, dilation)
    one = functools.partial(
        dense.input_gradient, input_size=input_size, stride=stride, padding=padding, dilation=dilation
    )
    return by_merged_groups(one, dy, kernel, groups)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, *, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> jax.Array:
    """The gradient of `sum(forward * dy)` with respect to the kernel, which is `kernel_size` high and wide."""
    if groups == 1:
        return dense.kernel_gradient(x, dy, kernel_size, stride, padding, dilation)
    if x.shape[3] == groups:
        return depthwise.kernel_gradient(x, dy, kernel_size, stride, padding, dilation)
    one = functools.partial(
        dense.kernel_gradient, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
    )
    return kernel_gradient_by_merged_groups(one, x, dy, groups)


def by_merged_groups(one: Callable[..., jax.Array], a: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    """Return one dense map per block of merged groups, each with a block-diagonal kernel; `a` is x or dy."""
    merged = _groups_to_merge(groups, kernel.shape[2])

    def fast(a: jax.Array) -> jax.Array:
        blocks = _split(a, groups // merged), _split(_block_diagonal(kernel, groups, merged), groups // merged)
        return jnp.concatenate([one(*block) for block in zip(*blocks, strict=True)], -1)

    def exact(a: jax.Array) -> jax.Array:
        parts = jnp.stack(jnp.split(a, groups, -1)), jnp.stack(jnp.split(kernel, groups, -1))
        maps = lax.map(lambda part: one(*part), parts)  # one convolution to compile
        return jnp.concatenate(list(maps), -1)

    return fast(a) if merged == 1 else where_finite(fast, exact, a)


def kernel_gradient_by_merged_groups(
    one: Callable[..., jax.Array], x: jax.Array, dy: jax.Array, groups: int
) -> jax.Array:
    """Return the gradient of the kernel that `by_merged_groups` takes."""
    merged = _groups_to_merge(groups, x.shape[3] // groups)
    blocks = zip(_split(x, groups // merged), _split(dy, groups // merged), strict=True)
    return _diagonal_blocks(jnp.concatenate([one(*block) for block in blocks], -1), groups, merged)


def _groups_to_merge(groups: int, depth: int) -> int:
    """How many neighbouring groups make one dense convolution.

    As many as fill a vector register, because narrower ones run no faster; more where there would be too many to
    compile.
    """
    divisors = [m for m in range(1, groups + 1) if groups % m == 0]
    narrow = max(m for m in divisors if m == 1 or m * depth <= CHANNELS_PER_VECTOR)
    return next(m for m in divisors if m >= narrow and groups // m <= MAX_CONVOLUTIONS_PER_LAYER)


def _split(a: jax.Array, parts: int) -> list[jax.Array]:
    return [a] if parts == 1 else jnp.split(a, parts, axis=-1)


def _block_diagonal(kernel: jax.Array, groups: int, merged: int) -> jax.Array:
    kh, kw, depth, out = kernel.shape
    kernel = kernel.reshape(kh, kw, 1, depth, groups // merged, merged, out // groups)
    own = jnp.eye(merged, dtype=bool)[None, None, :, None, None, :, None]
    return jnp.where(own, kernel, jnp.zeros((), kernel.dtype)).reshape(kh, kw, merged * depth, out)


def _diagonal_blocks(kernel: jax.Array, groups: int, merged: int) -> jax.Array:
    kh, kw, depth, out = kernel.shape
    kernel = kernel.reshape(kh, kw, merged, depth // merged, groups // merged, merged, out // groups)
    kernel = jnp.stack([kernel[:, :, m, :, :, m] for m in range(merged)], axis=4)
    return kernel.reshape(kh, kw, depth // merged, out)
