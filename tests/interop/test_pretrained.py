"""Weights and preprocessing from the hub, with a local file in its place, and torch's own files."""

import dataclasses
import pickle
import sys
import tarfile
import warnings
import zipfile
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cnnjax import interop, models
from cnnjax.errors import UserError
from cnnjax.interop import hub
from cnnjax.interop.preprocess import resize
from cnnjax.interop.slots import slots

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
needs_timm = pytest.mark.skipif(not all(map(find_spec, ("torch", "torchvision", "timm"))), reason="needs timm")
NOISE = np.random.default_rng(0).integers(0, 256, (2, 70, 53, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained():
    model, generator = empty(), np.random.default_rng(0)
    for _, slot in slots(model):
        slot.fill(generator.standard_normal(slot.shape))
    return model


def empty():
    return nnx.eval_shape(lambda: models.create_model("resnet20"))


@pytest.fixture
def weights(trained, tmp_path, monkeypatch):
    """The hub has one repository, with random weights of a small network that needs TensorFlow's settings."""
    path = tmp_path / "model.safetensors"
    interop.save_safetensors(trained, path)
    tensorflow = hub.WEIGHTS["efficientnet_b5"]
    monkeypatch.setitem(hub.WEIGHTS, "resnet20", tensorflow._replace(repository="timm/small"))
    monkeypatch.setattr(hub, "fetch", {"timm/small": path}.__getitem__)
    return interop.to_torch(trained), path


def test_a_pretrained_network_has_the_hub_s_weights_settings_and_preprocessing(weights):
    expected, path = weights
    for pretrained in (interop.from_pretrained("resnet20"), interop.from_pretrained("resnet20", file=path, seed=1)):
        got = interop.to_torch(pretrained.model)
        assert expected.keys() == got.keys()
        assert all((got[key] == expected[key]).all() for key in expected)
        assert pretrained.repository == "timm/small"
        assert pretrained.preprocess == interop.Preprocess(456, 0.934, "bicubic")
        assert pretrained.model.conv1.padding == "SAME"
        assert pretrained.model.bn1.eps == 1e-3
        assert pretrained.model.bn1.use_running_average  # in evaluation
    with pytest.raises(ValueError, match=r"weight \(1000, 64\) instead of \(10, 64\)"):
        interop.from_pretrained("resnet20", num_classes=10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xception", "knows no weights for 'xception' on the hub, but for convnext_tiny, densenet121, .*; a .pth file"),
        ("resnet5", r"^unknown model 'resnet5': did you mean resnet50 or [^,]*\?$"),
    ],
)
def test_names_without_weights_are_told_which_have_some(name, message):
    with pytest.raises(UserError, match=message):
        interop.from_pretrained(name)


def test_without_the_hub_s_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="needs huggingface_hub: pip install"):
        interop.from_pretrained("resnet18")


def test_without_a_network_it_is_said_what_to_do(monkeypatch):
    def download(repository, file):
        raise ConnectionError(f"no route to {repository}/{file}")

    monkeypatch.setitem(sys.modules, "huggingface_hub", type(sys)("huggingface_hub"))
    sys.modules["huggingface_hub"].hf_hub_download = download
    with pytest.raises(UserError, match=r"no route to timm/resnet18.tv_in1k/model.safetensors\).*file=PATH"):
        interop.from_pretrained("resnet18")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(31, 40), (128, 97), (70, 20), (70, 53)])
def test_images_are_resized_as_pillow_does(interpolation, size):
    height, width = size
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]

    def pillow(image):  # one axis after the other
        return np.asarray(Image.fromarray(image).resize((width, len(image)), method).resize((width, height), method))

    theirs = np.stack([pillow(image) for image in NOISE])
    ours = np.asarray(resize(NOISE, height, width, interpolation)) * 255
    different = np.abs(ours - theirs)
    assert different.max() <= 1.001  # where a float is just beside a half
    assert (different > 0.001).mean() < 0.01
    channel = pillow(NOISE[0, ..., 0].astype(np.float32) / 255)
    floats = resize(NOISE.astype(np.float32) / 255, height, width, interpolation)
    np.testing.assert_allclose(floats[0, ..., 0], channel, atol=1e-6)


