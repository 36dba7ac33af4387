"""Running one compiled step over many batches: a loop from the host, or one program for all of them."""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax import lax

from cnnjax.data import Examples, Split
from cnnjax.train.parallel import Parallel
from cnnjax.train.state import Batch, Tree

log = logging.getLogger(__name__)

# The host hands out steps before they are done, JAX alone up to 32: that many would end before a signal is obeyed,
# and that many batches lie in memory.
STEPS_AHEAD = 4
TRACED = slice(5, 15)  # steps of a profile


class Advance(Protocol):
    """Runs steps over the examples that `indices` and `weights` name; yields the carry as it goes.

    Both are (steps, batch), or of several seeds (steps, seeds, batch).
    """

    def __call__(self, carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[Tree]:
        """Yield the carry after every step, or once after all of them."""
        ...


def make_advance(
    step: Any, split: Examples, parallel: Parallel, epoch_program: bool | None = None, batch_axis: int = 0
) -> Advance:
    """Compile a per-replica `step(carry, constants, batch) -> carry` for running over many batches.

    Args:
        step: as `make_train_step` and `make_eval_step` return it.
        split: the examples.
        parallel: the devices.
        epoch_program: True: the examples lie on the device and all steps are one compiled program; False, and always
            of a stream: a loop of compiled steps fed from the host. Default: one program except on CPUs, where XLA
            runs convolutions inside a compiled loop on one thread (measured: 10 to 27 times slower).
        batch_axis: of the axes that a step's batch has, the one over examples; 1 where seeds come first.
    """
    if epoch_program is None:
        epoch_program = parallel.devices[0].platform != "cpu"
    if not epoch_program or not isinstance(split, Split):
        one_step = parallel.map(step, axis=batch_axis)

        def from_host(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[Tree]:
            own = map(parallel.own, (indices, weights))
            for done, batch in enumerate(split.batches(*own)):
                placed = parallel.split(Batch(*batch), axis=batch_axis)  # type: ignore[arg-type]
                if done and done % STEPS_AHEAD == 0:  # now that the device has what it takes next
                    jax.block_until_ready(carry)
                carry = one_step(carry, constants, placed)
                yield carry

        return from_host

    def all_steps(carry: Tree, constants: Tree, order: Tree) -> Tree:
        examples, constants = constants

        def body(carry: Tree, batch: Tree) -> tuple[Tree, None]:
            index, weight = batch
            return step(carry, constants, Batch(examples.images[index], examples.labels[index], weight)), None

        return lax.scan(body, carry, order)[0]

    examples = parallel.replicate(Split(*map(np.asarray, split)))
    program = parallel.map(all_steps, axis=1 + batch_axis)

    def on_device(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[Tree]:
        own = tuple(map(parallel.own, (indices, weights)))
        yield program(carry, (examples, constants), parallel.split(own, axis=1 + batch_axis))

    return on_device


def traced_once(advance: Advance, folder: Path) -> Advance:
    """Write a trace of the steps `TRACED` of the first call, after those that compile, for TensorBoard or Perfetto."""
    calls = itertools.count()

    def run(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[Tree]:
        if next(calls):
            yield from advance(carry, constants, indices, weights)
            return
        for part in (slice(0, TRACED.start), TRACED, slice(TRACED.stop, None)):
            if len(indices[part]):
                with _trace(folder) if part is TRACED else nullcontext():
                    for state in advance(carry, constants, indices[part], weights[part]):
                        carry = jax.block_until_ready(state) if part is TRACED else state
                        yield carry

    return run


@contextmanager
def _trace(folder: Path) -> Iterator[None]:
    """Trace what runs inside the block; that the trace cannot be written is said, and training goes on."""
    try:
        jax.profiler.start_trace(str(folder))
    except Exception as error:  # the one before it could not be ended
        log.warning("no trace in %s (%s): training goes on", folder, error)
        yield
        return
    try:
        yield
    finally:
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # whatever a disk does
            log.warning("the trace in %s cannot be written (%s): training goes on", folder, error)
