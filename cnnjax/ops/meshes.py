"""Meshes with explicit axes, where JAX wants to know how every intermediate array is sharded."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def sharded_by_batch(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let XLA shard what happens inside a function of images; its result is sharded as the first array's batch is.

    A CPU's forms reshape and split their arrays in ways for which JAX asks for a sharding by hand. Outside of meshes
    with explicit axes nothing changes.
    """

    @functools.wraps(function)
    def wrapped(*arrays: jax.Array, **options: Any) -> Any:
        sharding = jax.typeof(arrays[0]).sharding
        if AxisType.Explicit not in sharding.mesh.axis_types:
            return function(*arrays, **options)
        out = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
        return jax.sharding.auto_axes(functools.partial(function, **options), out_sharding=out)(*arrays)

    return wrapped
