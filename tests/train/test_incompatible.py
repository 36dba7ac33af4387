"""Options that do not go with a network or its images are refused before anything is trained or written."""

import re
from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn, tasks, train
from cnnjax.data import Split
from cnnjax.errors import UserError
from tests.train.test_loop import TASK, Plain, Small, images, streamed


class Single(Plain):
    """One output."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.dense = nn.Linear(288, 1, rngs=rngs)


class Grey(Plain):
    """For images of one channel."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.conv = nn.Conv(1, 8, 3, rngs=rngs)


def check(network, data=None, **options):
    recipe = train.Recipe(batch_size=16, epochs=1, **options)
    builds = {"plain": lambda seed: Plain(nnx.Rngs(seed)), "other": lambda seed: network(nnx.Rngs(seed))}
    builds = builds if data is None else {"other": builds["other"]}
    train.check_training(builds, TASK, recipe, images(72) if data is None else data)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (Plain, {"augment": "random-crop:size=7"}, "plain cannot be trained on images of 8x8x3 with `augment='ra"),
        (Single, {}, "other: the data has labels from 0 to 3, but the network has 1 output, for labels from 0 to 1"),
        (Small, {"augment": "random-crop:size=20"}, r"plain: size=20: larger .*; `augment` is 'random-crop:size=20'$"),
        (Small, {"freeze": "norm"}, "plain: unknown parameter or layer 'norm': there are conv, dense$"),
        (Single, {"lr_factors": "dense=2 norm=0.1"}, "or layer that is not frozen 'norm': there are conv, dense$"),
        (Small, {"accumulate": 6}, "`accumulate=6` is more than the 5 steps"),
    ],
)
def test_options_that_a_network_cannot_follow_are_refused(network, options, message):
    with pytest.raises(UserError, match=message):
        check(network, **options)


def test_what_only_the_second_network_cannot_follow_is_refused_as_soon():
    builds = {"small": lambda seed: Small(nnx.Rngs(seed)), "plain": lambda seed: Plain(nnx.Rngs(seed))}
    with pytest.raises(UserError, match=r"^plain: unknown parameter or layer 'norm'"):
        train.check_training(builds, TASK, train.Recipe(batch_size=16, freeze="norm"), images(72))


def test_colours_of_grey_images_are_refused():
    grey = Split(images(72).images[..., :1], images(72).labels)
    check(Grey, grey)
    with pytest.raises(UserError, match=re.escape("other: images: expected three channels, red, green and blue")):
        check(Grey, grey, augment="hue")


def test_labels_that_a_network_has_no_output_for_are_refused():
    many = Split(images(72).images, np.where(np.arange(72) == 71, 12, images(72).labels))
    with pytest.raises(UserError, match=r"^other: the data has labels from 0 to 12, but the network has \d+ outputs"):
        check(Plain, many)


def test_a_stream_of_seeds_in_one_program_is_refused():
    with pytest.raises(UserError, match="`vmap_seeds=always` needs the images in memory"):
        check(Plain, streamed(images(72)), vmap_seeds="always", seeds=2)


@pytest.mark.parametrize(
    "options",
    [
        {"augment": "mirror mixup", "ema": 0.9, "accumulate": 2, "freeze": "conv"},
        {"sync_batch_norm": True, "seeds": 2, "vmap_seeds": "always", "precision": "bfloat16", "optimizer": "muon"},
    ],
)
def test_what_can_be_trained_is_not_refused(options):
    assert check(Small, **options) is None


@pytest.mark.parametrize(("loss", "middle"), [("binary-cross-entropy", 0.0), ("focal", 0.0), ("mse", 0.5)])
def test_a_single_output_tells_two_classes_apart(loss, middle, one_device):
    four = images(72)
    data = Split(four.images, (four.labels > 1).astype(np.int32))
    task = tasks.Classification(tasks.ClassificationLoss(loss))
    recipe = train.Recipe(lr=1e-2, epochs=3, batch_size=16, augment="brightness")
    result = train.fit(Single(nnx.Rngs(0)), task, recipe, data, data, parallel=one_device)
    assert result.history["train/accuracy"][-1] > 0.9  # whose labels augmentation does not turn around
    evaluation = train.evaluate(result.network, result.state, task, data, parallel=one_device)
    model = result.network.merge(result.state.params, result.state.model_state)
    above = np.asarray(model(data.images.astype(np.float32) / 255))[:, 0] > middle
    expected = [[np.sum((data.labels == row) & (above == column)) for column in (0, 1)] for row in (0, 1)]
    np.testing.assert_array_equal(evaluation.sums["confusion"], expected)
    assert evaluation.figures["accuracy"] == pytest.approx(np.mean(above == data.labels))


class Pair(NamedTuple):
    """What is passed in the place of something else."""

    train: Split
    test: Split


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"train": Pair(images(8), images(8))},
            "`train` must be examples .*, got Pair: give its train",
        ),
        (
            {"train": np.zeros((8, 8, 8, 3))},
            "`train` must be examples .*, got ndarray: data.Split",
        ),
        ({"validation": "digits"}, "`validation` must be examples .a Split or a Stream. or None, got str: data.load"),
        ({"task": tasks.Classification}, r"`task` must be a task, got the class Classification: .*Classification\(\)"),
        ({"task": "classification"}, "`task` must be a task, got str: tasks.Classification.. makes one"),
        ({"recipe": {"epochs": 3}}, r"`recipe` must be a train.Recipe, got dict: .*Recipe\(epochs=.*"),
        ({"run": "results/mine"}, r"`run` must be a runs.Run, got str: runs.Run\(Path\('results/mine'\)\)"),
        ({"model": "resnet18"}, r"`model` must be a network, a Flax NNX module, got str: models.create_model"),
        ({"model": Plain}, "`model` must be a network, a Flax NNX module, got the class Plain"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_their_names(changed, message):
    arguments = {"model": Plain(nnx.Rngs(0)), "task": TASK, "recipe": train.Recipe(epochs=1, batch_size=8)}
    arguments |= {"train": images(8), "validation": None}
    with pytest.raises(UserError, match=message):
        train.fit(**(arguments | changed))


class Flax(nnx.Module):
    """A network of Flax's own layers."""

    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout, self.head = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


def test_a_network_of_plain_flax_modules_trains_as_by_hand(one_device):
    """Two steps of SGD: the same outputs as after a loop of a person's own."""
    examples, rate, model = images(32), 0.1, Flax(nnx.Rngs(0))
    model.dropout.rate = 0.0
    by_hand = nnx.clone(model)
    recipe = train.Recipe(epochs=2, batch_size=32, optimizer="sgd", lr=rate)
    fit = train.fit(model, TASK, recipe, examples, None, parallel=one_device)
    batch, labels = np.float32(examples.images) / 255, examples.labels

    @nnx.jit
    def step(network):
        def loss(network):
            return -nnx.log_softmax(network(batch))[np.arange(32), labels].mean()

        gradients = nnx.grad(loss)(network)
        nnx.update(network, jax.tree.map(lambda p, g: p - rate * g, nnx.state(network, nnx.Param), gradients))

    by_hand.train()
    for _ in range(recipe.epochs):
        step(by_hand)
    by_hand.eval()
    np.testing.assert_allclose(fit.model()(batch), by_hand(batch), atol=2e-5)
