"""Files and arrays that are not a network's weights are refused before anything is changed; no torch is needed."""

import json

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from cnnjax import interop, models, nn
from cnnjax.errors import UserError
from cnnjax.interop import settings
from cnnjax.interop.safetensors import SETTINGS


@pytest.fixture(scope="module")
def state():
    return interop.to_torch(models.create_model("lecture-cnn", num_classes=4, image_size=16, seed=1))


@pytest.fixture
def model():
    """A network of that architecture with other weights, which are to be found unchanged after a mistake."""
    model = models.create_model("lecture-cnn", num_classes=4, image_size=16, seed=2)
    before = interop.to_torch(model)
    yield model
    for key, array in interop.to_torch(model).items():
        np.testing.assert_array_equal(array, before[key])


def whole_file(tmp_path, state):
    path = tmp_path / "whole.safetensors"
    save_file(state, path)
    return path.read_bytes()


def test_a_written_file_gives_the_same_weights_back(state, tmp_path):
    first, second = (models.create_model("lecture-cnn", num_classes=4, image_size=16, seed=seed) for seed in (1, 2))
    interop.save_safetensors(first, tmp_path / "model.safetensors")
    interop.load_safetensors(second, str(tmp_path / "model.safetensors"))
    for key, array in interop.to_torch(second).items():
        np.testing.assert_array_equal(array, state[key])


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none\.safetensors to load weights from"):
        interop.load_safetensors(model, tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no weights",
        lambda data: data[:-1],  # a download that was cut off
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: data + b"\0",
        lambda data: b"\xff" * 8 + data[8:],  # a header longer than the file
        lambda data: data[:8] + b"[" + data[9:],
    ],
    ids=["empty", "text", "byte missing", "half", "no header", "byte too many", "length", "header"],
)
def test_a_file_that_is_damaged_or_no_safetensors_file_is_named(model, state, tmp_path, damage):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(whole_file(tmp_path, state)))
    with pytest.raises(UserError, match=r"damaged\.safetensors is no safetensors file that can be read \(.+\)"):
        interop.load_safetensors(model, path)


def test_a_folder_is_no_file(model, tmp_path):
    with pytest.raises(UserError, match="is no safetensors file that can be read"):
        interop.load_safetensors(model, tmp_path)


def test_keys_of_another_program_are_listed(model, state, tmp_path):
    save_file({f"{key}_0": array for key, array in state.items()}, tmp_path / "foreign.safetensors")
    with pytest.raises(
        ValueError,
        match=r"not the weights of this LectureCNN: missing: conv1\.weight, .*; not in the model: conv1\.bias_0, ",
    ):
        interop.load_safetensors(model, tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    "bias",
    [
        np.array([np.nan] + [0.0] * 31),
        np.array([0.0] * 31 + [-np.inf]),
        np.full(32, 1e300),
        np.array(["a word"] * 32),
        np.full(32, 1j),
    ],
    ids=["NaN", "infinity", "infinity in float32", "words", "imaginary"],
)
def test_what_is_not_a_number_is_named(model, state, bias):
    with pytest.raises(ValueError, match=r"LectureCNN: not all finite numbers: conv1\.bias$"):
        interop.load_torch(model, state | {"conv1.bias": bias})


def test_a_nan_in_a_file_is_named(model, state, tmp_path):
    kernel = state["conv2.weight"].copy()
    kernel[1, 2, 0, 1] = np.nan
    save_file(state | {"conv2.weight": kernel}, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match=r"LectureCNN: not all finite numbers: conv2\.weight$"):
        interop.load_safetensors(model, tmp_path / "nan.safetensors")


def test_weights_of_another_network_are_refused(model):
    other = interop.to_torch(models.create_model("resnet20", num_classes=4))
    with pytest.raises(
        ValueError, match=r"LectureCNN: missing: .*; not in the model: .* and \d+ more; of another shape"
    ):
        interop.load_torch(model, other)


def test_weights_for_other_classes_are_refused(model):
    other = models.create_model("lecture-cnn", num_classes=5, image_size=16)
    with pytest.raises(ValueError, match=r"of another shape: .*weight \(5, \d+\) instead of \(4, \d+\)"):
        interop.load_torch(model, interop.to_torch(other))


def test_a_network_with_shortcuts_is_not_the_plain_one_with_the_same_layers(tmp_path):
    interop.save_safetensors(models.create_model("resnet20", num_classes=4), tmp_path / "model.safetensors")
    plain = models.create_model("plain20", num_classes=4)
    with pytest.raises(UserError, match=r"layer1\.0\.residual is True, where the model has False: .* another network"):
        interop.load_safetensors(plain, tmp_path / "model.safetensors")


