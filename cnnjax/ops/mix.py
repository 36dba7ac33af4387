"""A constant matrix along one axis of an array: interpolation, bins of a pool, sums over neighbouring channels.

A matrix product reads every input for every output, weighted with zero where it does not count, so one infinity or NaN
would spread over the whole axis. `mix` is a JAX primitive whose transpose is `mix` with the transposed matrix; forward
and backward, an output depends on exactly those inputs that its row weighs.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from cnnjax.ops.cpu.finite import where_finite


class Matrix(NamedTuple):
    """A constant matrix (outputs, inputs) that can be compared and hashed, as parameters of a primitive must."""

    shape: tuple[int, int]
    values: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> "Matrix":
        """Return a matrix of float64."""
        rows, columns = array.shape
        return cls((rows, columns), np.ascontiguousarray(array, np.float64).tobytes())

    @property
    def array(self) -> np.ndarray:
        """The values."""
        return np.frombuffer(self.values).reshape(self.shape)


def mix(x: jax.Array, matrix: np.ndarray, axis: int) -> jax.Array:
    """Return `y[..., o, ...] = sum_i matrix[o, i] * x[..., i, ...]` along an axis; zeros of the matrix are not read."""
    return mix_p.bind(x, matrix=Matrix.of(matrix), axis=axis)


def mix_by_product(x: jax.Array, *, matrix: Matrix, axis: int) -> jax.Array:
    """Multiply by the matrix, which is fastest on a CPU and a TPU; wrong where x is not finite."""
    weights = jnp.asarray(matrix.array, x.dtype)
    mixed = lax.dot_general(x, weights, (((axis,), (1,)), ((), ())), precision="highest")
    return jnp.moveaxis(mixed, -1, axis)


def mix_by_taps(x: jax.Array, *, matrix: Matrix, axis: int) -> jax.Array:
    """Gather the k-th input that each output reads, for every k, and add them up with their weights."""
    array = matrix.array
    taps = max(np.count_nonzero(array, axis=1).max(), 1)
    index = np.argsort(array == 0, axis=1, kind="stable")[:, :taps]  # those that count come first
    weight = np.take_along_axis(array, index, 1)
    shape = [1] * x.ndim
    shape[axis] = -1

    def tap(index: Any, weight: Any) -> jax.Array:
        weight = jnp.asarray(weight, x.dtype).reshape(shape)
        read = jnp.take(x, index, axis=axis) * weight
        return jnp.where(weight == 0, jnp.zeros((), x.dtype), read)

    if taps <= MOST_UNROLLED_TAPS:
        return sum((tap(index[:, k], weight[:, k]) for k in range(1, taps)), start=tap(index[:, 0], weight[:, 0]))
    columns = jnp.asarray(index.T), jnp.asarray(weight.T, x.dtype)
    size = (*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :])
    return lax.scan(lambda total, column: (total + tap(*column), None), jnp.zeros(size, x.dtype), columns)[0]


MOST_UNROLLED_TAPS = 8  # more are a loop, or they take long to compile

mix_p = core.Primitive("mix")


@cache
def _compiled(**params: Any) -> Any:
    return jax.jit(partial(mix_p.bind, **params))


def _shape(x: Any, *, matrix: Matrix, axis: int) -> Any:
    return x.update(shape=(*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :]), weak_type=False)


def _transpose(ct: Any, x: Any, *, matrix: Matrix, axis: int) -> list[Any]:
    return [mix(ct, matrix.array.T, axis)]


def _map(arguments: Any, axes: Any, *, matrix: Matrix, axis: int) -> tuple[jax.Array, int]:
    return mix_p.bind(jnp.moveaxis(arguments[0], axes[0], 0), matrix=matrix, axis=axis + 1), 0


def _by_product_where_finite(x: jax.Array, **params: Any) -> jax.Array:
    return where_finite(partial(mix_by_product, **params), partial(mix_by_taps, **params), x)


mix_p.def_impl(lambda x, **params: _compiled(**params)(x))
mix_p.def_abstract_eval(_shape)
ad.deflinear2(mix_p, _transpose)
batching.primitive_batchers[mix_p] = _map
mlir.register_lowering(mix_p, mlir.lower_fun(mix_by_taps, multiple_results=False))
for platform in ("cpu", "tpu"):  # a GPU gathers well, and would wait for the host to choose
    mlir.register_lowering(mix_p, mlir.lower_fun(_by_product_where_finite, multiple_results=False), platform=platform)
