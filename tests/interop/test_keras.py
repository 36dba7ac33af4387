"""With weights of keras.applications, networks compute what Keras's compute."""

import collections
import os
import sys
import warnings
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from cnnjax.errors import UserError
from cnnjax.interop import keras_files
from cnnjax.interop.preprocess import MEAN, STD

pytestmark = [pytest.mark.parity, pytest.mark.skipif(find_spec("keras") is None, reason="needs keras")]

# Of each family: Keras's name and module, and an image's size; odd and even ones pad differently.
NETWORKS = {
    "vgg16": ("VGG16", "vgg16", 224),  # its classifier is made for 7x7 pixels
    "resnet50": ("ResNet50", "resnet50", 65),
    "inception_v3": ("InceptionV3", "inception_v3", 75),
    "xception": ("Xception", "xception", 96),
    "mobilenet_v1": ("MobileNet", "mobilenet", 64),
    "mobilenet_v2": ("MobileNetV2", "mobilenet_v2", 75),
    "densenet121": ("DenseNet121", "densenet", 64),
    "efficientnet_b0": ("EfficientNetB0", "efficientnet", 64),
}
LARGE = ("densenet121",)  # whose layers are those of the others
SIBLINGS = {"densenet121": "DenseNet121", "resnet101": "ResNet101", "efficientnet_b1": "EfficientNetB1"}


@pytest.fixture(scope="module")
def applications():
    os.environ["KERAS_BACKEND"] = "jax"  # before the first import
    import keras

    patch = pytest.MonkeyPatch()
    # Its own initial values take longer than the rest of a test.
    patch.setattr(
        keras.initializers.VarianceScaling, "__call__", lambda self, shape, dtype=None: np.zeros(shape, np.float32)
    )
    # EfficientNet with `weights="imagenet"` is another network, here without those weights.
    patch.setattr(keras.src.utils.file_utils, "get_file", lambda *_, **__: "")
    patch.setattr(keras.Model, "load_weights", lambda *_: None)
    yield keras.applications
    patch.undo()


def build(applications, name, size):
    """Return Keras's network with random weights and statistics, the same ones every time."""
    network = getattr(applications, name)(weights=None, classifier_activation=None, input_shape=(size, size, 3))
    generator = np.random.default_rng(0)
    for layer in network.layers:
        for weight in layer.weights:
            weight._value = jax.numpy.asarray(random_values(generator, weight.path, weight.shape), weight.dtype)
    return network


def random_values(generator, path, shape):
    name = path.rsplit("/")[-1]
    if name == "count":
        return 0
    if name in ("gamma", "moving_variance", "variance"):
        return generator.uniform(0.8, 1.25, shape)
    if "kernel" in name:
        depthwise = name == "depthwise_kernel" or "dw" in path or "depthwise" in path
        fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
        return generator.standard_normal(shape, np.float32) * np.float32((1.0 / fan_in) ** 0.5)
    return generator.normal(0, 0.1, shape)


def keras_logits(network, x):
    call = jax.jit(lambda trainable, rest, x: network.stateless_call(trainable, rest, x, training=False)[0])
    return np.asarray(
        call([v.value for v in network.trainable_variables], [v.value for v in network.non_trainable_variables], x)
    )


