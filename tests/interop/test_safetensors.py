"""Files and arrays that are not a network's weights are refused before anything is changed; no torch is needed."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from cnnjax import interop, models
from cnnjax.errors import UserError


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
    save_file({f"model.{key}": array for key, array in state.items()}, tmp_path / "foreign.safetensors")
    with pytest.raises(
        ValueError,
        match=r"not the weights of this LectureCNN: missing: conv1\.weight, .*; not in the model: model\.conv1\.bias, ",
    ):
        interop.load_safetensors(model, tmp_path / "foreign.safetensors")


@pytest.mark.parametrize("bias", [np.array([np.nan] + [0.0] * 31), np.array(["a word"] * 32)], ids=["NaN", "words"])
def test_what_is_not_a_number_is_named(model, state, bias):
    with pytest.raises(ValueError, match=r"LectureCNN: not a number in: conv1\.bias$"):
        interop.load_torch(model, state | {"conv1.bias": bias})


def test_a_nan_in_a_file_is_named(model, state, tmp_path):
    kernel = state["conv2.weight"].copy()
    kernel[1, 2, 0, 1] = np.nan
    save_file(state | {"conv2.weight": kernel}, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match=r"LectureCNN: not a number in: conv2\.weight$"):
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
