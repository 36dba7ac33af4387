"""Gradients through many layers, against one JAX gradient of the whole stack; losses as the lecture writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.errors import UserError
from experiments import activations


def test_gradients_layer_by_layer_are_the_gradient_of_the_whole_stack(monkeypatch):
    monkeypatch.setattr(activations, "LAYERS", 4)
    norms = activations.gradients("tanh", "Glorot", seed=1)
    rng = np.random.default_rng(1)
    kernels = rng.normal(size=(4, 3, 3, 16, 16)) / 12
    x, gradient = (jnp.asarray(part, jnp.float32) for part in rng.normal(size=(2, 4, 8, 8, 16)))

    def loss(kernels, x):
        for kernel in kernels:
            x = jnp.tanh(ops.conv2d(x, kernel, padding=1, padding_mode="circular"))
        return (x * gradient).sum()

    of_kernels, of_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(kernels, jnp.float32), x)
    np.testing.assert_allclose(norms["kernels"], np.linalg.norm(of_kernels.reshape(4, -1), axis=1), rtol=1e-4)
    assert norms["signals"][0] == pytest.approx(float(jnp.linalg.norm(of_x.ravel())), rel=1e-4)


@pytest.mark.parametrize(
    ("piece", "ratios", "share", "verdicts"),
    [
        ("_vanishing", {"sigmoid": 1e-9, "tanh": 1e-9, "tanh Glorot": 0.1}, 0, "holds holds"),
        ("_vanishing", {"sigmoid": 1.0, "tanh": 0.1, "tanh Glorot": 0.1}, 0, "fails fails"),
        ("_vanishing", {"sigmoid": np.nan, "tanh": 1e-9, "tanh Glorot": 1e-9}, 0, "fails fails"),
        ("_rectifiers", {"ReLU": 1.0, "ReLU6": 0.1, "softplus": 1e-5, "sigmoid": 1e-20}, 0.4, "holds holds holds"),
        ("_rectifiers", {"ReLU": 1e-5, "ReLU6": 0.1, "softplus": 1e-5, "sigmoid": 1e-6}, 0.0, "fails fails fails"),
        ("_rectifiers", {"ReLU": 1e9, "ReLU6": 1e-9, "softplus": np.nan, "sigmoid": 0}, 0.4, "fails fails fails"),
    ],
)
def test_a_verdict_on_gradients_needs_what_was_found(monkeypatch, piece, ratios, share, verdicts):
    def gradients(name, initialization, *_):
        first = ratios.get(f"{name} {initialization}", ratios[name])
        return {"signals": np.array([first, 1.0]), "kernels": np.ones(2), "capped": np.array([share])}

    monkeypatch.setattr(activations, "gradients", gradients)
    assert [claim.verdict for claim in getattr(activations, piece)()] == verdicts.split()


def test_large_inputs_reach_the_cap_of_relu6_and_usual_ones_do_not():
    large, usual = (activations.gradients("ReLU6", "He", 0, scale)["capped"] for scale in (activations.LARGE, 1))
    assert large[0] > 0.3
    assert usual.max() == 0


def test_sigmoid_s_gradients_shrink_by_its_slope_of_a_quarter():
    ends = activations._ends(activations.gradients("sigmoid", "Glorot", seed=2))
    per_layer = ends["signals"] ** (1 / (activations.LAYERS - 1))
    assert 0.2 < per_layer < 0.26


def test_rectifiers_keep_their_gradients_with_he_s_kernels_and_lose_them_with_torch_s_default():
    kept, lost = (
        activations._ends(activations.gradients("ReLU", kind, seed=0))["signals"] for kind in ("He", "torch's default")
    )
    assert kept > activations.VANISHED
    assert lost == pytest.approx(kept * (1 / 6) ** (49 / 2), rel=1e-3)  # 49 kernels of a sixth of the variance


def test_the_lecture_s_losses_of_a_known_case():
    outputs, targets = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[1, 0], [0, 1]])
    losses = activations.lecture_losses(outputs, targets)
    assert losses["MSE"] == pytest.approx((0.5 + 0.125) / 2)
    assert losses["cross-entropy"] == pytest.approx(np.log(2) + np.log(4 / 3))


def test_a_seed_out_of_range_is_refused():
    with pytest.raises(UserError, match="`seed` must be from 0"):
        activations.Config(seed=2**31)
