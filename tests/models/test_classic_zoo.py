"""AlexNet to DenseNet, the networks for CIFAR and the autoencoders are what their papers say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import autoencoder, fractalnet, resnet_cifar, vgg_attention
from cnnjax.nn import Dropout, LocalResponseNorm, path_name
from tests.models.tracing import eval_shape

DEPTHS = (20, 32, 44, 56, 110)


def traced(function, name, **options):
    """Return `function(model)` of a network in `eval` whose parameters are never computed."""
    found = []

    def build():
        model = models.create_model(name, **options)
        model.eval()
        found.append(function(model))
        return model

    eval_shape(build)
    return found[0]


def shapes(name, size, layers, **options):
    """Return the shapes of named feature maps for an RGB image, without the batch."""
    x = jnp.ones((1, size, size, 3))
    found = traced(lambda model: models.features(model, x, layers), name, **options)
    return [y.shape[1:] for y in found.values()]


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        # He et al. (2015), table 6; a shortcut of option A has no parameters.
        *[(f"resnet{depth}", size, 2) for depth, size in zip(DEPTHS, (0.27, 0.46, 0.66, 0.85), strict=False)],
        ("resnet110", 1.7, 1),
        # Huang et al. (2016), table 2.
        ("densenet_bc_100_12", 0.8, 1),
    ],
)
def test_millions_of_parameters_on_cifar_are_the_paper_s(name, millions, digits):
    assert round(traced(models.count_params, name, num_classes=10) / 1e6, digits) == millions


@pytest.mark.parametrize(("letter", "millions"), [("a", 1.28), ("b", 1.35), ("c", 1.4)])
def test_all_cnn_has_about_the_paper_s_parameters(letter, millions):
    # Springenberg et al. (2014), table 3, which gives them as approximate.
    assert traced(models.count_params, f"all_cnn_{letter}", num_classes=10) == pytest.approx(millions * 1e6, rel=0.04)


@pytest.mark.parametrize("depth", DEPTHS)
def test_plain_networks_have_their_residual_twin_s_parameters(depth):
    plain, residual = (traced(models.count_params, f"{kind}{depth}", num_classes=10) for kind in ("plain", "resnet"))
    assert plain == residual


def test_zfnet_s_parameters_are_those_of_figure_3():
    convolutions = [(3, 96, 7), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)]
    dense = [(6 * 6 * 256, 4096), (4096, 4096), (4096, 1000)]
    expected = sum(i * o * k * k + o for i, o, k in convolutions) + sum(i * o + o for i, o in dense)
    assert traced(models.count_params, "zfnet") == expected == 62_357_608


@pytest.mark.parametrize(("columns", "blocks"), [(1, 1), (2, 3), (3, 5), (4, 5)])
def test_a_block_of_c_columns_has_2_to_the_c_minus_1_convolutions_of_which_c_read_its_input(columns, blocks):
    expected, channels = 0, 3
    for width in (64, 128, 256, 512, 512)[:blocks]:
        first, others = columns, 2**columns - 1 - columns
        expected += 9 * width * (first * channels + others * width) + 2 * width * (first + others)
        channels = width
    expected += channels * 10 + 10
    assert traced(models.count_params, "fractalnet", num_classes=10, columns=columns, blocks=blocks) == expected


def test_vgg16_attention_has_vgg16_s_convolutions_and_three_estimators():
    convolutions = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
    convolutions += [(512, 512)] * 7  # five of VGG-16, and two to the global descriptor
    expected = sum(9 * i * o + 3 * o for i, o in convolutions) + 512 * 512 + 512
    expected += 2 * 512 + 512 * 256 + 256  # the descriptor, mapped to the first estimator's channels
    expected += sum(channels + 1 + 2 * channels for channels in (256, 512, 512)) + 1280 * 10 + 10
    assert traced(models.count_params, "vgg16_attention", num_classes=10) == expected


# ---------------------------------------------------------------- feature maps


@pytest.mark.published
@pytest.mark.parametrize(
    ("name", "size", "maps"),
    [
        ("alexnet", 224, {"features.2": (27, 27, 64), "features.5": (13, 13, 192), "features.12": (6, 6, 256)}),
        (
            "zfnet",
            224,
            {
                "features.0": (110, 110, 96),
                "features.2": (55, 55, 96),
                "features.4": (26, 26, 256),
                "features.6": (13, 13, 256),
                "features.12": (13, 13, 256),
                "features.14": (6, 6, 256),
            },
        ),
        (
            "googlenet",
            224,
            {
                "maxpool1": (56, 56, 64),
                "maxpool2": (28, 28, 192),
                "inception3b": (28, 28, 480),
                "inception4e": (14, 14, 832),
                "inception5b": (7, 7, 1024),
            },
        ),
        (
            "inception_v3",
            299,
            {"maxpool2": (35, 35, 192), "mixed_5d": (35, 35, 288), "mixed_6e": (17, 17, 768), "mixed_7c": (8, 8, 2048)},
        ),
        (
            "densenet121",
            224,
            {
                "features.pool0": (56, 56, 64),
                "features.denseblock1": (56, 56, 256),
                "features.transition1": (28, 28, 128),
                "features.norm5": (7, 7, 1024),
            },
        ),
        ("densenet_bc_100_12", 32, {"features.denseblock1": (32, 32, 216), "features.norm5": (8, 8, 342)}),
        ("xception", 299, {"block1": (74, 74, 128), "block11": (19, 19, 728), "conv4": (10, 10, 2048)}),
        ("resnet20", 32, {"layer1.2": (32, 32, 16), "layer2.2": (16, 16, 32), "layer3.2": (8, 8, 64)}),
        ("all_cnn_c", 32, {"features.3": (32, 32, 96), "features.16": (6, 6, 192), "classifier.0": (6, 6, 1000)}),
        ("fractalnet", 32, {"blocks.0": (16, 16, 64), "blocks.4": (1, 1, 512)}),
        ("vgg16_attention", 32, {"stage1": (32, 32, 256), "stage2": (16, 16, 512), "stage3": (8, 8, 512)}),
    ],
)
def test_feature_maps_have_the_paper_s_shapes(name, size, maps):
    assert shapes(name, size, maps) == list(maps.values())


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        ("alexnet", 63),
        ("zfnet", 63),
        ("vgg11", 32),
        ("vgg11_bn", 32),
        ("googlenet", 15),
        ("inception_v3", 75),
        ("densenet121", 29),
        ("densenet_bc_100_12", 4),
        ("xception", 7),
        ("resnet18", 1),
        ("resnext50_32x4d", 1),
        ("resnet20", 1),
        ("all_cnn_c", 9),
        ("fractalnet", 32),
        ("vgg16_attention", 17),
    ],
)
def test_images_of_the_smallest_size_pass_and_smaller_ones_do_not(name, smallest):
    def logits(model):
        if smallest > 1:
            with pytest.raises(UserError, match=f"at least {smallest}x{smallest} pixels, got shape"):
                model(jnp.ones((1, smallest - 1, 300, 1)))
        return model(jnp.ones((2, smallest, smallest + 3, 1)))

    assert traced(logits, name, num_classes=7, in_channels=1).shape == (2, 7)


@pytest.mark.parametrize(
    "name",
    ["alexnet", "vgg11", "googlenet", "resnet18", "densenet_bc_100_12", "xception", "plain20", "fractalnet"],
)
def test_images_with_other_channels_are_refused(name):
    with pytest.raises(ValueError, match="x has 1 channels"):
        traced(lambda model: model(jnp.ones((1, 64, 64, 1))), name)


# ---------------------------------------------------------------- auxiliary classifiers


def test_googlenet_gives_auxiliary_logits_in_training_alone():
    def logits(model):
        model.train()
        return model(jnp.ones((2, 64, 64, 3)))

    outputs = traced(logits, "googlenet", num_classes=7)
    assert outputs.weight == 0.3
    assert [z.shape for z in (outputs.logits, *outputs.auxiliary)] == [(2, 7)] * 3
    assert traced(logits, "googlenet", num_classes=7, auxiliary=False).shape == (2, 7)


def test_inception_v3_s_auxiliary_classifier_needs_its_own_size():
    def logits(model):
        model.train()
        with pytest.raises(UserError, match="at least 299x299 pixels in training, fewer with auxiliary=False"):
            model(jnp.ones((2, 298, 298, 3)))
        return model(jnp.ones((2, 299, 299, 3)))

    outputs = traced(logits, "inception_v3", num_classes=7)
    assert outputs.weight == 0.4
    assert [z.shape for z in (outputs.logits, *outputs.auxiliary)] == [(2, 7)] * 2

    def smaller(model):
        model.train()
        return model(jnp.ones((2, 75, 75, 3)))

    assert traced(smaller, "inception_v3", num_classes=7, auxiliary=False).shape == (2, 7)


# ---------------------------------------------------------------- residual and plain networks


def test_a_shortcut_drops_pixels_and_appends_zeros():
    x = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3)
    y = resnet_cifar.shortcut(x, 5, 2)
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2])
    assert y.shape == (2, 2, 2, 5)
    assert not y[..., 3:].any()
    np.testing.assert_array_equal(resnet_cifar.shortcut(x, 3, 1), x)


def test_a_block_that_computes_zero_passes_its_input_if_residual_and_nothing_if_plain():
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 16))
    for residual in (True, False):
        block = resnet_cifar.Block(16, 16, 1, residual, rngs=nnx.Rngs(0))
        block.eval()
        block.bn2.scale[...] = jnp.zeros(16)
        np.testing.assert_array_equal(nnx.jit(block)(x), x if residual else jnp.zeros_like(x))


def test_resnet_s_stem_for_small_images_keeps_their_size_and_takes_any_channels():
    """He et al. (2015), section 4.2: a 3x3 convolution with stride 1, and no pooling."""

    def maps(model):
        assert model(jnp.ones((2, 1, 6, 1))).shape == (2, 7)
        assert model.conv1.kernel_size == (3, 3)
        return models.features(model, jnp.ones((2, 32, 24, 1)), ["maxpool", "layer1", "layer4"])

    found = traced(maps, "resnet18", stem="cifar", in_channels=1, num_classes=7)
    assert [y.shape for y in found.values()] == [(2, 32, 24, 64), (2, 32, 24, 64), (2, 4, 3, 512)]
    with pytest.raises(UserError, match="stem must be one of imagenet, cifar, got 'small'"):
        models.create_model("resnet18", stem="small")


@pytest.mark.parametrize("depth", [2, 21, 0])
def test_a_depth_that_no_number_of_blocks_has_is_refused(depth):
    with pytest.raises(UserError, match="depth must be 8, 14, 20"):
        resnet_cifar.CifarResNet(depth, num_classes=10, in_channels=3, rngs=nnx.Rngs(0))


# ---------------------------------------------------------------- fractals


def fractal_net(**options):
    return models.create_model("fractalnet", num_classes=4, **{"columns": 3, "blocks": 1, "dropout": 0.0} | options)


def test_a_fractal_is_the_mean_of_a_convolution_and_the_smaller_fractal_twice():
    model = fractalnet.Fractal(3, 8, 0, 2, dropout=0.0, drop_path=0.0, rngs=nnx.Rngs(0))
    model.eval()

    @jax.jit
    def compare(x):
        joined = fractalnet.Join(0, 0.0, rngs=nnx.Rngs(0))(model(x))
        return joined, (model.unit(x) + model.second.unit(model.first.unit(x))) / 2

    np.testing.assert_allclose(*compare(jax.random.normal(jax.random.key(0), (1, 4, 4, 3))), rtol=1e-5)


def test_where_three_columns_meet_each_counts_a_third():
    """Larsson et al. (2016), figure 1: joins that follow each other are one, not means of means."""
    model = fractalnet.Fractal(3, 8, 0, 3, dropout=0.0, drop_path=0.0, rngs=nnx.Rngs(0))
    model.eval()

    @jax.jit
    def compare(x):
        joined = fractalnet.Join(0, 0.0, rngs=nnx.Rngs(0))(model(x))
        first, second = model.first, model.second  # of two columns each
        halfway = (first.unit(x) + first.second.unit(first.first.unit(x))) / 2
        deepest = second.second.unit(second.first.unit(halfway))
        return joined, (model.unit(x) + second.unit(halfway) + deepest) / 3

    np.testing.assert_allclose(*compare(jax.random.normal(jax.random.key(0), (1, 4, 4, 3))), rtol=1e-5, atol=1e-7)


def drawn_weights(rate, only, count=4, column=0, draws=400):
    """Return what a join gives each of its inputs, (draws, count)."""
    join = fractalnet.Join(column, rate, rngs=nnx.Rngs(0))
    inputs = list(jnp.eye(count))
    draw = nnx.jit(lambda join: join(inputs, jnp.int32(only)))
    return np.stack([draw(join) for _ in range(draws)])


def test_local_drop_path_leaves_out_inputs_at_its_rate_and_the_mean_is_of_the_rest():
    weights = drawn_weights(0.15, -1)
    kept = weights > 0
    np.testing.assert_allclose(weights, kept / kept.sum(1, keepdims=True), rtol=1e-6)
    assert 0.12 < 1 - kept.mean() < 0.18


def test_local_drop_path_keeps_one_path_however_high_its_rate():
    kept = drawn_weights(1.0, -1) > 0
    assert (kept.sum(1) == 1).all()
    assert (kept.mean(0) > 0.15).all()  # each of four about equally often


def test_global_drop_path_keeps_one_column_at_every_join():
    np.testing.assert_array_equal(drawn_weights(0.15, 2, draws=1), [[0, 0, 1, 0]])
    np.testing.assert_array_equal(drawn_weights(0.15, 2, column=1, draws=1), [[0, 1, 0, 0]])
    # Where the column does not come by, nothing that is computed counts.
    np.testing.assert_array_equal(drawn_weights(0.15, 0, column=1, draws=1), [[0.25] * 4])


def test_with_global_drop_path_only_one_column_learns():
    model = fractal_net(global_share=1.0, widths=(8,))
    x = jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def gradient(params, key):
        def total(params):
            merged = nnx.merge(graphdef, params, rest, copy=True)
            nnx.reseed(merged, dropout=key)
            return jnp.square(merged(x)).sum()

        return jax.grad(total)(params)

    seen = set()
    for seed in range(20):
        fractal = gradient(params, jax.random.key(seed))["blocks"]["layers"]["0"]["fractal"]
        flat = nnx.to_flat_state(fractal)
        # Column of a convolution: how often one goes down to a smaller fractal.
        learning = {len([p for p in path if p in ("first", "second")]) for path, leaf in flat if leaf[...].any()}
        assert len(learning) == 1
        seen |= learning
    assert seen == {0, 1, 2}


def test_drop_path_is_local_or_global_and_can_be_turned_off():
    model = fractal_net(columns=2, widths=(8,))
    draw = nnx.jit(lambda model: model._draw_column())
    columns = [int(draw(model)) for _ in range(200)]
    assert set(columns) == {-1, 0, 1}
    assert 0.4 < columns.count(-1) / 200 < 0.6
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    run = nnx.jit(lambda model: model(x))
    for model.drop_path in (0.15, 0.0):
        outputs = np.stack([run(model) for _ in range(8)])
        assert (outputs == outputs[0]).all() == (model.drop_path == 0)


def test_the_channels_of_a_fractal_network_s_blocks_can_be_given():
    """As many blocks, of 3 convolutions of 9 taps, two of which read the block's input, and their normalisations."""
    expected = sum(9 * 2 * before * width + 9 * width * width + 3 * 2 * width for before, width in ((3, 5), (5, 8)))
    assert traced(models.count_params, "fractalnet", num_classes=4, columns=2, widths=(5, 8)) == expected + 8 * 4 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 3, "widths": (8, 8)}, r"the channels of each of 3 blocks, got \(8, 8\)"),
        ({"blocks": None, "widths": ()}, r"the channels of each block, got \(\)"),
        ({"blocks": None, "widths": 8}, "the channels of each block, got 8"),
        ({"blocks": None, "widths": (8, 0)}, "widths must be at least 1, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
    ],
)
def test_a_fractal_network_s_sizes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        fractal_net(**options)


