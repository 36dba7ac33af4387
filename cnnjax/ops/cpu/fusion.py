"""Prevent XLA:CPU from computing a value again for each of its readers.

XLA fuses elementwise operations, gathers included, into every reader and repeats them there. That saves a little
memory traffic and can multiply a large computation: two image warps in a row took seven times as long as one. XLA drops
`lax.optimization_barrier` before it fuses, but it does not fuse across a call that it must not inline.

This module imports JAX alone, so that `cnnjax.data`, which uses nothing else of `ops`, may use it for augmentation.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata


def stored(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, with arguments and results stored in memory; the same holds for its derivatives.

    Only for code that runs on a CPU.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*arguments)


def stored_on_cpu(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`: on a CPU as `stored` does, on other devices fused as XLA chooses."""
    return lax.platform_dependent(*arguments, cpu=lambda *arguments: stored(function, *arguments), default=function)
