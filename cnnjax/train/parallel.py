"""Data parallelism: one step, written per replica, mapped over the local devices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.errors import UserError, unknown_name
from cnnjax.train.state import Tree
from cnnjax.train.step import AXIS

MODES = ("shard_map", "pmap")


@dataclass(frozen=True)
class Parallel:
    """Where arrays lie and how a per-replica function is mapped.

    Args:
        mode: "shard_map" (under `jit`, one program over a mesh) or "pmap" (a copy of the state with a leading axis of
            devices).
        devices: the replicas' devices; default: all local ones.
    """

    mode: str = "shard_map"
    devices: Sequence[jax.Device] = field(default_factory=lambda: tuple(jax.local_devices()))

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("parallel mode", self.mode, MODES)

    @property
    def mesh(self) -> Mesh:
        """The devices as one axis."""
        return Mesh(np.array(self.devices), (AXIS,))

    def replicate(self, tree: Tree) -> Tree:
        """Put a copy of every array on every device; the originals stay as they are when a step reuses the copy."""
        if self.mode == "pmap":
            count = len(self.devices)
            stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)
            return jax.device_put(stacked, NamedSharding(self.mesh, PartitionSpec(AXIS)))
        own = jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
        return jax.device_put(own, NamedSharding(self.mesh, PartitionSpec()))

    def one_copy(self, tree: Tree) -> Tree:
        """Return replicated arrays as one device has them."""
        return jax.tree.map(lambda x: x[0], tree) if self.mode == "pmap" else tree

    def split(self, tree: Tree, axis: int = 0) -> Tree:
        """Give every device its share of arrays along `axis`."""
        if self.mode == "pmap":
            count = len(self.devices)
            return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), tree)
        if len(self.devices) == 1:
            return tree  # the compiled step places it; an explicit transfer would only cost time
        spec = PartitionSpec(*[None] * axis, AXIS)
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def map(self, function: Callable[[Any, Any, Any], Any], axis: int = 0, donate: bool = True) -> Any:
        """Compile `function(carry, constants, batch) -> carry` over the devices.

        Carry and constants are replicated, every array of the batch is split along `axis`, and the carry's memory is
        reused for the result.
        """
        donated = (0,) if donate else ()
        if self.mode == "pmap":
            return jax.pmap(
                function, axis_name=AXIS, in_axes=(0, 0, axis), devices=self.devices, donate_argnums=donated
            )
        whole, share = PartitionSpec(), PartitionSpec(*[None] * axis, AXIS)
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=(whole, whole, share), out_specs=whole, check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donated)

    def check_batch(self, batch_size: int) -> None:
        """Raise a UserError if a batch cannot be split evenly."""
        if batch_size % len(self.devices):
            raise UserError(
                f"a batch of {batch_size} images cannot be split over {len(self.devices)} devices: choose a multiple "
                f"of {len(self.devices)}"
            )
