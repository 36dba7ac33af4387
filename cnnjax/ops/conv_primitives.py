"""Convolution as three JAX primitives that are each other's transposes.

A convolution is bilinear, and so are its two gradients:

    forward          y  = F(x, kernel)
    input gradient   dx = D(dy, kernel)
    kernel gradient  dk = K(x, dy)

The transpose of any one of them, in either argument, is one of the other two. So `grad`, `jvp`, `vmap` and every higher
derivative stay inside the three, and each always runs in a fast form of its own, never in the mechanical transpose of
another's. On a CPU they lower to `cpu.conv`, elsewhere to the plain `lax` convolution and its transposes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from cnnjax.ops.cpu import conv
from cnnjax.ops.cpu.dense import DIMENSION_NUMBERS
from cnnjax.ops.cpu.phases import Pair, Sides, output_size, reach
from cnnjax.ops.meshes import sharded_by_batch
from cnnjax.ops.precision import in_single_precision

Shape = tuple[int, ...]

# ---------------------------------------------------------------- what other platforms run, and what tests compare with


def reference_forward(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> jax.Array:
    """`cpu.conv.forward` by `lax`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=DIMENSION_NUMBERS,
    )


def reference_input_gradient(
    dy: jax.Array, kernel: jax.Array, *, input_size: Pair, groups: int, **params: Any
) -> jax.Array:
    """`cpu.conv.input_gradient` by JAX's own transposition."""
    x = jax.ShapeDtypeStruct((dy.shape[0], *input_size, kernel.shape[2] * groups), dy.dtype)
    return jax.linear_transpose(lambda x: reference_forward(x, kernel, groups=groups, **params), x)(dy)[0]


def reference_kernel_gradient(
    x: jax.Array, dy: jax.Array, *, kernel_size: Pair, groups: int, **params: Any
) -> jax.Array:
    """`cpu.conv.kernel_gradient` by JAX's own transposition."""
    kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[3] // groups, dy.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: reference_forward(x, kernel, groups=groups, **params), kernel)(dy)[0]


# ---------------------------------------------------------------- the three primitives


def _primitive(
    name: str, shape: Callable[..., Shape], on_cpu: Callable[..., jax.Array], elsewhere: Callable[..., jax.Array]
) -> Any:
    primitive = core.Primitive(name)

    @functools.cache
    def compiled(**params: Any) -> Any:
        return jax.jit(functools.partial(primitive.bind, **params))

    def abstract(a: Any, b: Any, **params: Any) -> Any:
        return a.update(shape=shape(a, b, **params), weak_type=False)

    primitive.def_impl(lambda a, b, **params: compiled(**params)(a, b))
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(in_single_precision(on_cpu), multiple_results=False), platform="cpu"
    )
    return primitive


