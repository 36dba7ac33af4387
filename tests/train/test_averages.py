"""A moving average is of batch statistics too, and what is judged is that average of both."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.train.averages import averaged_variables
from tests.train.test_loop import TASK, Small, images


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averaged_parameters_are_judged_with_averaged_batch_statistics(accumulate, one_device):
    recipe = train.Recipe(optimizer="sgd", lr=0.1, ema=0.5, accumulate=accumulate)
    step = train.compile_step(Small(nnx.Rngs(0)), TASK, recipe, one_device, steps_per_epoch=4)
    network, state, data, after = step.network, step.start(), images(20), []
    for _ in range(4):
        state = step(state, data.take(slice(None), np.ones(20, np.float32)))
        after.append(jax.tree.map(np.array, (state.params, state.model_state)))
    updated = after[accumulate - 1 :: accumulate]
    weights = 0.5 ** np.arange(len(updated) - 1, -1, -1)
    expected = jax.tree.map(lambda *leaves: np.average(np.stack(leaves), 0, weights).astype(np.float32), *updated)
    average = averaged_variables(state.opt_state, state.params, state.model_state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), average, expected)

    model = network.merge(*expected)
    model.eval()
    logits = np.asarray(model(data.images.astype(np.float32) / 255), np.float64)
    likely = logits[np.arange(20), data.labels] - np.log(np.exp(logits).sum(-1))
    loss, newest = (
        train.evaluate(network, chosen, TASK, data, parallel=one_device).figures["loss"]
        for chosen in (state, state._replace(opt_state=()))
    )
    assert loss == pytest.approx(-likely.mean(), rel=1e-5)
    assert abs(newest - loss) > 1e-3 * loss
