"""The operations against torch's, forward and all gradients; run with the `parity` extra: `pytest -m parity`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

from cnnjax import ops
from tests.ops.test_conv import convolutions
from tests.ops.test_pool import poolings

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="the parity extra is not installed")
F = torch.nn.functional


def to_torch(x, *order):
    return torch.tensor(np.asarray(x, np.float32).transpose(order).copy(), requires_grad=True)


def from_torch(x, *order):
    return x.detach().numpy().transpose(order)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(np.abs(theirs).max(), 1))


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_conv2d_and_its_gradients(case):
    x, kernel, options = case
    theirs_x, theirs_kernel = to_torch(x, 0, 3, 1, 2), to_torch(kernel, 3, 2, 0, 1)
    (top, bottom), (left, right) = options["padding"]
    padded = F.pad(theirs_x, (left, right, top, bottom))
    expected = F.conv2d(padded, theirs_kernel, None, options["stride"], 0, options["dilation"], options["groups"])
    y, pull = jax.vjp(lambda x, k: ops.conv2d(x, k, **options), jnp.float32(x), jnp.float32(kernel))
    assert_close(y, from_torch(expected, 0, 2, 3, 1))
    seed = np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    expected.backward(to_torch(seed, 0, 3, 1, 2))
    grad_x, grad_kernel = pull(jnp.asarray(seed))
    assert_close(grad_x, from_torch(theirs_x.grad, 0, 2, 3, 1))
    assert_close(grad_kernel, from_torch(theirs_kernel.grad, 2, 3, 1, 0))


@settings(max_examples=40, deadline=None)
@given(poolings())
def test_max_pool2d_and_its_gradient_with_ties(case):
    x, window, options = case
    # torch takes at most half the window's taps, ours half of what it spans with dilation
    assume(all(p <= k // 2 for p, k in zip(options["padding"], window, strict=True)))
    theirs_x = to_torch(x, 0, 3, 1, 2)
    expected = F.max_pool2d(theirs_x, window, **options)
    y, pull = jax.vjp(lambda x: ops.max_pool2d(x, window, **options), jnp.asarray(x))
    np.testing.assert_array_equal(y, from_torch(expected, 0, 2, 3, 1))
    seed = np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    expected.backward(to_torch(seed, 0, 3, 1, 2))
    assert_close(pull(jnp.asarray(seed))[0], from_torch(theirs_x.grad, 0, 2, 3, 1))


def test_torch_layers_start_within_the_bounds_of_the_scheme_of_that_name():
    bound = 1 / np.sqrt(144)
    for layer in (torch.nn.Conv2d(16, 64, 3), torch.nn.Linear(144, 512)):
        assert 0.98 * bound < layer.weight.abs().max().item() <= bound
        assert 0.9 * bound < layer.bias.abs().max().item() <= bound
