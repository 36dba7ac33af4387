"""The average of parameters over the updates of a training."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnnjax.train.state import Tree


class AverageState(NamedTuple):
    """How many updates there were, int32, and the average of the parameters after each of them."""

    updates: jax.Array
    average: Tree


def average_params(decay: float) -> optax.GradientTransformation:
    """Keep `sum_i decay^(t-i) params_i / sum_i decay^(t-i)` of the parameters after each of t updates; last in a chain.

    Without the initial parameters, which a plain moving average drags along for 1 / (1 - decay) updates, and kept
    normalised: `average += (1 - decay) / (1 - decay^t) * (params - average)`. (`optax.ema` normalises when it is read,
    by a `1 - decay^t` whose float32 value is off by 0.02 % for decay 0.9999.)

    Source: Polyak & Juditsky (1992) for averaging; Kingma & Ba, "Adam" (2015), section 3, for the normalisation.
    """

    def init(params: Tree) -> AverageState:
        return AverageState(jnp.int32(0), jax.tree.map(jnp.copy, params))

    def update(updates: Tree, state: AverageState, params: Tree | None = None) -> tuple[Tree, AverageState]:
        if params is None:
            raise ValueError("an average of parameters needs them: optimizer.update(gradients, state, params)")
        count = optax.safe_increment(state.updates)
        weight = (1 - decay) / -jnp.expm1(count * math.log(decay))
        newest = optax.apply_updates(params, updates)
        return updates, AverageState(count, optax.incremental_update(newest, state.average, weight))

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: Tree, params: Tree) -> Tree:
    """Return the average that an optimiser's state holds, or `params` if it holds none."""
    is_average = lambda node: isinstance(node, AverageState)  # noqa: E731
    averages = [node.average for node in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(node)]
    return averages[0] if averages else params
