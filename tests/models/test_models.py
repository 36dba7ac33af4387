"""The lecture's networks are the lecture's to the digit; summary counts what is there."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, nn
from cnnjax.errors import UserError
from tests.models.tracing import eval_shape

LECTURE = ("lecture-cnn", "lecture-fcn")


@pytest.mark.parametrize(
    ("name", "params", "total"),
    [
        ("lecture-fcn", [0, 6_293_504, 2_098_176, 524_800, 65_664, 1_290], 8_983_434),
        ("lecture-cnn", [896, 0, 18_496, 73_856, 0, 1_982_592, 1_290], 2_077_130),
    ],
)
def test_parameters_are_the_lecture_s(name, params, total):
    model = models.create_model(name, num_classes=10)
    assert [row.params for row in models.layer_rows(model, (32, 32, 3))] == params
    assert models.count_params(model) == total


def test_output_shapes_are_the_lecture_s():
    rows = models.layer_rows(models.create_model("lecture-cnn", num_classes=10), (32, 32, 3))
    assert [row.output_shape for row in rows] == [
        (30, 30, 32),
        (15, 15, 32),
        (13, 13, 64),
        (11, 11, 128),
        (15488,),
        (128,),
        (10,),
    ]


@pytest.mark.parametrize("name", LECTURE)
def test_multiply_adds_are_half_the_operations_xla_counts(name):
    model = eval_shape(lambda: models.create_model(name, num_classes=10))
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    counted = nnx.jit(lambda model, x: model(x)).lower(model, x).compile().cost_analysis()["flops"]
    macs = sum(row.macs for row in models.layer_rows(model, (32, 32, 3)))
    assert 2 * macs <= counted <= 2.1 * macs  # XLA also counts biases, ReLU and pooling


@pytest.mark.parametrize("name", LECTURE)
def test_logits_of_any_size_channels_and_classes(name):
    model = models.create_model(name, num_classes=7, in_channels=1, image_size=28)
    model.eval()
    assert model(jnp.ones((2, 28, 28, 1))).shape == (2, 7)


@pytest.mark.parametrize("name", LECTURE)
def test_the_seed_decides_the_parameters(name):
    x = jnp.ones((1, 32, 32, 3))
    first, again, other = (models.create_model(name, seed=seed)(x) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not jnp.array_equal(first, other)


def test_initial_parameters_are_keras_s():
    model = models.create_model("lecture-cnn", num_classes=10)
    kernel = model.conv2.kernel[...]
    limit = np.sqrt(6 / (9 * 32 + 9 * 64))
    assert 0.98 * limit < float(jnp.abs(kernel).max()) <= limit
    assert float(kernel.std()) == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert not model.conv2.bias[...].any()


def test_layer_rows_of_a_model_used_before_are_the_same():
    model = models.create_model("lecture-cnn", num_classes=10)
    rows = models.layer_rows(model, (32, 32, 3))
    jax.jit(model)(jnp.ones((1, 32, 32, 3)))
    assert models.layer_rows(model, (32, 32, 3)) == rows


def test_summary_is_the_keras_table_with_multiply_adds():
    text = models.summary(models.create_model("lecture-cnn", num_classes=10), (32, 32, 3))
    for part in ("conv1 (Conv)", "(None, 30, 30, 32)", "896", "Total params: 2,077,130", "Multiply-adds", "8,921,088"):
        assert part in text


def test_transposed_convolutions_count_a_product_for_every_input_pixel_and_weight():
    layer = nn.ConvTranspose(4, 6, 3, stride=2, groups=2, rngs=nnx.Rngs(0))
    (row,) = models.layer_rows(layer, (5, 7, 4))
    assert row.output_shape == (11, 15, 6)
    assert row.macs == 5 * 7 * 4 * 9 * 3


def test_features_of_layers_that_are_not_there_or_not_called_are_told():
    def features(names):
        model = models.create_model("fractalnet", columns=2, blocks=1)
        return models.features(model, jnp.ones((1, 8, 8, 3)), names)

    with pytest.raises(UserError, match=r"unknown layer of FractalNet 'blocks\.0\.pol': did you mean blocks\.0\.pool"):
        eval_shape(lambda: features(["blocks.0.pol"]))
    with pytest.raises(UserError, match="FractalNet does not call its layer 'blocks' here"):
        eval_shape(lambda: features(["blocks"]))
    with pytest.raises(UserError, match=r"must be a list of layers, got 'fc': write \['fc'\]"):
        eval_shape(lambda: features("fc"))


def test_features_have_the_gradients_of_what_comes_before_them():
    model = models.create_model("lecture-cnn", num_classes=4, image_size=12)
    x = jax.random.normal(jax.random.key(0), (1, 12, 12, 3))
    found = jax.jit(jax.grad(lambda x: models.features(model, x, ["conv2"])["conv2"].sum()))(x)
    expected = jax.jit(jax.grad(lambda x: model.conv2(model.pool(nnx.relu(model.conv1(x)))).sum()))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_features_in_training_are_jitted_and_leave_the_network_as_it_is():
    model = models.create_model("fractalnet", num_classes=4, columns=1, blocks=1, dropout=0.5)
    before = jax.tree.map(jnp.copy, nnx.state(model))
    name = "blocks.0.fractal.unit.bn"
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    normalised = jax.jit(lambda x: models.features(model, x, [name])[name])(x)
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=1e-5)  # by the statistics of this batch
    jax.tree.map(np.testing.assert_array_equal, _numbers(nnx.state(model)), _numbers(before))


def _numbers(state):
    return nnx.filter_state(state, nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngCount))


@pytest.mark.parametrize("shape", [(1, 16, 64, 3), (1, 28, 28, 3), (1, 32, 32, 1), (32, 32, 3)])
@pytest.mark.parametrize("name", [*LECTURE, "conv_autoencoder"])
def test_a_network_for_one_shape_of_images_names_it(name, shape):
    def output():
        return models.create_model(name)(jnp.ones(shape))

    with pytest.raises(UserError, match=rf"takes images \(batch, 32, 32, 3\), got shape {re.escape(str(shape))}"):
        eval_shape(output)


def test_an_unknown_model_suggests_the_nearest():
    with pytest.raises(UserError, match="unknown model 'lecture-cnnn': did you mean lecture-cnn"):
        models.create_model("lecture-cnnn")
    with pytest.raises(UserError, match="unknown model None: did you mean unet"):
        models.create_model(None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ("resnet20", {"num_classes": 2.5}, "num_classes must be an integer, got 2.5"),
        ("resnet20", {"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ("lecture-fcn", {"image_size": -32}, "image_size must be at least 1, got -32"),
        ("lecture-cnn", {"image_size": 11}, "image_size must be at least 12, got 11"),
        ("conv_autoencoder", {"image_size": (32, 48)}, r"image_size must be an integer, got \(32, 48\)"),
        ("conv_autoencoder", {"code_size": 0}, "code_size must be at least 1, got 0"),
    ],
)
def test_sizes_that_no_network_has_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create_model(name, **options)


def test_the_smallest_image_of_the_lecture_s_network_is_12_pixels_wide():
    model = models.create_model("lecture-cnn", num_classes=2, image_size=12)
    assert model(jnp.ones((1, 12, 12, 3))).shape == (1, 2)


def test_a_network_in_training_has_the_rows_it_has_in_eval_and_keeps_its_statistics():
    model = models.create_model("resnet20", num_classes=10)
    rows = models.layer_rows(model, (32, 32, 3))
    assert not model.bn1.mean[...].any()
    model.eval()
    assert models.layer_rows(model, (32, 32, 3)) == rows
    assert sum(row.params for row in rows) == models.count_params(model)


def test_parameters_beside_sub_layers_have_a_row():
    model = nnx.eval_shape(lambda: models.create_model("convnext_tiny"))
    rows = models.layer_rows(model, (32, 32, 3))
    assert sum(row.params for row in rows) == models.count_params(model)
    assert models.LayerRow("features.1.0", "ConvNeXtBlock", (8, 8, 96), 96, 0) in rows


def test_of_a_layer_with_several_outputs_the_first_one_s_shape_counts():
    model = nn.Sequential(nn.MaxPool(2, return_indices=True))
    assert [row.output_shape for row in models.layer_rows(model, (8, 8, 3))] == [(4, 4, 3)]


def test_layers_that_take_several_inputs_have_rows():
    model = nnx.eval_shape(lambda: models.create_model("fractalnet", columns=2, blocks=1))
    joins = [row for row in models.layer_rows(model, (8, 8, 3)) if row.kind == "Join"]
    assert [(row.output_shape, row.macs) for row in joins] == [((8, 8, 64), 0)] * 2
