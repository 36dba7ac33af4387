"""Half precision: what is summed is summed in float32 and rounded once.

A sum of bfloat16 values in bfloat16 stops growing at 256 units in the last place of its terms, and one of float16
values overflows above 65,504. XLA rounds after every addition where JAX asks for a sum in half precision, as the
transpose of every broadcast does: the gradient of a bias, of a scale, or of an enlarged image.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """Return the type to sum in: float32, or float64 for float64."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


def in_single_precision(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Let a function of half-precision arrays compute in float32 and round its result once, and so its derivatives.

    The arrays are the positional arguments; those of the first one's type are converted, and the result has that type.
    """

    @functools.wraps(function)
    def wrapped(*arrays: jax.Array, **options: Any) -> jax.Array:
        dtype = arrays[0].dtype
        if wide(dtype) == dtype:
            return function(*arrays, **options)
        return function(*(a.astype(wide(dtype)) if a.dtype == dtype else a for a in arrays), **options).astype(dtype)

    return wrapped


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Return `y + bias` in y's type, with `bias` along the last axis; its gradient is summed in float32."""
    total = wide(y.dtype)
    return (y.astype(total) + lax.broadcast_in_dim(bias.astype(total), y.shape, (y.ndim - 1,))).astype(y.dtype)
