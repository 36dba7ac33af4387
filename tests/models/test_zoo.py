"""The networks are the published ones by their counts and shapes: traced, without a number computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, nn
from cnnjax.errors import UserError
from cnnjax.models.shufflenet_v1 import ShuffleNetV1, ShuffleUnit
from cnnjax.nn import Conv
from tests.models.tracing import eval_shape

# Output shapes of stages at the published size, from the tables of the papers.
STAGES = {
    "convnext_tiny": {"features.1": (56, 56, 96), "features.3": (28, 28, 192), "features.7": (7, 7, 768)},
    "efficientnet_b0": {"features.1": (112, 112, 16), "features.5": (14, 14, 112), "features.7": (7, 7, 320)},
    "mnasnet": {"features.7": (112, 112, 16), "features.8": (56, 56, 24), "features.13": (7, 7, 320)},
    "mobilenet_v1": {"blocks.0": (112, 112, 64), "blocks.3": (14, 14, 512), "blocks.4": (7, 7, 1024)},
    "mobilenet_v2": {"features.1": (112, 112, 16), "features.13": (14, 14, 96), "features.18": (7, 7, 1280)},
    "mobilenet_v3_large": {"features.3": (56, 56, 24), "features.12": (14, 14, 112), "features.16": (7, 7, 960)},
    "shufflenet_v1_g3": {"stage2": (28, 28, 240), "stage3": (14, 14, 480), "stage4": (7, 7, 960)},
    "shufflenet_v2_x1_0": {"maxpool": (56, 56, 24), "stage2": (28, 28, 116), "conv5": (7, 7, 1024)},
    "squeezenet1_0": {"features.3": (54, 54, 128), "features.7": (27, 27, 256), "features.12": (13, 13, 512)},
}
SMALLEST = {"convnext_tiny": 32, "squeezenet1_0": 21, "squeezenet1_1": 17}  # of images, in pixels; of the others 1


def layer_rows(name, size):
    """Return parameters and layers of a network, traced only."""
    found = []

    def trace():
        model = models.create_model(name)
        model.eval()
        found.extend([models.count_params(model), models.layer_rows(model, (size, size, 3))])

    eval_shape(trace)
    return found


def call(name, shape, dtype=jnp.float32, **options):
    """Return the abstract logits of a network for images of this shape."""

    def trace(x):
        model = models.create_model(name, **options)
        model.eval()
        return model(x)

    return eval_shape(trace, jax.ShapeDtypeStruct(shape, dtype))


@pytest.mark.parametrize(
    ("groups", "complexity", "params"), [(1, 143, None), (2, 140, None), (3, 137, 1.9), (4, 133, None), (8, 137, 2.4)]
)
def test_shufflenet_v1_is_the_paper_s(groups, complexity, params):
    """Millions of multiply-adds (table 2 counts convolutions) and of parameters (the authors' published code)."""
    counted, rows = layer_rows(f"shufflenet_v1_g{groups}", 224)
    assert round(sum(row.macs for row in rows if row.kind == Conv.__name__) / 1e6) == complexity
    assert params is None or round(counted / 1e6, 1) == params


@pytest.mark.parametrize(("stride", "in_channels"), [(1, 24), (2, 16)])
def test_a_shuffle_unit_is_the_paper_s_figure_2(stride, in_channels):
    """Shuffled between the first two convolutions; added to its input, or beside the averages of its 3x3 windows."""
    unit = ShuffleUnit(in_channels, 24 if stride == 1 else 40, stride, 2, rngs=nnx.Rngs(0))
    unit.eval()
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, in_channels))

    @nnx.jit
    def compare(unit, x):
        y = unit.conv1(x)
        half = y.shape[-1] // 2
        y = jnp.stack([y[..., :half], y[..., half:]], -1).reshape(y.shape)
        return unit(x), unit.conv3(unit.conv2(y))

    found, y = compare(unit, x)
    if stride == 1:
        expected = x + y
    else:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = [[padded[0, i : i + 3, j : j + 3].mean((0, 1)) for j in (0, 2)] for i in (0, 2)]
        expected = np.concatenate([np.asarray(windows)[None], y], -1)
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_groups_that_the_paper_does_not_have_are_refused():
    with pytest.raises(UserError, match="groups must be one of 1, 2, 3, 4, 8, got 5"):
        ShuffleNetV1(5, num_classes=10, in_channels=3, rngs=nnx.Rngs(0))


@pytest.mark.published
@pytest.mark.parametrize("name", STAGES)
def test_stages_have_the_papers_shapes(name):
    def trace(x):
        model = models.create_model(name)
        model.eval()
        return models.features(model, x, STAGES[name])

    found = eval_shape(trace, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert {layer: y.shape[1:] for layer, y in found.items()} == STAGES[name]


@pytest.mark.parametrize("name", STAGES)
def test_any_size_channels_and_classes(name):
    size = SMALLEST.get(name, 1)
    assert call(name, (2, size, size + 5, 1), in_channels=1, num_classes=7).shape == (2, 7)


@pytest.mark.parametrize("name", STAGES)
def test_images_with_other_channels_are_refused(name):
    with pytest.raises(ValueError, match="kernel takes 3 channels a group, but x has 4"):
        call(name, (2, 64, 64, 4))


@pytest.mark.parametrize("name", STAGES)
def test_no_parameter_is_weakly_typed(name):
    """After a step none is, and the step would be compiled again."""
    state = nnx.to_flat_state(nnx.state(eval_shape(lambda: models.create_model(name))))
    assert not [nn.path_name(path) for path, value in state if getattr(value.get_value(), "weak_type", False)]


@pytest.mark.parametrize("name", SMALLEST)
def test_images_that_are_too_small_are_refused(name):
    size = SMALLEST[name]
    with pytest.raises(UserError, match=rf"at least {size}x{size} pixels, got shape \(2, 64, {size - 1}, 3\)"):
        call(name, (2, 64, size - 1, 3))


def test_one_image_without_a_batch_and_bytes_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, height, width, channels\).*got shape \(64, 64, 3\)"):
        call("mobilenet_v2", (64, 64, 3))
    with pytest.raises(ValueError, match="floating point"):
        call("squeezenet1_0", (1, 64, 64, 3), jnp.uint8)