def _bind(primitive: Any, a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
    """Bind a primitive to operands that vary over the same mesh axes, as `shard_map` requires.

    The transpose of the cast sums a replicated kernel's gradient over the replicas.
    """
    axes_a, axes_b = (frozenset[str](jax.typeof(v).mat.varying) for v in (a, b))
    if axes_b - axes_a:
        a = lax.pcast(a, tuple(axes_b - axes_a), to="varying")
    if axes_a - axes_b:
        b = lax.pcast(b, tuple(axes_a - axes_b), to="varying")
    return primitive.bind(a, b, **params)


def _forward_shape(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> Shape:
    return (x.shape[0], *output_size(x, kernel.shape[:2], stride, padding, dilation), kernel.shape[3])


def _input_gradient_shape(dy: jax.Array, kernel: jax.Array, *, input_size: Pair, groups: int, **_: Any) -> Shape:
    return (dy.shape[0], *input_size, kernel.shape[2] * groups)


def _kernel_gradient_shape(x: jax.Array, dy: jax.Array, *, kernel_size: Pair, groups: int, **_: Any) -> Shape:
    return (*kernel_size, x.shape[3] // groups, dy.shape[3])


forward_p = _primitive("conv2d", _forward_shape, conv.forward, reference_forward)
input_gradient_p = _primitive(
    "conv2d_input_gradient", _input_gradient_shape, conv.input_gradient, reference_input_gradient
)
kernel_gradient_p = _primitive(
    "conv2d_kernel_gradient", _kernel_gradient_shape, conv.kernel_gradient, reference_kernel_gradient
)


def _forward_of(
    x: jax.Array, kernel: jax.Array, *, input_size: Any = None, kernel_size: Any = None, **params: Any
) -> jax.Array:
    return _bind(forward_p, x, kernel, **params)


def _input_gradient_of(
    dy: jax.Array, kernel: jax.Array, x: jax.Array, *, input_size: Any = None, kernel_size: Any = None, **params: Any
) -> jax.Array:
    return _bind(input_gradient_p, dy, kernel, input_size=tuple(x.aval.shape[1:3]), **params)


def _kernel_gradient_of(
    x: jax.Array, dy: jax.Array, kernel: jax.Array, *, input_size: Any = None, kernel_size: Any = None, **params: Any
) -> jax.Array:
    return _bind(kernel_gradient_p, x, dy, kernel_size=tuple(kernel.aval.shape[:2]), **params)


# A transpose rule receives (cotangent, left operand, right operand); it may read only the shape of its own operand.
ad.defbilinear(
    forward_p,
    lambda dy, x, kernel, **params: _input_gradient_of(dy, kernel, x, **params),
    lambda dy, x, kernel, **params: _kernel_gradient_of(x, dy, kernel, **params),
)
ad.defbilinear(
    input_gradient_p,
    lambda ct, dy, kernel, **params: _forward_of(ct, kernel, **params),
    lambda ct, dy, kernel, **params: _kernel_gradient_of(ct, dy, kernel, **params),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, x, dy, **params: _input_gradient_of(dy, ct, x, **params),
    lambda ct, x, dy, **params: _forward_of(x, ct, **params),
)


# vmap: a mapped axis joins the batch, the input channels, the output channels or, when both operands are mapped, the
# groups. Many seeds at once are therefore one convolution in groups. Channels are (group, mapped, channel in group)
# wherever only one operand is mapped.


def _to_batch(a: jax.Array, axis: int) -> jax.Array:
    """Merge the mapped axis with the batch."""
    a = jnp.moveaxis(a, axis, 0)
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def _from_batch(a: jax.Array, size: int) -> jax.Array:
    return a.reshape(size, a.shape[0] // size, *a.shape[1:])


def _to_channels(a: jax.Array, axis: int, dim: int, outer: int) -> jax.Array:
    """Merge the mapped axis into dimension `dim` of the unmapped array, inside each of its `outer` blocks."""
    a = jnp.moveaxis(a, axis, dim)
    before, (size, channels), after = a.shape[:dim], a.shape[dim : dim + 2], a.shape[dim + 2 :]
    a = jnp.moveaxis(a.reshape(*before, size, outer, channels // outer, *after), dim, dim + 1)
    return a.reshape(*before, size * channels, *after)


def _from_channels(a: jax.Array, size: int, dim: int, outer: int) -> jax.Array:
    before, channels, after = a.shape[:dim], a.shape[dim], a.shape[dim + 1 :]
    a = a.reshape(*before, outer, size, channels // (outer * size), *after)
    return jnp.moveaxis(a, dim + 1, 0).reshape(size, *before, channels // size, *after)


def _map_forward(args: Any, axes: Any, *, groups: int, **params: Any) -> tuple[jax.Array, int]:
    (x, kernel), (i, j) = args, axes
    if j is None:
        return _from_batch(_bind(forward_p, _to_batch(x, i), kernel, groups=groups, **params), x.shape[i]), 0
    size = kernel.shape[j]
    if i is None:
        y = _bind(forward_p, x, _to_channels(kernel, j, 3, groups), groups=groups, **params)
        return _from_channels(y, size, 3, groups), 0
    y = _bind(forward_p, _to_channels(x, i, 3, 1), _to_channels(kernel, j, 3, 1), groups=groups * size, **params)
    return _from_channels(y, size, 3, 1), 0


def _map_input_gradient(args: Any, axes: Any, *, groups: int, **params: Any) -> tuple[jax.Array, int]:
    (dy, kernel), (i, j) = args, axes
    if j is None:
        return _from_batch(_bind(input_gradient_p, _to_batch(dy, i), kernel, groups=groups, **params), dy.shape[i]), 0
    size = kernel.shape[j]
    if i is None:
        dx = _bind(input_gradient_p, dy, _to_channels(kernel, j, 2, 1), groups=groups, **params)
        return _from_channels(dx, size, 3, groups), 0
    dx = _bind(
        input_gradient_p, _to_channels(dy, i, 3, 1), _to_channels(kernel, j, 3, 1), groups=groups * size, **params
    )
    return _from_channels(dx, size, 3, 1), 0


def _map_kernel_gradient(args: Any, axes: Any, *, groups: int, **params: Any) -> tuple[jax.Array, int]:
    (x, dy), (i, j) = args, axes
    if j is None:
        dk = _bind(kernel_gradient_p, _to_channels(x, i, 3, groups), dy, groups=groups, **params)
        return _from_channels(dk, x.shape[i], 2, 1), 0
    size = dy.shape[j]
    if i is None:
        dk = _bind(kernel_gradient_p, x, _to_channels(dy, j, 3, groups), groups=groups, **params)
        return _from_channels(dk, size, 3, groups), 0
    dk = _bind(kernel_gradient_p, _to_channels(x, i, 3, 1), _to_channels(dy, j, 3, 1), groups=groups * size, **params)
    return _from_channels(dk, size, 3, 1), 0


batching.primitive_batchers[forward_p] = _map_forward
batching.primitive_batchers[input_gradient_p] = _map_input_gradient
batching.primitive_batchers[kernel_gradient_p] = _map_kernel_gradient


@sharded_by_batch
def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Sides, dilation: Pair, groups: int
) -> jax.Array:
    """Cross-correlate x (N, H, W, C) with kernel (kh, kw, C / groups, O); arguments are already parsed and checked."""
    return _bind(forward_p, x, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)


@sharded_by_batch
def spread_by_convolution(
    x: jax.Array, kernel: jax.Array, *, output_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> jax.Array:
    """Transpose-convolve x (N, H, W, C) with kernel (kh, kw, C, O / groups): the input gradient of a convolution."""
    touched = reach(kernel.shape[:2], x.shape[1:3], stride, dilation)
    sides = tuple((p, r - p - size) for p, r, size in zip(padding, touched, output_size, strict=True))
    return _bind(
        input_gradient_p,
        x,
        kernel.swapaxes(2, 3),
        input_size=output_size,
        stride=stride,
        padding=sides,
        dilation=dilation,
        groups=groups,
    )
