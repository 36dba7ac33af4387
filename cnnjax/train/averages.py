"""Moving averages of parameters and batch statistics over the updates of a training."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AverageState(NamedTuple):
    """The number of updates, int32, and the average of the parameters after each of them.

    `model_state` is the average of batch statistics if `with_statistics` has put them there.
    """

    updates: jax.Array
    average: optax.Params
    model_state: optax.Params = ()


def average_params(decay: float) -> optax.GradientTransformationExtraArgs:
    """Keep `sum_i decay^(t-i) params_i / sum_i decay^(t-i)` of the parameters after each of t updates; last in a chain.

    The average leaves out the initial parameters, which a plain moving average contains for 1 / (1 - decay) updates,
    and stays normalised: `average += (1 - decay) / (1 - decay^t) * (params - average)`. (`optax.ema` normalises when it
    is read, by `1 - decay^t`, whose float32 value is wrong by 0.02 % for decay 0.9999.)

    Batch statistics, which `update` takes as `model_state`, are averaged in the same way: those of the newest
    parameters do not fit the averaged parameters.

    Source: Polyak & Juditsky (1992) for averaging; Kingma & Ba, "Adam" (2015), section 3, for the normalisation.
    """

    def init(params: optax.Params) -> AverageState:
        return AverageState(jnp.int32(0), jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates,
        state: AverageState,
        params: optax.Params | None = None,
        *,
        model_state: optax.Params = (),
        **_: Any,
    ) -> tuple[optax.Updates, AverageState]:
        if params is None:
            raise ValueError("an average of parameters needs them: optimizer.update(gradients, state, params)")
        count = optax.safe_increment(state.updates)
        weight = (1 - decay) / -jnp.expm1(count * math.log(decay))
        newest = optax.apply_updates(params, updates), model_state
        old = state.average, state.model_state
        averages = optax.incremental_update(newest, old, weight)
        # The weights of an average of equal numbers need not add up to 1: what is frozen stays to the bit.
        averages = jax.tree.map(lambda x, y, mean: jnp.where(x == y, x, mean), old, newest, averages)
        return updates, AverageState(count, *averages)

    return optax.GradientTransformationExtraArgs(init, update)


def with_statistics(opt_state: optax.OptState, model_state: optax.Params) -> optax.OptState:
    """Return the initial state of an optimiser with batch statistics in its average, if it keeps one."""

    def join(node: Any) -> Any:
        return node._replace(model_state=jax.tree.map(jnp.copy, model_state)) if _is_average(node) else node

    return jax.tree.map(join, opt_state, is_leaf=_is_average)


def averaged_variables(
    opt_state: optax.OptState, params: optax.Params, model_state: optax.Params
) -> tuple[optax.Params, optax.Params]:
    """Return the averages of parameters and of batch statistics that an optimiser's state holds, or what is given."""
    averages = [node for node in jax.tree.leaves(opt_state, is_leaf=_is_average) if _is_average(node)]
    return (averages[0].average, averages[0].model_state) if averages else (params, model_state)


def averaged_params(opt_state: optax.OptState, params: optax.Params) -> optax.Params:
    """Return the average of the parameters that an optimiser's state holds, or `params` if it holds none."""
    return averaged_variables(opt_state, params, ())[0]


def _is_average(node: Any) -> bool:
    return isinstance(node, AverageState)
