"""Losses and parameters that are not finite: noticed before they are saved, their step found, their batch left out."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples
from cnnjax.train.state import TrainState, Tree, count_steps
from cnnjax.train.step import Advance, CompiledStep


def is_finite(state: TrainState) -> bool:
    """Return whether parameters, statistics and the sums of the epoch are finite; waits for the device."""
    return bool(_all_finite((state.params, state.model_state, state.sums)))


@jax.jit
def _all_finite(tree: Tree) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def carefully_over(step: CompiledStep, examples: Examples, skip: Callable[[int, int], None]) -> Advance:
    """Return what runs step by step and leaves out each step that would end in numbers that are not finite.

    Of several seeds in one program, those whose numbers are finite take the step.

    Args:
        step: the step, of one seed or of several.
        examples: what the batches are taken from.
        skip: called with the number of a step that is left out, counted from 1, and that of the seed, from 0; may
            raise.
    """
    parallel, axis = step.parallel, step.batch_axis
    one_step = parallel.map(step.replica, axis=axis, donate=False)
    # A program of its own, so that the step's is the one that runs elsewhere, to the same bits.
    choose = parallel.map(jax.vmap(_finite_of) if axis else _finite_of, donate=False)

    def run(carry: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[tuple[int, Tree]]:
        for done, batch in enumerate(examples.batches(*map(parallel.own, (indices, weights)))):
            before = np.atleast_1d(parallel.one_copy(carry).sums["count"])
            after = one_step(carry, step.constants, parallel.split(batch, axis=axis))
            carry = choose(after, carry, ())
            one = parallel.one_copy(carry)
            for left_out in np.flatnonzero(np.atleast_1d(one.sums["count"]) == before):
                skip(count_steps(one), int(left_out))
            yield done + 1, carry

    return run


def _finite_of(after: TrainState, before: TrainState, _: Tree) -> TrainState:
    """The state after a step if it is finite, else the one before it, which has done the step all the same."""
    finite = _all_finite((after.params, after.model_state, after.sums))
    return jax.tree.map(partial(jnp.where, finite), after, before)._replace(step=after.step)
