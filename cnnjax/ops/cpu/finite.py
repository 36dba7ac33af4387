"""Fast forms that multiply by zeros, for finite numbers only.

Zero times infinity is NaN, so a form that fills up a kernel with zeros lets an infinity or NaN reach outputs that do
not read it: another group of channels, another network of several in one program. A CPU can branch on its data cheaply.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def where_finite(
    fast: Callable[[jax.Array], jax.Array], exact: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    """Return `fast(x)` if all values of x are finite, else `exact(x)`, which reads only what the definition reads."""
    # Down the second axis first, as `norm.sum_per_channel`: XLA's own sum of all axes runs on one thread. A sum of
    # finite numbers that overflows only chooses the slower form.
    total = lax.optimization_barrier(x.sum(1)).sum()
    return lax.cond(jnp.isfinite(total), fast, exact, x)
