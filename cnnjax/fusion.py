"""Keeping XLA:CPU from computing something again for each of its readers.

It fuses what is elementwise, gathers included, into every reader and repeats it there: a little memory traffic saved, a
large computation multiplied (two warps in a row took seven times as long as one). It drops
`lax.optimization_barrier` before it fuses, but leaves a call alone that it is told not to inline.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata


def stored(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, computed once, from stored arguments, and stored; so is each of its derivatives.

    For code that only a CPU runs.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*arguments)


def stored_on_cpu(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, on a CPU as `stored` does; elsewhere XLA fuses as it sees fit."""
    return lax.platform_dependent(*arguments, cpu=lambda *arguments: stored(function, *arguments), default=function)
