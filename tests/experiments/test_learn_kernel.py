"""Gradient descent on a kernel goes the way that theory says, and ends at the hidden one."""

import numpy as np
import pytest

from cnnjax.errors import UserError
from experiments import learn_kernel
from experiments.learn_kernel import Config, Task

RANDOM = np.random.default_rng(0)
TASK = Task(
    learn_kernel.standardised(RANDOM.random((7, 8))), {"one": RANDOM.normal(size=(2, 3)), "two": np.eye(3)[:2] * 1.0}
)


def test_the_claim_fails_where_there_is_too_little_time(monkeypatch):
    monkeypatch.setattr(learn_kernel, "STEPS", 20)
    assert not any(claim.ok for claim in learn_kernel.claims(None))


def test_plain_gradient_descent_goes_the_way_that_its_closed_form_says():
    """`error(t) = (I - lr H)^t error(0)`, where H is twice the mean of patch times patch."""
    lr = 0.5 / learn_kernel.curvatures(TASK)[-1]
    path = learn_kernel.learn(TASK, steps=30, lr=lr, momentum=0)
    patches = np.lib.stride_tricks.sliding_window_view(TASK.image.astype(float), (2, 3)).reshape(-1, 6)
    shrink = np.eye(6) - lr * 2 * patches.T @ patches / len(patches)
    for number, hidden in enumerate(TASK.hidden.values()):
        error = path.kernels[0, ..., number].ravel() - hidden.ravel()
        for step in range(31):
            expected = hidden.ravel() + np.linalg.matrix_power(shrink, step) @ error
            np.testing.assert_allclose(path.kernels[step, ..., number].ravel(), expected, atol=2e-5)
            loss = np.mean((patches @ (expected - hidden.ravel())) ** 2)
            assert path.losses[step, number] == pytest.approx(loss, abs=2e-5)


def test_the_curvatures_are_those_of_the_loss():
    patches = np.lib.stride_tricks.sliding_window_view(TASK.image.astype(float), (2, 3)).reshape(-1, 6)
    np.testing.assert_allclose(
        learn_kernel.curvatures(TASK), np.sort(2 * np.linalg.svd(patches, compute_uv=False) ** 2 / len(patches))
    )


def test_another_seed_starts_elsewhere_and_ends_at_the_same_kernel():
    lr = 1 / learn_kernel.curvatures(TASK)[-1]
    first, second = (learn_kernel.learn(TASK, 300, lr, 0.5, seed=seed) for seed in (0, 1))
    assert np.abs(first.kernels[0] - second.kernels[0]).max() > 0.05
    np.testing.assert_allclose(first.kernels[-1], second.kernels[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "`steps` must be from 1"),
        ({"momentum": 1.0}, "`momentum` must be at least 0 and less than 1"),
        ({"kernel": "1 2/3"}, "`kernel` '1 2/3'"),
        ({"kernel": "/".join(["1 0"] * 8)}, "at most 7 rows"),
        ({"seed": -1}, "`seed` must be from 0"),
        ({"lr": 1.0}, "`lr` must be above 0 and below 0.22"),
        ({"photograph": "rose"}, "photograph 'rose'"),
    ],
)
def test_a_mistake_in_the_options_is_named(options, said):
    with pytest.raises(UserError, match=said):
        learn_kernel.load(Config(**options))


def test_just_above_the_largest_learning_rate_it_diverges():
    limit = 2 / learn_kernel.curvatures(TASK)[-1]
    below, above = (learn_kernel.learn(TASK, 300, share * limit, 0).losses[-1].max() for share in (0.9, 1.1))
    assert below < 1e-3
    assert above > 10
