"""Networks as backbones: feature maps of every stride, dilation in the place of strides, and weights taken over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models.backbones import TRUNKS, Backbone
from cnnjax.models.resnet import BasicBlock, ResNet
from cnnjax.models.vgg import TINY
from cnnjax.nn import Conv
from tests.models.tracing import eval_shape

# A network of each family, and the channels of its maps of strides 4 to 32, from the tables of the papers.
CHANNELS = {
    "convnext_tiny": (96, 192, 384, 768),
    "densenet121": (256, 512, 1024, 1024),
    "efficientnet_b0": (24, 40, 112, 320),
    "efficientnet_v2_s": (48, 64, 160, 256),
    "mnasnet": (24, 40, 96, 320),
    "mobilenet_v1": (128, 256, 512, 1024),
    "mobilenet_v2": (24, 32, 96, 320),
    "mobilenet_v3_large": (24, 40, 112, 960),
    "mobilenet_v3_small": (16, 24, 48, 576),
    "resnet18": (64, 128, 256, 512),
    "shufflenet_v2_x0_5": (24, 48, 96, 192),
    "vgg11": (128, 256, 512, 512),
}
QUICK = ("mobilenet_v2", "mobilenet_v3_large", "resnet18", "vgg11")


def some(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.zoo) for name in names]


def maps(network, strides, size, output_stride=32):
    def trace(x):
        return Backbone(network, strides, output_stride, in_channels=3, rngs=nnx.Rngs(0))(x)

    return eval_shape(trace, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


@pytest.mark.parametrize("name", some(CHANNELS))
def test_every_family_has_feature_maps_of_its_strides(name):
    found = [y.shape[1:] for y in maps(name, (4, 8, 16, 32), 96)]
    assert found == [(96 // s, 96 // s, c) for s, c in zip((4, 8, 16, 32), CHANNELS[name], strict=True)]


@pytest.mark.zoo
def test_all_families_are_tried():
    kinds = {type(eval_shape(lambda name=name: models.create_model(name))).__name__ for name in CHANNELS}
    assert kinds == set(TRUNKS)


@pytest.mark.parametrize("name", some(name for name in CHANNELS if name != "convnext_tiny"))
def test_an_output_stride_keeps_maps_large(name):
    assert [y.shape[1] for y in maps(name, (8, 32), 96, 16)] == [12, 6]
    assert [y.shape[1] for y in maps(name, (8, 32), 96, 8)] == [12, 12]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet"])
def test_a_dilated_backbone_computes_what_the_strided_one_does_and_more_between(name):
    """Every fourth pixel of the maps of stride 8 is a pixel of those of stride 32, up to the borders."""
    network = {"resnet": lambda **options: ResNet(BasicBlock, (1, 1, 2, 2), **options)}.get(name, name)
    x = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype(np.float32)
    found = []
    for stride in (32, 8):
        model = Backbone(network, (32,), stride, in_channels=3, rngs=nnx.Rngs(0))
        model.eval()
        graphdef, state = nnx.split(model)
        found.append(np.asarray(jax.jit(lambda state, graphdef=graphdef: nnx.merge(graphdef, state)(x)[0])(state)))
    strided, dilated = found
    assert (strided.shape[1:3], dilated.shape[1:3]) == ((2, 3), (8, 12))
    np.testing.assert_allclose(dilated[:, ::4, ::4], strided, atol=1e-4 * np.abs(strided).max())


def test_a_vgg_loses_its_last_poolings_and_dilates_what_follows():
    """Yu & Koltun (2015), section 4: without the last two poolings, by 2 for each that is missing."""
    backbone = Backbone(TINY, (32,), 8, in_channels=3, rngs=nnx.Rngs(0))
    rates = [layer.dilation for layer in backbone.layers.values() if isinstance(layer, Conv)]
    assert rates == [1, 1, 1, 1, 1, 1, 2, 2]
    assert [y.shape[1] for y in maps(TINY, (32,), 64, 8)] == [8]


def test_what_is_no_backbone_is_told():
    def backbone(*arguments):
        return eval_shape(lambda: Backbone(*arguments, in_channels=3, rngs=nnx.Rngs(0)))

    with pytest.raises(UserError, match="AlexNet cannot be a backbone: choose a network of ConvNeXt, DenseNet"):
        backbone("alexnet", (32,))
    with pytest.raises(UserError, match="ConvNeXt has no feature maps of stride 2"):
        backbone("convnext_tiny", (2, 4))
    with pytest.raises(UserError, match=r"ConvNeXt has a Conv with windows \(2, 2\).*use output_stride=32"):
        backbone("convnext_tiny", (32,), 8)
    with pytest.raises(UserError, match="output_stride must be one of 8, 16 and 32, got 4"):
        backbone("resnet18", (32,), 4)
    with pytest.raises(UserError, match=r"strides \(1, 8\) here, where \(4, 32\) are expected"):
        backbone(lambda **options: ResNet(BasicBlock, (1, 1, 1, 1), stem="cifar", **options), (4, 32))


def test_a_backbone_takes_over_the_weights_of_the_network_that_it_was_made_of():
    network = models.create_model("mobilenet_v2", seed=1)
    network.features[3].conv[0][1].eps = 1e-3  # as timm's weights set it
    model = models.create_model("lraspp_mobilenet_v3_large", num_classes=3, backbone="mobilenet_v2")
    models.load_backbone(model, network)
    for number in (0, 5, 17):
        layers = nnx.state((network.features[number], model.backbone.layers[str(number)]), (nnx.Param, nnx.BatchStat))
        jax.tree.map(np.testing.assert_array_equal, layers[0], layers[1])
    assert model.backbone.layers["3"].conv[0][1].eps == 1e-3
    with pytest.raises(UserError, match="has another architecture than the backbone"):
        models.load_backbone(model, models.create_model("mobilenet_v1"))
    with pytest.raises(UserError, match="MobileNetV2 has no backbone"):
        models.load_backbone(network, network)


def test_fully_connected_layers_become_convolutions():
    """At the middle of 7x7 feature maps, the convolutions compute what the classifier does."""
    network = TINY(num_classes=3, in_channels=3, hidden=10, rngs=nnx.Rngs(0))
    model = models.create_model("fcn8s_tiny", num_classes=3, hidden=10)
    models.load_backbone(model, network)
    network.eval()
    model.eval()
    x = jax.random.normal(jax.random.key(0), (2, 7, 7, 128))
    expected = x
    for number in (0, 3):
        expected = nnx.relu(network.classifier[number](expected))
    np.testing.assert_allclose(model.fully_connected(x)[:, 3, 3], expected, rtol=1e-4, atol=1e-5)
