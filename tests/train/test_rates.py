"""The learning-rate range test against NumPy in float64: the rates that are applied, the smoothing, and the rule."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import tasks, train
from cnnjax.data import Split, epoch_order
from cnnjax.errors import RunError, UserError
from cnnjax.train.rates import suggest

RECIPE = train.Recipe(optimizer="momentum", momentum=0.5, batch_size=8, seed=3, weight_decay=0.01)
TASK = tasks.Classification(class_names=("a", "b", "c"))


class Softmax(nnx.Module):
    """Softmax regression of all pixels."""

    def __init__(self):
        self.dense = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dense(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 20).astype(np.int32)
    images = rng.uniform(0, 1, (20, 2, 2, 1)).astype(np.float32)
    images[np.arange(20), labels // 2, labels % 2, 0] = 1
    return Split(images, labels)


def losses_by_numpy(split, model, rates):
    """Momentum and decoupled weight decay of softmax regression, with a rate for each step."""
    kernel, bias = np.float64(model.dense.kernel[...]), np.float64(model.dense.bias[...])
    velocity, decay, losses = [np.zeros((4, 3)), np.zeros(3)], [0.01, 0.0], []
    orders = [epoch_order(3, epoch, 20, 8) for epoch in range(math.ceil(len(rates) / 3))]
    indices, weights = (np.concatenate(parts) for parts in zip(*orders, strict=True))
    for step, rate in enumerate(rates):
        x = np.float64(split.images[indices[step]]).reshape(8, 4)
        y = np.eye(3)[np.asarray(split.labels)[indices[step]]]
        logits = x @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        w = weights[step][:, None] / weights[step].sum()
        losses.append(-np.sum(w * y * np.log(p)))
        for k, gradient in enumerate((x.T @ (w * (p - y)), (w * (p - y)).sum(0))):
            velocity[k] = gradient + 0.5 * velocity[k]
        kernel = kernel - rate * (velocity[0] + decay[0] * kernel)
        bias = bias - rate * (velocity[1] + decay[1] * bias)
    return losses


def smoothed_by_numpy(losses, deviation):
    """Means weighted by a Gaussian, cut off at 4 deviations; the first and the last loss are repeated outside."""
    reach = int(4 * deviation + 0.5)
    weights = np.array([math.exp(-(k**2) / (2 * deviation**2)) for k in range(-reach, reach + 1)])
    padded = [losses[0]] * reach + list(losses) + [losses[-1]] * reach
    return [np.dot(weights, padded[k : k + 2 * reach + 1]) / weights.sum() for k in range(len(losses))]


def valley(lowest_at, rates, steepness=0.3):
    return 1 + steepness * np.log10(np.asarray(rates) / lowest_at) ** 2


def test_each_step_has_its_rate(split):
    model = Softmax()
    before = np.asarray(model.dense.kernel[...])
    sweep = train.find_lr(model, TASK, RECIPE, split, lowest=1e-3, highest=2.0, steps=12)
    np.testing.assert_allclose(sweep.rates, [1e-3 * 2000 ** (k / 11) for k in range(12)], rtol=1e-12)
    np.testing.assert_allclose(sweep.losses, losses_by_numpy(split, Softmax(), sweep.rates), rtol=1e-5)
    np.testing.assert_allclose(sweep.smoothed, smoothed_by_numpy(sweep.losses, 0.03 * 12), rtol=1e-12)
    np.testing.assert_array_equal(model.dense.kernel[...], before)


def test_the_rates_own_options_of_a_recipe_are_left_out_and_the_sweep_is_repeatable(split):
    options = {"lr": 7.0, "schedule": "step", "warmup_epochs": 1.0, "decay_rate": 0.5, "ema": 0.9}
    recipe = train.Recipe(
        optimizer="momentum", momentum=0.5, batch_size=8, seed=3, weight_decay=0.01, epochs=9, **options
    )
    first, second = (train.find_lr(Softmax(), TASK, one, split, highest=1.0, steps=12) for one in (RECIPE, recipe))
    np.testing.assert_array_equal(first.losses, second.losses)


def test_a_tenth_of_the_rate_with_the_lowest_smoothed_loss_is_suggested():
    rates = np.geomspace(1e-6, 10, 141)  # 20 a decade
    losses = valley(0.02, rates)
    losses[30] = 0  # a single batch does not decide
    smoothed, rate, why = suggest(rates, losses, 141)
    expected = smoothed_by_numpy(losses, 0.03 * 141)
    np.testing.assert_allclose(smoothed, expected, rtol=1e-12)
    assert rate == pytest.approx(rates[np.argmin(expected)] / 10, rel=0.05)
    assert rate == pytest.approx(0.002, rel=0.06)
    assert rate == 0.002
    assert why == "a tenth of 0.02, the rate at which the smoothed loss is the lowest"


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (valley(1e3, np.geomspace(1e-6, 10, 100)), "the loss still falls at the highest rate, 10: raise `highest`"),
        (valley(2e-6, np.geomspace(1e-6, 10, 100), -0.9), "the loss still falls at the highest rate"),
        (valley(3e-6, np.geomspace(1e-6, 10, 100), 5.0), "near the start: lower `lowest`"),
        (2 + 0.01 * np.cos(np.arange(100)), "the loss falls at no rate by more than its noise"),
        (np.linspace(1, 3, 100), "the loss falls at no rate"),
        (np.array([2.3, 2.3]), "the loss is not finite after 2 steps: lower `lowest`"),
    ],
)
def test_a_sweep_that_shows_no_rate_says_why(losses, why):
    rates = np.geomspace(1e-6, 10, 100)[: len(losses)]
    _, rate, said = suggest(rates, losses, 100)
    assert rate is None
    assert why in said


def test_a_sweep_ends_when_the_loss_diverges(split):
    recipe = train.Recipe(optimizer="sgd", batch_size=16)
    sweep = train.find_lr(Softmax(), TASK, recipe, split, lowest=0.1, highest=1e7, steps=60)
    assert 10 <= len(sweep.rates) == len(sweep.losses) == len(sweep.smoothed) < 60
    means = [np.mean(sweep.losses[k - 5 : k]) for k in range(10, len(sweep.losses) + 1)]
    limit = 4 * np.mean(sweep.losses[:5])
    assert means[-1] > limit
    assert max(means[:-1], default=0) <= limit


def test_what_cannot_be_swept_is_refused(split):
    def find(split=split, **options):
        return train.find_lr(Softmax(), TASK, RECIPE, split, **options)

    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(UserError, match="`lowest` must be larger than 0 and less than `highest`"):
            find(lowest=low, highest=high)
    with pytest.raises(UserError, match="`steps` must be at least 10, got 9"):
        find(steps=9)
    with pytest.raises(UserError, match="batch of 8 images is larger than the 4 images"):
        find(split.first(4))
    model = Softmax()
    model.dense.bias[...] = jnp.full(3, jnp.nan)
    with pytest.raises(RunError, match="not finite before the first update"):
        train.find_lr(model, TASK, RECIPE, split)
