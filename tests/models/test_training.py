"""Every network learns: a few steps on generated shapes, with another head, a frozen stem and a faster head."""

import fnmatch

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import data, models, train
from cnnjax.nn import path_name
from cnnjax.train.optimizers import make_optimizer
from cnnjax.train.step import Constants, make_train_step

pytestmark = pytest.mark.zoo

CLASSES, BATCH, STEPS = 10, 8, 12
AUTOENCODERS = ("conv_autoencoder", "denoising_autoencoder")
# Of images, where 64 pixels are not what the network is for; and what would need larger ones.
SIZES = {"all_cnn": 32, "densenet_bc": 32, "fractalnet": 32, "lecture": 32, "plain": 32, "vgg16_attention": 32}
SIZES |= {f"resnet{depth}": 32 for depth in (20, 32, 44, 56, 110)} | {"inception_v3": 96}
OPTIONS = {"inception_v3": {"auxiliary": False}}


def size_of(name):
    return next((size for start, size in SIZES.items() if name.startswith(start)), 64)


def batch(size):
    images = data.shapes.generate(BATCH, size=size, seed=0).images
    return train.Batch(images, np.arange(BATCH, dtype=np.int32) % CLASSES, np.ones(BATCH, np.float32))


def parameters(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_name(tuple(getattr(key, "key", key) for key in path)): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("name", [name for name in models.list_models() if name not in AUTOENCODERS])
def test_the_loss_falls_and_only_what_is_not_frozen_changes(name, one_device):
    size = size_of(name)
    model = models.create_model(name, num_classes=3, **OPTIONS.get(name, {}))
    models.replace_head(model, CLASSES)
    model.eval()
    stem = next(row.name for row in models.layer_rows(model, (size, size, 3)) if row.params)
    model.train()
    recipe = train.Recipe(freeze=stem, lr=3e-4, lr_factors=f"{model.heads[0]}=3")
    optimizer = make_optimizer(recipe, STEPS, 1)
    structure, state = train.split_model(model, optimizer)
    step = one_device.map(make_train_step(structure, optimizer, recipe))
    before, losses = parameters(state.params), []
    state, constants = one_device.replicate(state), one_device.replicate(Constants(jax.random.key(0)))
    for _ in range(STEPS):
        total = float(state.sums["loss"])
        state = step(state, constants, batch(size))
        losses.append((float(state.sums["loss"]) - total) / BATCH)
    assert np.mean(losses[-3:]) < np.mean(losses[:2]), losses
    after = parameters(state.params)
    still = {key for key in after if np.array_equal(before[key], after[key])}
    assert still >= {key for key in after if fnmatch.fnmatch(key, f"{stem}.*")}
    assert {key for key in after if key.startswith(model.heads[0])} & still == set()


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_s_error_falls(name):
    model = models.create_model(name)
    x = batch(32).images.astype(np.float32) / 255
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adam(1e-3)
    moments = optimizer.init(params)

    @jax.jit
    def step(params, moments):
        def error(params):
            return ((nnx.merge(graphdef, params, rest, copy=True)(x) - x) ** 2).mean()

        loss, gradients = jax.value_and_grad(error)(params)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(params, updates), moments, loss

    losses = []
    for _ in range(30):
        params, moments, loss = step(params, moments)
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 2
