"""Gradient checkpointing stores less, and computes the same."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, nn, runs, train
from cnnjax.data import Split
from cnnjax.train.remat import cuts_of, rematerialized
from tests.train.test_loop import TASK, Plain, Small, StopAfter, fit, images
from tests.train.test_recipe import batch_of, one_step


def chain(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return x


def arguments(depth=16, width=8, batch=64):
    keys = jax.random.split(jax.random.key(0), depth)
    return [jax.random.normal(key, (width, width)) for key in keys], jax.random.normal(keys[0], (batch, width))


def test_a_function_has_the_same_values_gradients_and_second_derivatives():
    params, x = arguments(width=3, batch=4)

    def everything(function):
        of_one = lambda x: function(params, x).sum()  # noqa: E731
        return function(params, x), jax.grad(of_one)(x), jax.vmap(jax.grad(of_one))(x), jax.hessian(of_one)(x[0])

    for a, b in zip(jax.jit(everything, static_argnums=0)(rematerialized(chain)), everything(chain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_is_stored_is_what_crosses_the_cuts():
    """The square root of the layers, as Chen et al.: JAX itself says what the backward pass is given."""
    params, x = arguments(depth=36)

    def stored(function):
        _, backward = jax.vjp(lambda x: function(params, x), x)
        weights = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
        return sum(a.nbytes for a in jax.tree.leaves(backward) if a.unsafe_buffer_pointer() not in weights)

    assert stored(rematerialized(chain)) < 0.5 * stored(chain)


def test_cuts_are_where_little_crosses():
    """Blocks of three wide layers with thin ends: no cut is within a block."""

    def blocks(ws, x):
        for wide, thin in ws:
            for _ in range(3):
                y = jnp.tanh(jnp.repeat(x, 16, 1)) * wide
            x = y.reshape(len(x), -1, 16).sum(-1) * thin
        return x

    ws = [(jnp.ones(128), jnp.ones(8))] * 9
    jaxpr = jax.make_jaxpr(blocks)(ws, jnp.ones((32, 8))).jaxpr
    cuts = cuts_of(jaxpr)
    assert cuts
    for cut in cuts:
        earlier = {one for equation in jaxpr.eqns[:cut] for one in equation.outvars}
        crossing = {one for equation in jaxpr.eqns[cut:] for one in equation.invars if one in earlier}
        assert sum(one.aval.size for one in crossing) <= 32 * 8
    assert cuts_of(jax.make_jaxpr(lambda x: x)(1.0).jaxpr) == []


@pytest.mark.parametrize("model", [Plain, Small])
def test_a_step_is_the_same_step(model, one_device):
    """Dropout draws the same again, and batch statistics are counted once."""
    batch = batch_of(images(72))
    recipe = train.Recipe(optimizer="sgd", lr=0.1, l2=1e-3)
    plain, _ = one_step(model, recipe, batch, one_device)
    ours, _ = one_step(model, dataclasses.replace(recipe, remat=True), batch, one_device)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


class Deep(nn.Module):
    """Small residual blocks; the layers have no names in common with any network of the zoo."""

    def __init__(self, rngs):
        self.stem = nn.Conv(3, 16, 3, padding=1, rngs=rngs)
        self.parts = nnx.List([nn.Conv(16, 16, 3, padding=1, rngs=rngs) for _ in range(8)])
        self.norms = nnx.List([nn.BatchNorm(16) for _ in range(8)])
        self.dense = nn.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for part, norm in zip(self.parts, self.norms, strict=True):
            x = x + nnx.relu(norm(part(x)))
        return self.dense(x.mean((1, 2)))


def temporary_bytes(model, recipe, parallel, split):
    step = train.compile_step(model, TASK, recipe, parallel)
    batch = jax.tree.map(lambda one: jax.ShapeDtypeStruct((64, *one.shape[1:]), one.dtype), split.spec)
    compiled = step.parallel.map(step.replica).lower(step.initial, step.constants, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_the_compiled_step_needs_less_memory(one_device):
    split = images(64)
    plain, ours = (
        temporary_bytes(Deep(nnx.Rngs(0)), train.Recipe(remat=remat), one_device, split) for remat in (False, True)
    )
    assert ours < 0.75 * plain


@pytest.mark.published
@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_published_networks_need_less_memory(name, one_device):
    split = Split(np.zeros((8, 64, 64, 3), np.uint8), np.zeros(8, np.int32))
    plain, ours = (
        temporary_bytes(models.create_model(name, num_classes=4), train.Recipe(remat=remat), one_device, split)
        for remat in (False, True)
    )
    assert ours < 0.75 * plain


@pytest.mark.published
def test_networks_with_auxiliary_classifiers_are_traced():
    split, recipe = Split(np.zeros((128, 64, 64, 3), np.uint8), np.zeros(128, np.int32)), train.Recipe(remat=True)
    build = partial(models.create_model, "googlenet", num_classes=4)
    train.check_training({"googlenet": lambda seed: build(seed=seed)}, TASK, recipe, split)


def test_a_stopped_training_resumes_to_the_same_bits(tmp_path):
    parallel = train.Parallel("shard_map", jax.local_devices()[:2])
    options = {"model": Small, "epochs": 2, "remat": True, "sync_batch_norm": True}
    whole = fit(tmp_path / "whole", parallel, **options)
    with pytest.raises(runs.Interrupted):
        fit(tmp_path / "stopped", parallel, callbacks=[StopAfter(4)], **options)
    resumed = fit(tmp_path / "stopped", parallel, **options)
    assert train.tree_sha256(resumed.state) == train.tree_sha256(whole.state)
    plain = fit(tmp_path / "plain", parallel, **options | {"remat": False, "epochs": 1})
    assert plain.history["train/loss"][0] == pytest.approx(whole.history["train/loss"][0], rel=1e-4)
