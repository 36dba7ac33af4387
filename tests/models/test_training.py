"""Networks learn: a few steps on generated shapes, with another head, a frozen stem and a faster head."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import data, models, tasks, train
from cnnjax.data import Split
from cnnjax.errors import UserError
from cnnjax.nn import path_name
from cnnjax.train.optimizers import make_optimizer

CLASSES, BATCH, STEPS = 10, 8, 12
LR, FASTER = 3e-4, 3  # of Adam, whose first step moves a parameter by the learning rate; of one layer so many times it
# Of networks whose loss first rises to many times itself with that one, and has fallen after 12 steps only by chance.
SLOWER = {"_bn": 3e-5, "efficientnet_b": 1e-4}
# Compiled in seconds; the others take up to half a minute each.
QUICK = ("resnet20", "squeezenet1_1", "conv_autoencoder")
# Of images, where 64 pixels are not what the network is for; and what would need larger ones.
SIZES = {"all_cnn": 32, "densenet_bc": 32, "fractalnet": 32, "lecture": 32, "plain": 32, "vgg16_attention": 32}
SIZES |= {f"resnet{depth}": 32 for depth in (18, 20, 32, 44, 56, 110)} | {"inception_v3": 96, "squeezenet": 32}
SIZES |= {"mobilenet_v1": 32, "conv_autoencoder": 32, "denoising_autoencoder": 32}
OPTIONS = {"inception_v3": {"auxiliary": False}}


def networks(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.zoo) for name in names]


def batch(name):
    size = next((size for start, size in SIZES.items() if name.startswith(start)), 64)
    shapes = data.shapes.generate(BATCH, size=size, seed=0)
    return Split(shapes.images, shapes.labels).take(slice(None), np.ones(BATCH, np.float32))


def parameters(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_name(tuple(getattr(key, "key", key) for key in path)): np.asarray(leaf) for path, leaf in leaves}


def check_moves(before, first, last, frozen, faster, lr=LR):
    """What is frozen stays and nothing else; Adam's first step is the learning rate, of one layer three times it."""
    still = {key for key in last if np.array_equal(before[key], last[key])}
    assert still == {key for key in last if key.startswith(f"{frozen}.")} != set()
    moves = {key: np.abs(first[key] - before[key]).max() for key in set(first) - still}
    quick = {key for key in moves if key.startswith(f"{faster}.")}
    assert max(moves[key] for key in quick) == pytest.approx(FASTER * lr, rel=0.01)
    assert max(moves[key] for key in moves.keys() - quick) == pytest.approx(lr, rel=0.01)


@pytest.mark.parametrize("name", networks(models.list_models(task="classification")))
def test_the_loss_falls_and_only_what_is_not_frozen_changes(name, one_device):
    images = batch(name)
    model = models.create_model(name, num_classes=3, **OPTIONS.get(name, {}))
    models.replace_head(model, CLASSES)
    model.eval()
    stem = next(row.name for row in models.layer_rows(model, images.images.shape[1:]) if row.params)
    model.train()
    lr = next((rate for part, rate in SLOWER.items() if part in name), LR)
    recipe = train.Recipe(freeze=stem, lr=lr, lr_factors=f"{model.heads[0]}={FASTER}")
    step = train.compile_step(model, tasks.Classification(), recipe, one_device, steps_per_epoch=STEPS)
    state, before, losses = step.start(), parameters(step.initial.params), []
    for number in range(STEPS):
        total = float(state.sums["loss"])
        state = step(state, images)
        losses.append((float(state.sums["loss"]) - total) / BATCH)
        if number == 0:
            first = parameters(state.params)
    assert np.mean(losses[-3:]) < np.mean(losses[:2]), losses
    check_moves(before, first, parameters(state.params), stem, model.heads[0], lr)


def test_an_autoencoder_is_not_trained_on_classes(one_device):
    model = models.create_model("conv_autoencoder")
    step = train.compile_step(model, tasks.Classification(), train.Recipe(), one_device)
    with pytest.raises(UserError, match=r"needs logits \(batch, classes\), got outputs of shape \(8, 32, 32, 3\)"):
        step(step.start(), batch("conv_autoencoder"))


@pytest.mark.parametrize("name", networks(models.list_models(task="reconstruction")))
def test_an_autoencoder_s_error_falls_and_only_what_is_not_frozen_changes(name):
    model = models.create_model(name)
    x = batch(name).images.astype(np.float32) / 255
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    recipe = train.Recipe(freeze="encoder.0", lr=LR, lr_factors=f"decoder={FASTER}")
    optimizer = make_optimizer(recipe, STEPS, 1)
    moments = optimizer.init(params)

    @jax.jit
    def step(params, moments):
        def error(params):
            return ((nnx.merge(graphdef, params, rest, copy=True)(x) - x) ** 2).mean()

        loss, gradients = jax.value_and_grad(error)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    found, losses = [parameters(params)], []
    for _ in range(30):
        params, moments, loss = step(params, moments)
        losses.append(float(loss))
        found.append(parameters(params))
    assert losses[-1] < losses[0] / 2
    check_moves(found[0], found[1], found[-1], "encoder.0", "decoder")