@pytest.mark.parametrize("rate", ["drop_path", "global_share"])
def test_rates_of_drop_path_are_probabilities(rate):
    with pytest.raises(ValueError, match=f"{rate} must be in"):
        fractal_net(**{rate: 1.5})


# ---------------------------------------------------------------- what is left out, and normalised

CLASSIFIER = {f"classifier.{number}": 0.5 for number in (2, 5)}
CONVOLUTIONS = [f"{part}unit.dropout" for part in ("", "first.", "second.")]
COLUMNS = [f"{part}{unit}" for part in ("first.", "second.") for unit in CONVOLUTIONS] + ["unit.dropout"]
RATES = {
    # Zeiler & Fergus (2013), section 3.1.
    "zfnet": CLASSIFIER,
    # Springenberg et al. (2014), section 3.1: of the image, and after what stands for a pooling.
    "all_cnn_a": {"features.0": 0.2, "features.5": 0.5, "features.10": 0.5},
    "all_cnn_c": {"features.0": 0.2, "features.7": 0.5, "features.14": 0.5},
    # Larsson et al. (2016), section 4.1: 0, 10, 20, 30 and 40 % in the five blocks.
    "fractalnet": {f"blocks.{block}.fractal.{unit}": block / 10 for block in (1, 2, 3, 4) for unit in COLUMNS},
    # He et al. (2015), section 3.4, and Zhang et al. (2017), which name none.
    "resnet20": {},
    "plain20": {},
    "shufflenet_v1_g3": {},
}