@pytest.mark.parametrize("shape", [(70, 53), (53, 70), (40, 40)])
def test_preprocessing_is_a_pure_function_of_images_of_any_size(shape):
    images = np.zeros((2, *shape, 3), np.uint8)
    y = jax.jit(interop.Preprocess(32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))(images)
    assert y.shape == (2, 32, 32, 3)
    assert (np.asarray(y) == -2).all()
    with pytest.raises(UserError, match=r"expected images \(batch, height, width, 3\), got shape"):
        interop.Preprocess(32)(images[0])


@pytest.mark.parity
@needs_timm
@pytest.mark.parametrize("name", sorted(hub.WEIGHTS))
def test_preprocessing_is_timm_s_configuration(name):
    from experiments.bench import torchvision_without_ops  # noqa: F401, I001
    from timm.models import get_pretrained_cfg

    weights = hub.WEIGHTS[name]
    config = get_pretrained_cfg(weights.repository.removeprefix("timm/"))
    assert config.hf_hub_id == weights.repository
    assert config.crop_mode == "center"
    assert config.num_classes == 1000
    assert weights.preprocess == interop.Preprocess(
        config.input_size[-1], config.crop_pct, config.interpolation, config.mean, config.std
    )


@pytest.mark.parity
@needs_timm
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b5"])
def test_images_are_preprocessed_as_timm_does(name):
    import torch
    from timm.data import create_transform

    from experiments.bench import torchvision_without_ops  # noqa: F401

    smaller = dataclasses.replace(hub.WEIGHTS[name].preprocess, size=32)
    transform = create_transform(
        32, mean=smaller.mean, std=smaller.std, crop_pct=smaller.crop, interpolation=smaller.interpolation
    )
    theirs = torch.stack([transform(Image.fromarray(image)) for image in NOISE]).permute(0, 2, 3, 1).numpy()
    different = np.abs(np.asarray(smaller(NOISE)) - theirs)
    assert different.max() <= 1.001 / 255 / min(smaller.std)
    assert (different > 1e-5).mean() < 1e-3


@needs_torch
@pytest.mark.parity
@pytest.mark.parametrize("inside", [None, "state_dict"])
def test_arrays_of_a_pth_file_are_read(trained, tmp_path, inside):
    import torch

    path = tmp_path / "weights.pth"
    state = {key: torch.from_numpy(array.copy()) for key, array in interop.to_torch(trained).items()}
    torch.save({inside: state, "epoch": 3} if inside else state, path)
    model = empty()
    interop.load_pth(model, path)
    for key, array in interop.to_torch(model).items():
        np.testing.assert_array_equal(array, state[key].numpy())


class Malicious:
    """Unpickled, it would make a file, and could do anything."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@needs_torch
@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zipped):
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    data = pickle.dumps({"conv1.weight": Malicious(made)}, protocol=2)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights/data.pkl", data)
            archive.writestr("weights/version", "3\n")
    else:
        path.write_bytes(data)
    with pytest.raises(UserError, match="was refused: it holds something else than arrays"):
        interop.load_pth(empty(), path)
    assert not made.exists()
    pickle.loads(data)["conv1.weight"].close()
    assert made.exists()  # it would have been run


@pytest.mark.parity
@needs_torch
def test_files_that_cannot_be_read_are_named(tmp_path):
    import torch

    model = empty()
    with pytest.raises(UserError, match="there is no file"):
        interop.load_pth(model, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pth is no torch file") as error:
        interop.load_pth(model, tmp_path / "text.pth")
    assert "weights_only" not in str(error.value)  # torch recommends to turn it off
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no weights by name but a list"):
        interop.load_pth(model, tmp_path / "list.pth")


def _script(path):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(torch.nn.Linear(2, 3)).save(path)


def _tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def _cut(path):
    import torch

    torch.save({"conv1.weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:200])


def _module(path):
    import torch

    torch.save(torch.nn.Linear(2, 3), path)


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_script, r"holds a TorchScript program: load_torch takes its state_dict\(\)$"),
        (_tar, r"is in torch's oldest format, \.tar: save it anew with torch$"),
        (_cut, r"is no torch file that can be read \("),
        (_module, r"was refused: it holds something else than arrays.*Linear"),
    ],
)
@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file that looks like a TorchScript archive")
def test_no_file_of_torch_s_is_said_to_be_readable_in_a_way_that_runs_code(tmp_path, write, message):
    write(tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message) as error:
        interop.load_pth(empty(), tmp_path / "weights.pth")
    assert not any(word in str(error.value) for word in ("weights_only", "safe_globals", "trust"))


def test_without_torch_it_is_said_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs torch"):
        interop.load_pth(empty(), "weights.pth")
