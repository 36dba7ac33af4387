"""Losses and parameters that are not finite: noticed before they are saved, their step found, their batch left out."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples
from cnnjax.train.advance import Advance
from cnnjax.train.parallel import Parallel
from cnnjax.train.seeds import over_seeds
from cnnjax.train.state import Batch, TrainState, Tree, count_steps


def is_sound(state: TrainState) -> bool:
    """Return whether parameters, statistics and the sums of loss and accuracy are finite; waits for the device."""
    return bool(_all_finite((state.params, state.model_state, state.sums)))


@jax.jit
def _all_finite(tree: Tree) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def make_careful_advance(
    step: Any, split: Examples, parallel: Parallel, seeds: int, skip: Callable[[int, int], None]
) -> Advance:
    """Return what runs step by step and leaves out each step that would end in numbers that are not finite.

    Of several seeds in one program, those whose numbers are finite take the step.

    Args:
        step: as for `make_advance`, of so many seeds.
        split: as for `make_advance`.
        parallel: as for `make_advance`.
        seeds: how many.
        skip: called with the number of a step that is left out, counted from 1, and that of the seed, from 0; may
            raise.
    """
    batch_axis = int(seeds > 1)
    one_step = parallel.map(step, axis=batch_axis, donate=False)
    # A program of its own, so that the step's is the one that runs elsewhere, to the same bits.
    choose = parallel.map(over_seeds(_sound_of, seeds), donate=False)

    def run(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[Tree]:
        for batch in split.batches(*map(parallel.own, (indices, weights))):
            before = np.atleast_1d(parallel.one_copy(carry).sums["count"])
            after = one_step(carry, constants, parallel.split(Batch(*batch), axis=batch_axis))  # type: ignore[arg-type]
            carry = choose(after, carry, ())
            one = parallel.one_copy(carry)
            for left_out in np.flatnonzero(np.atleast_1d(one.sums["count"]) == before):
                skip(count_steps(one), int(left_out))
            yield carry

    return run


def _sound_of(after: TrainState, before: TrainState, _: Tree) -> TrainState:
    """The state after a step if it is finite, else the one before it, which has done the step all the same."""
    sound = _all_finite((after.params, after.model_state, after.sums))
    return jax.tree.map(partial(jnp.where, sound), after, before)._replace(step=after.step)