@pytest.mark.parametrize("name", RATES)
def test_networks_without_a_reference_leave_out_what_their_papers_do(name):
    layers = traced(lambda model: dict(nnx.iter_modules(model)), name)
    rates = {path_name(path): layer.rate for path, layer in layers.items() if isinstance(layer, Dropout)}
    assert {layer: rate for layer, rate in rates.items() if rate} == pytest.approx(RATES[name])


def test_the_networks_of_zeiler_and_fergus_normalise_twice_with_krizhevsky_s_formula():
    layers = traced(lambda model: [layer for layer in model.features if isinstance(layer, LocalResponseNorm)], "zfnet")
    assert len(layers) == 2
    x = 100 * np.random.default_rng(0).normal(size=(1, 2, 2, 7))
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2)))
    squares = sum(padded[..., shift : shift + 7] ** 2 for shift in range(5))
    for layer in layers:
        np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32)), x / (2 + 1e-4 * squares) ** 0.75, rtol=1e-4)


# ---------------------------------------------------------------- attention


def test_attention_maps_are_of_the_image_s_pixels_at_three_depths():
    x = jnp.ones((2, 32, 32, 3))
    maps = traced(lambda model: model.attention_maps(x), "vgg16_attention", num_classes=10)
    assert [y.shape for y in maps] == [(2, 32, 32), (2, 16, 16), (2, 8, 8)]


