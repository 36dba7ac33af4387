"""Keeping XLA from fusing a computation into its readers."""

from collections.abc import Callable

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata


def apart(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Return `function(x)`, on a CPU computed once and stored; so is each of its derivatives.

    XLA:CPU fuses elementwise computations into every one of their readers and repeats them there: a little memory
    traffic saved, a large computation multiplied. It drops `lax.optimization_barrier` before it fuses, but leaves a
    call alone that it is told not to inline.
    """

    def call(x: jax.Array) -> jax.Array:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(x)

    return lax.platform_dependent(x, cpu=call, default=function)
