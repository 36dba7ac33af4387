"""Images are normalised where a network gets them, in training, in evaluation and in use, and nowhere else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models, nn, runs, tasks, train
from cnnjax.data import augment
from cnnjax.errors import UserError
from cnnjax.tasks.losses import sigmoid_cross_entropy, softmax_cross_entropy
from tests.train.test_loop import TASK, Plain, fit, images
from tests.train.test_recipe import batch_of

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 2.0)
RECIPE = train.Recipe(optimizer="sgd", lr=0.1, mean=MEAN, std=STD)


def normalised(pixels):
    """In float64, of bytes."""
    return (pixels / 255.0 - np.array(MEAN)) / np.array(STD)


def after_a_step(recipe, batch, parallel):
    step = train.compile_step(Plain(nnx.Rngs(0)), TASK, recipe, parallel)
    return parallel.one_copy(step(step.start(), parallel.split(batch)))


def test_a_step_is_one_on_images_that_numpy_has_normalised(one_device):
    batch = batch_of(images(72))
    ours = after_a_step(RECIPE, batch, one_device)
    given = dataclasses.replace(batch, images=normalised(batch.images).astype(np.float32))
    plain = dataclasses.replace(RECIPE, mean=None, std=None)
    theirs = after_a_step(plain, given, one_device)
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_augmentation_sees_images_in_0_to_1(one_device, monkeypatch):
    def bright(key, sample):
        return dataclasses.replace(sample, images=jnp.where(sample.images < 0.4, 0.0, 1.0))

    monkeypatch.setitem(augment.AUGMENTATIONS, "bright", lambda: bright)
    batch = batch_of(images(72))
    ours = after_a_step(dataclasses.replace(RECIPE, augment="bright"), batch, one_device)
    given = dataclasses.replace(batch, images=normalised(255 * (batch.images >= 102)).astype(np.float32))
    theirs = after_a_step(dataclasses.replace(RECIPE, mean=None, std=None, augment=""), given, one_device)
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    one = train.Parallel(devices=jax.local_devices()[:1])
    return fit(tmp_path_factory.mktemp("normalised"), one, Plain, epochs=1, mean=MEAN, std=STD)


def test_evaluation_and_the_model_itself_take_images_in_0_to_1(trained, one_device):
    split = images(20, 1)
    raw = trained.network.merge(trained.state.params, trained.state.model_state)
    logits = np.asarray(raw(np.float32(normalised(split.images))))
    np.testing.assert_allclose(trained.model()(np.float32(split.images / 255)), logits, rtol=1e-4, atol=1e-5)
    loss = float(softmax_cross_entropy(logits, split.labels).mean())
    assert trained.history["validation/loss"][-1] == pytest.approx(loss, rel=1e-4)
    again = train.evaluate(trained.network, trained.state, TASK, split, parallel=one_device)
    assert again.figures["loss"] == pytest.approx(loss, rel=1e-4)


def test_weights_of_a_normalised_network_have_the_network_s_names(trained, tmp_path):
    model = trained.model()
    assert isinstance(model, nn.Normalized)
    raw = trained.network.merge(trained.state.params, trained.state.model_state)
    assert interop.to_torch(model).keys() == interop.to_torch(raw).keys()
    interop.save_safetensors(model, tmp_path / "weights.safetensors")
    other = Plain(nnx.Rngs(1))
    interop.load_safetensors(other, tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(other.conv.kernel[...], raw.conv.kernel[...])
    resnet = nn.normalized(models.create_model("mobilenet_v2", num_classes=3), MEAN, STD)  # renamed for timm
    names = [set(dict(nnx.iter_modules(one))) for one in (resnet, nn.without_normalization(resnet))]
    assert len(names[0]) == len(names[1]) + 1
    models.replace_head(resnet, 5)
    assert resnet(np.zeros((2, 32, 32, 3), np.float32)).shape == (2, 5)


def test_one_number_is_for_all_channels(one_device):
    batch = batch_of(images(72))
    one, three = (dataclasses.replace(RECIPE, mean=(0.3,) * n, std=(0.5,) * n) for n in (1, 3))
    found = [after_a_step(recipe, batch, one_device).params for recipe in (one, three)]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": (0.5,)}, "`mean` and `std` go together, got"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5,)}, "`mean` has 3 numbers, `std` 1: give one a channel in each"),
        ({"mean": (), "std": ()}, "`mean` has 0 numbers"),
        ({"mean": (0.5,), "std": (0.0,)}, "`std` larger than 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "`mean` must be finite"),
        ({"mean": (0.5, float("inf")), "std": (1.0, 1.0)}, "`mean` must be finite"),
        ({"mean": (0.5, 0.5), "std": (1.0, 0.0)}, "`std` larger than 0"),
        ({"mean": (0.5, float("nan")), "std": (1.0, 1.0)}, "`mean` must be finite"),
    ],
)
def test_a_normalisation_that_is_none_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        train.Recipe(**given)


def test_a_normalisation_for_other_channels_is_refused(tmp_path, one_device):
    with pytest.raises(UserError, match="`mean` and `std` have 2 numbers, but the images have 3 channels"):
        fit(tmp_path, one_device, Plain, mean=(0.5, 0.5), std=(1, 1))
    assert runs.as_config(train.Recipe(mean=[0.5], std=[1]))["mean"] == [0.5]


# ---------------------------------------------------------------- mirror images


@pytest.mark.parametrize("loss", tasks.LOSSES)
@pytest.mark.parametrize("classes", [1, 4])
def test_mean_outputs_have_the_mean_of_the_scores(loss, classes):
    if loss == "cross-entropy" and classes == 1:
        return
    task = tasks.Classification(tasks.ClassificationLoss(loss))
    a, b = (np.random.default_rng(k).normal(scale=4, size=(6, classes)).astype(np.float32) for k in range(2))
    scores = [np.asarray(task.decode(outputs)["scores"], np.float64) for outputs in (a, b)]
    found = task.decode(task.mean_outputs(a, b))["scores"]
    np.testing.assert_allclose(found, (scores[0] + scores[1]) / 2, rtol=1e-4, atol=1e-6)


def test_mean_outputs_stay_finite_where_probabilities_vanish():
    far = np.array([[200.0, -200.0]], np.float32)
    task = tasks.Classification()
    assert float(softmax_cross_entropy(task.mean_outputs(far, far), np.array([1]))[0]) == pytest.approx(400, rel=1e-5)
    binary = tasks.Classification(tasks.ClassificationLoss("binary-cross-entropy"))
    both = binary.mean_outputs(far, far)
    expected = sigmoid_cross_entropy(far, np.array([1]))
    np.testing.assert_allclose(sigmoid_cross_entropy(both, np.array([1])), expected, rtol=1e-5)
