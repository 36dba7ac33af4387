"""Data parallelism: one step, written per replica, mapped over the devices of all processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.errors import UserError, unknown_name
from cnnjax.train.state import Tree

Mode = Literal["shard_map", "pmap"]
MODES: tuple[Mode, ...] = get_args(Mode)
AXIS = "data"  # the mapped axis over which a batch is split


@dataclass(frozen=True)
class Parallel:
    """Where arrays are placed and how a per-replica function is mapped.

    Args:
        mode: "shard_map" (under `jit`, one program over a mesh) or "pmap" (a state with a leading axis of devices).
        devices: the replicas' devices; default: all devices of all processes, those of one process side by side.
        epoch_program: whether examples in memory lie on the device and all steps of an epoch are one compiled program,
            instead of a loop of compiled steps fed from the host. Default: except on CPUs, where XLA runs convolutions
            inside a compiled loop on one thread (measured: 10 to 27 times slower).
        barriers: whether compiled steps keep what is to be computed a second time apart from the first, as gradient
            checkpointing needs.
    """

    mode: Mode = "shard_map"
    devices: Sequence[jax.Device] = field(
        default_factory=lambda: tuple(sorted(jax.devices(), key=lambda device: (device.process_index, device.id)))
    )

    epoch_program: bool | None = None
    barriers: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("parallel mode", self.mode, MODES)
        if self.mode == "pmap" and self.shared:
            raise UserError("pmap maps over the devices of one process alone: for several processes use shard_map")

    @property
    def shared(self) -> bool:
        """Whether some of the devices belong to another process."""
        return len(self.local) < len(self.devices)

    @cached_property
    def local(self) -> Sequence[jax.Device]:
        """The devices of this process."""
        return [device for device in self.devices if device.process_index == jax.process_index()]

    @property
    def whole_epochs(self) -> bool:
        """Whether an epoch is one program."""
        return self.devices[0].platform != "cpu" if self.epoch_program is None else self.epoch_program

    @property
    def mesh(self) -> Mesh:
        """The devices as one axis."""
        return Mesh(np.array(self.devices), (AXIS,))

    def replicate(self, tree: Tree) -> Tree:
        """Put a copy of every array on every device; the originals stay valid when a step donates the copy."""
        if self.mode == "pmap":
            count = len(self.devices)
            stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)
            return jax.device_put(stacked, NamedSharding(self.mesh, PartitionSpec(AXIS)))
        own = jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
        return self._placed(own, PartitionSpec())

    def one_copy(self, tree: Tree) -> Tree:
        """Return replicated arrays as one device of this process has them."""
        if self.shared:
            return jax.tree.map(lambda x: x.addressable_data(0), tree)
        if self.mode == "pmap":  # not x[0], a sum over devices that turns -0.0 into 0.0
            return jax.tree.map(lambda x: x.addressable_data(0)[0], tree)
        return tree

    def own(self, array: np.ndarray) -> np.ndarray:
        """Return the part of an array that the devices of this process take; its last axis is the batch."""
        if not self.shared:
            return array
        share, first = array.shape[-1] // len(self.devices), self.devices.index(self.local[0])
        return array[..., first * share : (first + len(self.local)) * share]

    def split(self, tree: Tree, axis: int = 0) -> Tree:
        """Distribute arrays, which hold the part of this process, over its devices along `axis`."""
        if self.mode == "pmap":
            count = len(self.devices)
            return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), tree)
        if len(self.devices) == 1 and self.devices[0].platform == "cpu":
            return tree  # the compiled step takes it as it is; an explicit transfer costs time
        return self._placed(tree, PartitionSpec(*[None] * axis, AXIS))

    def _placed(self, tree: Tree, spec: PartitionSpec) -> Tree:
        if self.shared:  # `jax.device_put` would compare the values of the processes
            return multihost_utils.host_local_array_to_global_array(tree, self.mesh, spec)
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
        return jax.jit(mapped, donate_argnums=donated, compiler_options=self._compiler_options)

    @property
    def _compiler_options(self) -> dict[str, Any] | None:
        """XLA:CPU removes the barriers of `jax.checkpoint` first of all, then finds the same results computed twice."""
        keeps = self.barriers and self.devices[0].platform == "cpu"
        return {"xla_disable_hlo_passes": "cse_barrier_expander"} if keeps else None

    def map_examples(self, function: Callable[[Any, Any], Any]) -> Any:
        """Compile `function(constants, batch) -> outputs` over the devices, with outputs split as the batch is."""
        if self.mode == "pmap":
            return jax.pmap(function, axis_name=AXIS, devices=self.devices)
        share = PartitionSpec(AXIS)
        specs = (PartitionSpec(), share)
        return jax.jit(jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=share, check_vma=False))

    def gather(self, tree: Tree) -> Tree:
        """Return the outputs of `map_examples` as NumPy arrays of the whole batch, in every process."""
        if self.mode == "pmap":
            return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), tree)
        if self.shared:
            return multihost_utils.process_allgather(tree, tiled=True)
        return jax.tree.map(np.asarray, tree)

    def check_batch(self, batch_size: int) -> None:
        """Raise a UserError if a batch cannot be split evenly."""
        if batch_size % len(self.devices):
            raise UserError(
                f"a batch of {batch_size} images cannot be split over {len(self.devices)} devices: choose a multiple "
                f"of {len(self.devices)}"
            )