def logits(model, x):
    model.eval()
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.zoo) if name in LARGE else name for name in NETWORKS]
)
def test_eval_logits_are_keras_s(applications, name):
    theirs, module, size = NETWORKS[name]
    network = build(applications, theirs, size)
    images = np.random.default_rng(1).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    model = nnx.eval_shape(lambda: models.create_model(name))
    interop.load_keras(model, network)
    scaled = np.asarray(getattr(applications, module).preprocess_input(images.copy()))
    np.testing.assert_allclose(interop.keras_preprocess(model, images), scaled, atol=1e-4)
    expected = keras_logits(network, scaled)
    assert np.abs(logits(model, scaled) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", SIBLINGS)
def test_arrays_of_deeper_networks_have_a_place(applications, name):
    model = nnx.eval_shape(lambda: models.create_model(name))  # every array a shape without values
    interop.load_keras(model, getattr(applications, SIBLINGS[name])(weights=None))
    arrays = jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    assert arrays
    assert all(isinstance(array, jax.Array) for array in arrays)


@pytest.fixture(scope="module")
def mobilenet(applications):
    return build(applications, "MobileNet", 64)


@pytest.fixture
def arrays(mobilenet):
    return {weight.path: np.array(weight.value) for weight in mobilenet.weights}


def test_models_mappings_and_files_give_the_same_network(mobilenet, arrays, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how Keras 3 reads its own variables is deprecated by NumPy
        mobilenet.save_weights(tmp_path / "mobilenet.weights.h5")
        mobilenet.save(tmp_path / "mobilenet.h5")
    older = {f"{key.replace('predictions', 'probs')}:0": value for key, value in arrays.items()}
    results = []
    for source in (mobilenet, arrays, older, tmp_path / "mobilenet.weights.h5", str(tmp_path / "mobilenet.h5")):
        model = nnx.eval_shape(lambda: models.create_model("mobilenet_v1"))
        interop.load_keras(model, source)
        results.append(interop.to_torch(model))
    for result in results[1:]:
        for key, value in results[0].items():
            np.testing.assert_array_equal(result[key], value)


def test_a_safetensors_file_keeps_keras_s_network_with_as_keras(arrays, tmp_path):
    model = models.create_model("mobilenet_v1")
    interop.load_keras(model, arrays)
    interop.save_safetensors(model, tmp_path / "weights.safetensors")
    again = models.create_model("mobilenet_v1")
    interop.as_keras(again)
    interop.load_safetensors(again, tmp_path / "weights.safetensors")
    x = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(logits(again, x), logits(model, x))


def test_what_does_not_fit_is_listed_and_nothing_changed(arrays):
    del arrays["conv_dw_5/kernel"]
    arrays["conv_pw_2/bias"] = np.zeros(128)
    arrays["conv1/kernel"] = arrays["conv1/kernel"][:, :, :1]
    arrays["conv_dw_3_bn/gamma"] = np.full(128, np.nan)
    model = models.create_model("mobilenet_v1")
    before = interop.to_torch(model)
    with pytest.raises(ValueError, match="not the weights of this MobileNetV1") as error:
        interop.load_keras(model, arrays)
    for part in (
        "missing: conv_dw_5/kernel;",
        "not in the model: conv_pw_2/bias;",
        "of another shape: conv1/kernel (3, 3, 1, 32) instead of (3, 3, 3, 32);",
        "not all finite numbers: conv_dw_3_bn/gamma",
    ):
        assert part in str(error.value)
    for key, value in interop.to_torch(model).items():
        np.testing.assert_array_equal(value, before[key])
    assert model.conv_stem.padding == 1


def test_mistakes_are_told(arrays, tmp_path, monkeypatch):
    model = nnx.eval_shape(lambda: models.create_model("mobilenet_v1"))
    with pytest.raises(UserError, match=r"expected images \(\.\.\., height, width, 3\), got shape \(1, 8, 8, 1\)"):
        interop.keras_preprocess(model, np.zeros((1, 8, 8, 1)))
    with pytest.raises(UserError, match=r"takes a keras\.Model, a mapping .* got a list"):
        interop.load_keras(model, [])
    with pytest.raises(ValueError, match="have predictions/kernel twice"):
        interop.load_keras(model, {"probs/kernel": 0, "predictions/kernel": 0})
    with pytest.raises(UserError, match="there is no file"):
        interop.load_keras(model, tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.h5 is no HDF5 file"):
        interop.load_keras(model, tmp_path / "text.h5")
    import h5py

    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(UserError, match=r"empty\.h5 has no Keras weights"):
        interop.load_keras(model, tmp_path / "empty.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="needs h5py: pip install h5py"):
        interop.load_keras(model, tmp_path / "text.h5")


OTHERS = ("alexnet", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "vgg11", "vgg16_bn", "densenet161")


@pytest.mark.parametrize("name", [*OTHERS, "efficientnet_v2_s"])
def test_networks_that_keras_does_not_have_are_refused(name):
    model = nnx.eval_shape(lambda: models.create_model(name))
    for function in (interop.as_keras, lambda model: interop.load_keras(model, {})):
        with pytest.raises(UserError, match=r"keras\.applications has no such .* here are vgg16, vgg19, resnet50"):
            function(model)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda file: file.create_dataset("layers", data=np.zeros(3)), "AttributeError"),
        (lambda file: file.create_group("layers/conv/vars").attrs.update(name="conv1"), None),
        (lambda file: file.attrs.update(layer_names=["conv1"], keras_version="1"), None),
        (lambda file: _variables(file, "1"), "KeyError"),
        (lambda file: _legacy(file, "conv1/kernel:0"), "KeyError"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, write, reason):
    import h5py

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        write(file)
    model = nnx.eval_shape(lambda: models.create_model("mobilenet_v1"))
    damaged = rf"weights\.h5 is damaged, or no file of Keras's weights \({reason}"
    with pytest.raises(UserError if reason else ValueError, match=damaged if reason else "MobileNetV1: missing: "):
        interop.load_keras(model, tmp_path / "weights.h5")


def _variables(file, number):
    variables = file.create_group("layers/conv/vars")
    variables.attrs["name"] = "conv1"
    variables[number] = np.zeros(3)


def _legacy(file, missing):
    file.attrs["layer_names"] = ["conv1"]
    file.create_group("conv1").attrs["weight_names"] = [missing]


def test_the_file_of_xception_that_keras_1_wrote_is_read(applications, tmp_path, monkeypatch):
    """keras.applications publishes it with automatic names alone, which count layers in the order of their calls."""
    import h5py
    import keras

    called, call = [], keras.layers.Layer.__call__
    monkeypatch.setattr(
        keras.layers.Layer, "__call__", lambda self, *args, **kwargs: called.append(self) or call(self, *args, **kwargs)
    )
    network = build(applications, "Xception", 96)
    kinds = {"Conv2D": "convolution2d", "SeparableConv2D": "separableconvolution2d"}
    kinds |= {"BatchNormalization": "batchnormalization", "Dense": "dense"}
    counted = collections.Counter(dense=1)
    with h5py.File(tmp_path / "xception.h5", "w") as file:
        for layer in (layer for layer in called if layer.weights):
            kind = kinds[type(layer).__name__]
            counted[kind] += 1
            group = file.create_group(f"{kind}_{counted[kind]}")
            group.attrs["weight_names"] = [f"{group.name[1:]}_{weight.name}:0" for weight in layer.weights]
            for name, weight in zip(group.attrs["weight_names"], layer.weights, strict=True):
                group[name] = np.asarray(weight.value)
        file.attrs["layer_names"] = sorted(file)
    assert counted == {"convolution2d": 6, "separableconvolution2d": 34, "batchnormalization": 40, "dense": 2}
    results = []
    for source in (network, tmp_path / "xception.h5"):
        model = nnx.eval_shape(lambda: models.create_model("xception"))
        interop.load_keras(model, source)
        results.append(interop.to_torch(model))
    for key, value in results[0].items():
        np.testing.assert_array_equal(results[1][key], value)


def test_sources_say_how_efficientnet_normalises_images(applications):
    """Keras's weights for ImageNet have deviations in the place of variances, for which it divides once more."""
    network = build(applications, "EfficientNetB0", 64)
    values = {weight.name: weight for weight in network.get_layer(index=2).weights}
    values["mean"]._value, values["variance"]._value = (jax.numpy.asarray(value) for value in (MEAN, STD))
    arrays = {weight.path: np.array(weight.value) for weight in network.weights}
    others = {key: array * 2 if key.endswith("/variance") else array for key, array in arrays.items()}
    for source, expected in ((arrays, STD), (others, np.sqrt(STD) * 2**0.5), (network, np.sqrt(STD))):
        model = nnx.eval_shape(lambda: models.create_model("efficientnet_b0"))
        interop.load_keras(model, source)
        first = model.features[0]
        np.testing.assert_allclose(first.mean, MEAN, rtol=1e-6)
        np.testing.assert_allclose(first.std, expected, rtol=1e-6)
        assert len(model.features) == 10
    published = keras_files.read(applications.EfficientNetB0(weights="imagenet"))
    np.testing.assert_allclose(published["rescaling/scale"], 1 / (255 * np.sqrt(STD)), rtol=1e-6)
