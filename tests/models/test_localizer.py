"""The localizer: boxes that are boxes, on every kind of backbone, whose weights it takes over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models.detection import Localized
from cnnjax.models.localizer import boxes_of
from tests.models.tracing import eval_shape


@pytest.fixture(scope="module")
def model():
    model = models.create_model("localizer", num_classes=5)
    model.eval()
    return model


def test_a_box_has_sigmoids_as_centre_and_size():
    codes = np.random.default_rng(0).normal(size=(6, 4)) * 3
    x, y, width, height = (1 / (1 + np.exp(-codes))).T
    expected = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1) * [90, 40, 90, 40]
    np.testing.assert_allclose(boxes_of(jnp.float32(codes), (40, 90)), expected, atol=1e-4)
    half = boxes_of(jnp.bfloat16(codes), (40, 90))
    assert half.dtype == jnp.float32  # bfloat16 has no numbers between 64 and 64.5
    exact = boxes_of(jnp.float32(jnp.bfloat16(codes)), (40, 90))
    np.testing.assert_array_equal(half, exact)


@pytest.mark.parametrize("far", [-80.0, 80.0])
def test_a_box_stays_a_box_however_far_its_codes_are(far):
    boxes = boxes_of(jnp.full((1, 4), far), (40, 90))
    assert np.isfinite(boxes).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()


def test_logits_and_boxes_come_of_images_of_any_size(model):
    x = np.random.default_rng(1).random((2, 64, 96, 3)).astype(np.float32)
    found = jax.jit(lambda x: model(x))(x)
    assert isinstance(found, Localized)
    assert found.image_size == (64, 96)
    assert (found.logits.shape, found.boxes.shape) == ((2, 5), (2, 4))
    maps = np.asarray(model.backbone(x)[0], np.float64)
    assert maps.shape[1:3] == (2, 3)
    layer = model.classifier
    np.testing.assert_allclose(found.logits, maps.mean((1, 2)) @ layer.kernel[...] + layer.bias[...], atol=1e-4)
    _, _, first, _, last = model.box_head
    columns = [(0, 1), (0, 2), (1, 3), (2, 3)]  # of three, those in each of four cells
    cells = [maps[:, row // 2, left:right].mean(1) for row in range(4) for left, right in columns]
    features = np.concatenate(cells, 1)
    hidden = np.maximum(features @ first.kernel[...] + first.bias[...], 0)
    codes = hidden @ last.kernel[...] + last.bias[...]
    np.testing.assert_allclose(found.boxes, boxes_of(jnp.float32(codes), (64, 96)), atol=1e-3)
    assert len(jax.tree.leaves(found)) == 2  # the size of the images is no array


@pytest.mark.parametrize("name", ["mnasnet", "mobilenet_v2", "resnet18"])  # test_backbones.py has every kind
def test_a_network_of_the_zoo_is_the_backbone(name):
    def traced():
        found = models.create_model("localizer", num_classes=3, backbone=name)(jnp.zeros((2, 64, 64, 3)))
        return found.logits, found.boxes

    logits, boxes = eval_shape(traced)
    assert (logits.shape, boxes.shape) == ((2, 3), (2, 4))


def test_the_backbone_takes_over_weights():
    network = models.create_model("shufflenet_v2_x0_5", seed=1)
    model = models.create_model("localizer", num_classes=3, backbone="shufflenet_v2_x0_5")
    models.load_backbone(model, network)
    for name in ("conv1", "stage4"):
        mine, theirs = (
            nnx.state(part, (nnx.Param, nnx.BatchStat))
            for part in (model.backbone.layers[name], getattr(network, name))
        )
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_other_classes_replace_one_layer(model):
    other = models.create_model("localizer", num_classes=5)
    models.replace_head(other, 7)
    other.eval()
    x = jnp.ones((1, 32, 32, 3))
    assert other(x).logits.shape == (1, 7)
    np.testing.assert_array_equal(other(x).boxes, model(x).boxes)


def test_published_classes_are_those_of_imagenet_s_challenge():
    assert models.list_models(task="localization") == ["localizer"]
    assert eval_shape(lambda: models.create_model("localizer")).classifier.out_features == 1000


def test_images_that_are_too_small_are_told(model):
    with pytest.raises(UserError, match=r"Localizer takes images .* of at least 32x32 pixels, got shape"):
        model(jnp.ones((1, 31, 64, 3)))
