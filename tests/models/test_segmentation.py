"""Networks for segmentation: the papers' counts, logits for every pixel of images of any size, and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from cnnjax import geometry, models, nn, ops
from cnnjax.errors import UserError
from cnnjax.models import dilatednet, fcn, vgg
from cnnjax.nn import path_name
from tests.models.tracing import eval_shape

NAMES = models.list_models(task="segmentation")
TINY = [name for name in NAMES if name.endswith("_tiny")]
AUXILIARY = ["deeplabv3_mobilenet_v3_large", "fcn_resnet50"]
# A network with each kind of decoder.
DECODERS = (
    "fcn8s_vgg16",
    "deeplabv3_resnet50",
    "dilatednet_vgg16",
    "lraspp_mobilenet_v3_large",
    "unet",
)

# Exactly as torchvision's weights say, with auxiliary heads; of the papers in millions: Long et al. (2014) 134.5 for
# FCN-8s, Badrinarayanan et al. (2015) 29.5, Ronneberger et al. (2015) 31.0.
PARAMETERS = {
    "fcn_resnet50": 35_322_218,
    "fcn_resnet101": 54_314_346,
    "deeplabv3_resnet50": 42_004_074,
    "deeplabv3_resnet101": 60_996_202,
    "deeplabv3_mobilenet_v3_large": 11_029_328,
    "lraspp_mobilenet_v3_large": 3_221_538,
    "fcn8s_vgg16": 134.5,
    "segnet_vgg16": 29.5,
    "unet": 31.0,
}
# Billions for a 520x520 image, beside torchvision's weights.
MULTIPLY_ADDS = {"fcn_resnet50": 152.717, "deeplabv3_mobilenet_v3_large": 10.452, "lraspp_mobilenet_v3_large": 2.086}
VGG16 = 14_714_688 + (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096  # without the last layer


def built(name, **options):
    """Return a network in shapes alone, with what its logits are in training and in eval."""
    found = []

    def trace(x):
        model = models.create_model(name, **options)
        found.append(model)
        outputs = model(x)
        model.eval()
        return outputs, model(x)

    def call(shape):
        return eval_shape(trace, jax.ShapeDtypeStruct(shape, jnp.float32))

    return call


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    count = models.count_params(eval_shape(lambda: models.create_model(name)))
    published = PARAMETERS[name]
    assert (count if isinstance(published, int) else round(count / 1e6, 1)) == published


@pytest.mark.parametrize(("name", "kernels"), [("32", (64,)), ("16", (4, 32)), ("8", (4, 4, 16))])
def test_fcn_s_parameters_are_those_of_vgg_and_of_maps_of_logits(name, kernels):
    """The papers' transposed convolutions go from each class to each class."""
    skips = {"32": 0, "16": 512 + 1, "8": 512 + 1 + 256 + 1}[name]
    enlargements = sum(21 * 21 * kernel**2 for kernel in kernels)
    expected = VGG16 + 21 * (4096 + 1 + skips) + enlargements
    assert models.count_params(eval_shape(lambda: models.create_model(f"fcn{name}s_vgg16"))) == expected


def test_dilatednet_s_parameters_are_those_of_vgg_and_64_times_the_classes_squared():
    """Yu & Koltun (2015): the context module has about 64 C^2 parameters."""
    context = 64 * 21**2 + 8 * 21
    count = models.count_params(eval_shape(lambda: models.create_model("dilatednet_vgg16")))
    assert count == VGG16 + 21 * (4096 + 1) + context


@pytest.mark.parametrize(
    "name", ["dilatednet_vgg16", "fcn8s_vgg16", "lraspp_mobilenet_v3_large", "segnet_vgg16", *TINY]
)
def test_every_pixel_of_images_of_any_size_has_logits(name):
    call = built(name, num_classes=4, in_channels=1)
    for size in ((65, 97), (3, 40)):
        training, evaluation = call((2, *size, 1))
        assert training.shape == evaluation.shape == (2, *size, 4)


@pytest.mark.parametrize("name", AUXILIARY)
def test_auxiliary_logits_are_there_in_training_alone(name):
    training, evaluation = built(name, num_classes=4)((2, 65, 97, 3))
    assert training.logits.shape == training.auxiliary[0].shape == evaluation.shape == (2, 65, 97, 4)
    training, evaluation = built(name, num_classes=4, auxiliary=False)((2, 65, 97, 3))
    assert training.shape == evaluation.shape == (2, 65, 97, 4)


@pytest.mark.parametrize("name", TINY)
def test_batches_may_be_empty_or_of_a_size_that_is_not_known_yet(name):
    model = models.create_model(name, num_classes=3)
    with jax.numpy_rank_promotion("raise"):
        for mode, count in ((model.train, 0), (model.eval, export.symbolic_shape("count")[0])):
            mode()
            graphdef, state = nnx.split(model)
            images = jax.ShapeDtypeStruct((count, 33, 40, 3), jnp.float32)
            program = jax.jit(lambda state, x, graphdef=graphdef: nnx.merge(graphdef, state)(x))
            (logits,) = export.export(program, platforms=["cpu", "cuda"])(state, images).out_avals
            assert logits.shape == (count, 33, 40, 3)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_stands_on_another_backbone(name, backbone):
    training, evaluation = built(name, num_classes=4, backbone=backbone)((2, 45, 61, 3))
    assert jax.tree.leaves(training)[0].shape == evaluation.shape == (2, 45, 61, 4)