def test_numbers_that_numpy_does_not_have_are_named(model, tmp_path):
    header = json.dumps({"conv1.bias": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "small.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(UserError, match=r"small\.safetensors is no safetensors file that can be read \(.*float8"):
        interop.load_safetensors(model, tmp_path / "small.safetensors")


@pytest.mark.parametrize("given", [None, [1.0], {3: np.ones(3)}])
def test_what_is_no_state_dict_is_told(model, given):
    with pytest.raises(UserError, match=rf"maps names to arrays, got {type(given).__name__}: of a torch module take"):
        interop.load_torch(model, given)


def test_a_file_that_cannot_be_written_is_named(model, tmp_path):
    with pytest.raises(UserError, match=r"cannot be written to .*none/model\.safetensors \(.*No such file"):
        interop.save_safetensors(model, tmp_path / "none" / "model.safetensors")


# ---------------------------------------------------------------- what no array says


def small_network(seed=0):
    """Layers of every kind that weights of other libraries set something of."""
    rngs = nnx.Rngs(seed)
    convolution = nn.Conv(3, 4, 3, 2, 1, rngs=rngs)
    return nn.Sequential(convolution, nn.BatchNorm(4), nn.AvgPool(3, 2, 1), nn.MaxPool(2), nn.GlobalAvgPool())


@pytest.mark.parametrize(
    ("layer", "attributes"),
    [
        (1, {"eps": 1e-3}),
        (1, {"eps": np.float32(0.3), "momentum": 0.01}),
        (0, {"padding": "SAME"}),
        (0, {"padding": ((0, 1), (0, 1)), "stride": (1, 3)}),
        (2, {"count_include_pad": False}),
    ],
)
def test_a_written_file_gives_the_same_logits_though_layers_were_set(tmp_path, layer, attributes):
    first, second = small_network(1), small_network(2)
    x = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)
    first.eval()
    second.eval()
    before = first(x)
    for name, value in attributes.items():
        setattr(first[layer], name, value)
    interop.save_safetensors(first, tmp_path / "model.safetensors")
    interop.load_safetensors(second, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(second(x), first(x))
    assert not np.array_equal(first(x), before)
    assert {name: getattr(second[layer], name) for name in attributes} == attributes


def changed(layer, name, value):
    found = json.loads(settings.describe(small_network()))
    found[layer][name] = value
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eps", "what it says of layers is damaged"),
        ("[" * 100_000, "what it says of layers is damaged"),
        ("[]", r"other layers than this Sequential \(all\)"),
        ("{}", r"other layers than this Sequential \(0, 1, 2, 3\)"),
        ('{"0": 0, "1": 0, "2": 0, "3": 0}', "what it says of layers is damaged"),
        (changed("1", "eps", float("nan")), "1.eps is nan, where the model has 1e-05"),
        (changed("1", "eps", None), "1.eps is None"),
        (changed("0", "padding", "__import__('os')"), "0.padding is .*: a file sets numbers from 0 to 1000 and names"),
        (changed("0", "padding", [[0, 1], [0, 10**9]]), "0.padding is 1000000000"),
        (changed("0", "stride", -1), "0.stride is -1"),
        (changed("3", "pool", "min_pool2d"), "3.pool is 'min_pool2d', where the model has max_pool2d"),
    ],
    ids=range(11),
)
def test_a_file_sets_nothing_of_layers_but_numbers_and_names_of_paddings(tmp_path, text, message):
    model, path = small_network(), tmp_path / "strange.safetensors"
    before = settings.describe(model)
    save_file(interop.to_torch(small_network(1)), path, {SETTINGS: text})
    with pytest.raises(UserError, match=rf"strange\.safetensors does not fit: .*{message}"):
        interop.load_safetensors(model, path)
    assert settings.describe(model) == before
    np.testing.assert_array_equal(model[0].kernel[...], small_network()[0].kernel[...])


@pytest.mark.parametrize(
    ("name", "difference"), [("efficientnet_b0", r"\(features\.normalization\)"), ("xception", "same_max_pool2d")]
)
def test_a_file_of_keras_s_network_says_what_to_call_where_numbers_are_not_enough(name, difference):
    keras, model = (nnx.eval_shape(lambda: models.create_model(name)) for _ in range(2))
    interop.as_keras(keras)
    written = settings.describe(keras)
    with pytest.raises(UserError, match=rf"{difference}.*interop\.as_keras"):
        settings.parse(model, written)
    interop.as_keras(model)
    settings.apply(model, settings.parse(model, written))
    assert settings.describe(model) == written
