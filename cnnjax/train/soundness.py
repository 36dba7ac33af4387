"""Losses and parameters that are not finite: noticed before they are saved, their step found, their batch left out."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples
from cnnjax.train.advance import Advance
from cnnjax.train.parallel import Parallel
from cnnjax.train.state import Batch, TrainState, Tree


def is_sound(state: TrainState) -> bool:
    """Return whether parameters, statistics and the sums of loss and accuracy are finite; waits for the device."""
    return bool(_all_finite((state.params, state.model_state, state.sums)))


@jax.jit
def _all_finite(tree: Tree) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def make_careful_advance(
    step: Any, split: Examples, parallel: Parallel, batch_axis: int, skip: Callable[[int], None]
) -> Advance:
    """Return what runs step by step and leaves out each step that would end in numbers that are not finite.

    Args:
        step: as for `make_advance`.
        split: as for `make_advance`.
        parallel: as for `make_advance`.
        batch_axis: as for `make_advance`.
        skip: called with the number of a step that is left out, counted from 1; may raise.
    """
    one_step = parallel.map(step, axis=batch_axis, donate=False)

    def run(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[Tree]:
        for batch in split.batches(*map(parallel.own, (indices, weights))):
            after = one_step(carry, constants, parallel.split(Batch(*batch), axis=batch_axis))  # type: ignore[arg-type]
            if is_sound(parallel.one_copy(after)):
                carry = after
            else:
                skip(int(np.max(parallel.one_copy(after).step)))
                carry = carry._replace(step=after.step)
            yield carry

    return run