def test_without_switches_there_is_no_segnet():
    with pytest.raises(UserError, match=r'MobileNetV2 has no such poolings.*create_model\("unet", backbone=\.\.\.\)'):
        eval_shape(lambda: models.create_model("segnet_vgg16", backbone="mobilenet_v2"))


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "lraspp_mobilenet_v3_large"])
def test_images_are_padded_and_never_stretched(name):
    """On a backbone of another network than torchvision's, whose maps of 45 pixels would be stretched."""
    model = models.create_model(name, num_classes=3, backbone=vgg.TINY, width=8)
    model.eval()
    graphdef, state = nnx.split(model)
    x = np.random.default_rng(0).standard_normal((1, 45, 61, 3)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0)))
    logits, whole = jax.jit(lambda *images: [nnx.merge(graphdef, state)(image) for image in images])(x, padded)
    assert np.asarray(logits).std() > 1e-3
    np.testing.assert_allclose(logits, whole[:, :45, :61], atol=1e-5)


def test_multiply_adds_are_torchvision_s():
    """As torchvision publishes them for 520x520 images, with the auxiliary head."""
    for name, published in MULTIPLY_ADDS.items():
        rows = models.layer_rows(eval_shape(lambda name=name: models.create_model(name)), (520, 520, 3))
        assert round(sum(row.macs for row in rows) / 1e9, 3) == pytest.approx(published, abs=2e-3)


# ---------------------------------------------------------------- starts


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_an_untrained_enlargement_is_bilinear_interpolation(stride):
    x = np.random.default_rng(0).standard_normal((1, 5, 6, 3)).astype(np.float32)
    found = fcn.BilinearUpsample(3, stride, rngs=nnx.Rngs(0))(x)
    inner = slice(stride // 2, -(stride // 2))  # beyond the border it sees zeros
    expected = ops.resize_bilinear(x, (5 * stride, 6 * stride))
    np.testing.assert_allclose(found[:, inner, inner], expected[:, inner, inner], atol=1e-5)


def test_enlarged_planes_are_planes():
    rows, columns = np.mgrid[:6, :7]
    plane = np.float32(2.0 * rows - 0.5 * columns + 1)[None, :, :, None]
    found = fcn.BilinearUpsample(1, 4, rngs=nnx.Rngs(0))(plane)[0, 2:-2, 2:-2, 0]
    rows, columns = (np.mgrid[2:22, 2:26] + 0.5) / 4 - 0.5
    np.testing.assert_allclose(found, 2 * rows - 0.5 * columns + 1, atol=1e-5)


def test_an_untrained_context_module_changes_no_positive_logits():
    x = np.random.default_rng(0).uniform(size=(1, 9, 10, 4)).astype(np.float32)
    np.testing.assert_array_equal(dilatednet.Context(4, rngs=nnx.Rngs(0))(x), x)


def test_the_context_module_sees_67_pixels():
    """Table 1 of Yu & Koltun (2015), by the gradient of one output with random weights."""
    context = dilatednet.Context(2, rngs=nnx.Rngs(0))
    for number, conv in enumerate(layer for layer in context if isinstance(layer, nn.Conv)):
        conv.kernel.set_value(jax.random.uniform(jax.random.key(number), conv.kernel[...].shape))
    x = jnp.ones((1, 81, 81, 2))
    seen = np.abs(jax.jit(jax.grad(lambda x: context(x)[0, 40, 40, 0]))(x)).sum((0, 3)) > 0
    assert seen.any(0).sum() == seen.any(1).sum() == 67
    fields = [geometry.receptive_field([(3, 1, rate) for rate in dilatednet.RATES[:n]]) for n in range(1, 8)]
    assert fields == [3, 5, 9, 17, 33, 65, 67]


@pytest.mark.parametrize("name", TINY)
def test_the_seed_decides_the_parameters(name):
    first, again, other = (models.create_model(name, num_classes=3, seed=seed) for seed in (1, 1, 2))
    states = [jax.tree.leaves(nnx.state(model, nnx.Param)) for model in (first, again, other)]
    assert all(np.array_equal(one, two) for one, two in zip(*states[:2], strict=True))
    assert any(not np.array_equal(one, two) for one, two in zip(*states[::2], strict=True))


# ---------------------------------------------------------------- heads, summaries


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", *TINY])
def test_heads_are_what_depends_on_the_classes(name):
    def shapes(model):
        return {path_name(path): value.shape for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}

    model, other = (eval_shape(lambda n=n: models.create_model(name, num_classes=n)) for n in (7, 9))
    seven, nine = shapes(model), shapes(other)
    changed = {path for path in seven if seven[path] != nine[path]}
    there = {head for head in model.heads for path in seven if path.startswith(f"{head}.")}
    assert {head for head in there for path in changed if path.startswith(f"{head}.")} == there != set()
    assert all(path.startswith(tuple(f"{head}." for head in model.heads)) for path in changed)
    models.replace_head(model, 9)
    assert shapes(model) == nine


@pytest.mark.parametrize("name", TINY)
def test_a_summary_counts_all_parameters(name):
    model = eval_shape(lambda: models.create_model(name, num_classes=4))
    rows = models.layer_rows(model, (40, 50, 3))
    assert sum(row.params for row in rows) == models.count_params(model)
    assert sum(row.macs for row in rows) > 0


def test_published_networks_have_21_classes_and_others_1000():
    assert (
        eval_shape(lambda: models.create_model("lraspp_mobilenet_v3_large")).classifier.low_classifier.out_channels
        == 21
    )
    assert eval_shape(lambda: models.create_model("resnet20")).fc.out_features == 1000