def test_attention_is_the_softmax_of_scores_whatever_the_global_descriptor():
    """The paper's formula adds the descriptor's score to every pixel's, and its softmax takes it off again."""
    attention = vgg_attention.Attention(vgg_attention.WIDTH, 0.0, rngs=nnx.Rngs(0))
    local, kernel = (
        np.random.default_rng(0).normal(0, 0.03, (2, 3, 3, vgg_attention.WIDTH)),
        attention.score.kernel[...],
    )
    scores = np.exp(local @ np.asarray(kernel, np.float64)[0, 0])[..., 0]
    expected = scores / scores.sum((1, 2), keepdims=True)
    for descriptor in (0.0, 3.0):
        weights = attention(jnp.asarray(local, jnp.float32), jnp.full((2, vgg_attention.WIDTH), descriptor))
        np.testing.assert_allclose(weights, expected, rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_attention_over_many_half_precision_pixels_sums_in_float32(dtype):
    """`y = sum_i a_i l_i` with `a = softmax(l u)`; the gradient of y . g by u is `sum_i a_i (l_i . g - y . g) l_i`."""
    attention = vgg_attention.Attention(vgg_attention.WIDTH, 0.0, rngs=nnx.Rngs(0))
    attention.score.kernel[...], rng = attention.score.kernel[...].at[..., 4:, :].set(0), np.random.default_rng(0)
    local = np.zeros((1, 56, 56, vgg_attention.WIDTH))
    local[..., :4] = rng.uniform(0.5, 1.5, (1, 56, 56, 4)) * np.linspace(0.1, 3, 56)[:, None, None]
    local, cotangent = jnp.asarray(local, dtype), jnp.ones((1, vgg_attention.WIDTH), dtype)
    graphdef, params = nnx.split(attention)

    def picked(kernel):
        layer = nnx.merge(graphdef, params, copy=True)
        layer.score.kernel.set_value(kernel)
        return vgg_attention._mean(local, layer(local, jnp.zeros((1, vgg_attention.WIDTH), dtype)))

    y, pull = jax.vjp(picked, attention.score.kernel[...])
    pixels, kernel = np.asarray(local, float).reshape(-1, vgg_attention.WIDTH), np.asarray(attention.score.kernel[...])
    weights = np.exp(pixels @ kernel[0, 0, :, 0].astype(float))
    weights /= weights.sum()
    gained = pixels.sum(1)
    expected = (weights * (gained - weights @ gained)) @ pixels
    np.testing.assert_allclose(np.asarray(y[0], float), weights @ pixels, rtol=float(jnp.finfo(dtype).eps))
    assert y.dtype == dtype
    np.testing.assert_allclose(pull(cotangent)[0][0, 0, :, 0], expected, rtol=1e-3, atol=1e-6)


def test_dropout_of_attention_takes_three_shares():
    with pytest.raises(UserError, match=r"dropout takes three shares, as \(0.3, 0.4, 0.5\), got 0.5"):
        models.create_model("vgg16_attention", dropout=0.5)


# ---------------------------------------------------------------- autoencoders


@pytest.mark.parametrize("size", [8, 13, 28, 32])
def test_autoencoders_give_images_of_their_input_s_shape_from_a_code(size):
    options = {"image_size": size, "in_channels": 1, "code_size": 5}
    x = jnp.ones((2, size, size, 1))
    assert traced(lambda model: model(x), "conv_autoencoder", **options).shape == x.shape
    assert traced(lambda model: model.encode(x), "conv_autoencoder", **options).shape == (2, 5)


def test_a_denoising_autoencoder_disturbs_images_in_training_alone():
    assert traced(lambda model: model.noise.deviation, "denoising_autoencoder", noise=0.5) == 0.5
    assert shapes("denoising_autoencoder", 32, ["noise"]) == [(32, 32, 3)]
    noise = autoencoder.GaussianNoise(0.5, rngs=nnx.Rngs(0))
    x = jnp.zeros((4, 8, 8, 3))
    assert float(noise(x).std()) == pytest.approx(0.5, rel=0.1)
    assert not jnp.array_equal(noise(x), noise(x))
    noise.eval()
    np.testing.assert_array_equal(noise(x), x)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_noise_is_a_deviation(noise):
    with pytest.raises(ValueError, match="noise must be at least 0 and finite"):
        traced(lambda model: model, "denoising_autoencoder", noise=noise)


def test_an_autoencoder_refuses_images_of_another_shape():
    with pytest.raises(UserError, match=r"takes images \(batch, 32, 32, 3\), got shape \(1, 28, 28, 3\)"):
        traced(lambda model: model(jnp.ones((1, 28, 28, 3))), "conv_autoencoder")


def test_a_column_that_drop_path_leaves_out_lets_no_infinity_through():
    join = fractalnet.Join(0, 0.0, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 3, 3, 4))
    np.testing.assert_array_equal(join([x, x * jnp.inf], jnp.int32(0)), x)
    np.testing.assert_array_equal(join([x * jnp.nan, x], jnp.int32(1)), x)
