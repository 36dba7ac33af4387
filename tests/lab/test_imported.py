"""Weights from elsewhere are used as torchvision's transforms and networks use them."""

import json
import re
import sys
from importlib.util import find_spec

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import interop, models
from cnnjax.interop import hub, imagenet
from cnnjax.lab import app
from tests.lab.test_launch import call

needs_torch = pytest.mark.skipif(not all(map(find_spec, ("torch", "torchvision"))), reason="needs torchvision")
NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")
SIZE, MEAN, STD = 64, (0.2, 0.5, 0.4), (0.3, 0.2, 0.25)
NUMBERS = ["--image-size", str(SIZE), "--mean", *map(str, MEAN), "--std", *map(str, STD)]


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compile without LLVM's optimisations: these programs run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of several sizes in three of the classes: smooth, so that resizing is well defined."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, (name, size) in enumerate(
        [("bee", (90, 70)), ("bee", (70, 140)), ("dog", (64, 64)), ("gnu", (50, 80))]
    ):
        pixels = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size)
        (root / "set" / name).mkdir(parents=True, exist_ok=True)
        pixels.save(root / "set" / name / f"{number}.png")
    return root / "set"


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    file = tmp_path_factory.mktemp("classes") / "names.txt"
    file.write_text("\n".join(NAMES) + "\n")
    return file


def numbers(count, seed=0):
    """Weights of a small network whose logits differ."""
    model, generator = models.create_model("squeezenet1_1", num_classes=count), np.random.default_rng(seed)
    state = interop.to_torch(model)
    state["classifier.1.bias"] = generator.normal(0, 0.3, count).astype(np.float32)
    interop.load_torch(model, state)
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    state = {f"module.{key}": torch.tensor(array) for key, array in interop.to_torch(numbers(len(NAMES))).items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def reference(weights, folder):
    """Class probabilities of every photograph, by torchvision."""
    from experiments.bench import torchvision_without_ops  # noqa: F401, I001
    import torch
    from torchvision import models as theirs
    from torchvision import transforms

    network = theirs.squeezenet1_1(num_classes=len(NAMES))
    network.load_state_dict(
        {key.removeprefix("module."): value for key, value in torch.load(weights)["state_dict"].items()}
    )
    prepare = transforms.Compose(
        [
            transforms.Resize(int(SIZE / 0.875), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    files = sorted(folder.rglob("*.png"))
    with torch.no_grad():
        batch = torch.stack([prepare(Image.open(file)) for file in files])
        return files, network.eval()(batch).softmax(1).numpy()


@needs_torch
def test_a_file_of_torch_predicts_as_torch(weights, folder, classes, reference, capsys):
    files, expected = reference
    words = ["--model", "squeezenet1_1", "--classes", str(classes), *NUMBERS]
    status, printed, error = call(
        capsys, "predict", str(weights), str(folder), *words, "--format", "jsonl", "--top", "7"
    )
    assert status == 0, error
    assert "squeezenet1_1: 7 classes; of an image, scaled to 73 pixels on its shorter side (bicubic)" in error
    for line, file, scores in zip(printed.splitlines(), files, expected, strict=True):
        row = json.loads(line)
        assert row["file"] == str(file)
        assert row["probabilities"] == pytest.approx(dict(zip(NAMES, map(float, scores), strict=True)), abs=1e-4)


@needs_torch
def test_it_is_evaluated_on_some_of_its_classes_by_name_or_number(
    weights, folder, classes, reference, tmp_path, capsys
):
    files, expected = reference
    labels = [NAMES.index(file.parent.name) for file in files]
    loss = -np.log(expected[np.arange(len(files)), labels]).mean()
    (tmp_path / "numbered").mkdir()
    for name in ("bee", "dog", "gnu"):
        (tmp_path / "numbered" / str(NAMES.index(name))).symlink_to(folder / name)
    words = ["--model", "squeezenet1_1", *NUMBERS, "--out", str(tmp_path / "out")]
    for data, more in ((folder, ["--classes", str(classes)]), (tmp_path / "numbered", [])):
        assert call(capsys, "evaluate", str(weights), "--data", str(data), *words, *more)[0] == 0
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert found["images"] == len(files)
        assert found["accuracy"] == pytest.approx(np.mean(expected.argmax(1) == labels))
        assert found["loss"] == pytest.approx(loss, rel=1e-3)


@needs_torch
def test_it_is_exported_with_its_normalisation_and_without(weights, reference, classes, tmp_path, monkeypatch, capsys):
    files, expected = reference
    words = [str(weights), "--model", "squeezenet1_1", *NUMBERS]
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "export", *words, "--to", "safetensors", "--out", "net.safetensors")[0] == 0
    state, again = interop.to_torch(numbers(len(NAMES))), models.create_model("squeezenet1_1", num_classes=7, seed=9)
    interop.load_safetensors(again, "net.safetensors")
    assert all(np.array_equal(array, state[key]) for key, array in interop.to_torch(again).items())
    status, printed, _ = call(capsys, "export", *words, "--to", "stablehlo", "--out", "net", "--classes", str(classes))
    assert status == 0
    with Image.open(files[0]) as image:
        image.save("photo.jpg", "PNG")  # Pillow goes by the content
    names = {}
    exec(compile(printed.partition("To use it:\n\n")[2], "loader", "exec"), names)
    # Its crop is taken while it resizes, so that pixels differ by a little.
    np.testing.assert_allclose(jax.nn.softmax(names["logits"][0]), expected[0], rtol=0.03)
    assert names["classes"] == list(NAMES)


# ---------------------------------------------------------------- published weights


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    interop.save_safetensors(numbers(1000), path)
    return path


@pytest.fixture
def on_the_hub(published, monkeypatch):
    """The hub has weights of one small network."""
    preprocess = interop.Preprocess(SIZE, 0.8, "bilinear", MEAN, STD)
    monkeypatch.setitem(hub.WEIGHTS, "squeezenet1_1", hub.Weights("timm/small", preprocess))
    monkeypatch.setattr(hub, "fetch", {"timm/small": published}.__getitem__)


def test_weights_for_grey_images_take_grey_images(tmp_path, folder, capsys):
    grey = models.create_model("squeezenet1_1", num_classes=7, in_channels=1)
    interop.save_safetensors(grey, tmp_path / "grey.safetensors")
    file = next(folder.rglob("2.png"))  # has the size that the network is given
    pixels = np.float32(Image.open(file).convert("L"))[None, :, :, None] / 255
    grey.eval()
    expected = np.asarray(jax.nn.softmax(grey((pixels - 0.5) / 0.25)))[0]
    words = ["--model", "squeezenet1_1", "--image-size", "64", "--mean", "0.5", "--std", "0.25"]
    words += ["--format", "jsonl", "--top", "7"]
    status, printed, error = call(capsys, "predict", str(tmp_path / "grey.safetensors"), str(file), *words)
    assert status == 0, error
    scores = json.loads(printed)["probabilities"]
    assert scores == pytest.approx({str(k): float(score) for k, score in enumerate(expected)}, abs=1e-5)
    status, _, error = call(
        capsys,
        "predict",
        str(tmp_path / "grey.safetensors"),
        str(file),
        *words[:4],
        "--mean",
        "0",
        "0",
        "0",
        "--std",
        "1",
        "1",
        "1",
    )
    assert status == 2
    assert "the images have 1 channel, and --mean 3 numbers" in error


def test_published_weights_predict_imagenet_s_classes(on_the_hub, folder, capsys):
    file = next(folder.rglob("0.png"))
    pretrained = interop.from_pretrained("squeezenet1_1")
    logits = np.asarray(pretrained.model(pretrained.preprocess(np.asarray(Image.open(file))[None])))[0]
    status, printed, error = call(capsys, "predict", "squeezenet1_1", str(file), "--format", "jsonl")
    assert status == 0, error
    assert json.loads(printed)["class"] == imagenet.class_names()[logits.argmax()]
    best = json.loads(printed)["probabilities"]
    assert max(best.values()) == pytest.approx(float(jax.nn.softmax(logits).max()), rel=1e-3)


def test_published_weights_are_evaluated_on_folders_named_by_wordnet(on_the_hub, folder, tmp_path, capsys):
    for name, synset in (("bee", 308), ("dog", 4), ("gnu", 999)):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / imagenet.synsets()[synset]).symlink_to(folder / name)
    status, printed, error = call(capsys, "evaluate", "squeezenet1_1", "--data", str(tmp_path / "val"))
    assert status == 0, error
    assert re.search(r"images +4\n", printed)
    assert "top-5" in printed


def test_the_outputs_of_imagenet_have_names_in_the_order_of_wordnet(monkeypatch):
    names, ids = imagenet.class_names(), imagenet.synsets()
    assert len(set(names)) == 1000
    assert (ids[0], ids[999]) == ("n01440764", "n15075141")
    if find_spec("timm"):
        assert names[0] == "tench"
        assert names[134] == "crane (n02012849)"  # the bird, not the machine
        monkeypatch.setattr(imagenet, "_of_timm", lambda ids: ())
        if find_spec("torch") and find_spec("torchvision"):
            from experiments.bench import torchvision_without_ops  # noqa: F401

            assert imagenet.class_names()[:2] == ("tench", "goldfish")
            assert len(set(imagenet.class_names())) == 1000
    monkeypatch.setattr(imagenet, "_of_timm", lambda ids: ())
    monkeypatch.setattr(imagenet, "_of_torchvision", tuple)
    assert imagenet.class_names() == ids
    monkeypatch.setattr(imagenet, "synsets", tuple)
    assert imagenet.class_names()[7] == "7"


def test_timm_s_list_has_the_same_order():
    pytest.importorskip("torch")
    from experiments.bench import torchvision_without_ops  # noqa: F401

    info = pytest.importorskip("timm.data").ImageNetInfo()
    assert list(imagenet.synsets()) == info.label_names()


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{file}"], "has no model.json beside it, .*: add --model resnet18 or whichever"),
        (["{file}", "--model", "squeezenet"], "unknown --model 'squeezenet': did you mean squeezenet1"),
        (["{file}", "--model", "squeezenet1_1"], "does not say for which images it is: add --image-size 64"),
        (["{file}", "--model", "resnet18", "--image-size", "64"], "is of a network with other layers than this ResNet"),
        (
            ["{file}", "--model", "squeezenet1_1", "--image-size", "64", "--classes", "{names}"],
            "names.txt .--classes. has 7 names, and the network 1000 outputs: expected another name for each",
        ),
        (["{file}", "--model", "squeezenet1_1", "--mean", "0.5"], "--mean and --std go together"),
        (["{file}", "--model", "squeezenet1_1", "--std", "0", "--mean", "0"], "--std larger than 0, got"),
        (["{names}", "--model", "squeezenet1_1"], "is no file of weights by its name: expected one that ends in"),
        (["nowhere.safetensors"], "there is no nowhere.safetensors"),
        (["resnet1"], "unknown run or network 'resnet1': did you mean resnet1"),
        (["xception"], "knows no weights for 'xception' on the hub"),
        (["squeezenet1_1", "--model", "resnet18"], "--model is for a file of weights: squeezenet1_1 is the name"),
    ],
)
def test_a_mistake_gets_one_message(words, said, published, classes, folder, capsys):
    named = [word.format(file=published, names=classes) for word in words]
    status, printed, error = call(capsys, "predict", *named[:1], str(folder), *named[1:])
    assert status == 2
    assert re.search(said.replace(" ", r"\s+"), error), error
    assert "Traceback" not in printed + error


def test_evaluating_needs_data_with_the_network_s_classes(on_the_hub, folder, capsys):
    status, _, error = call(capsys, "evaluate", "squeezenet1_1")
    assert status == 2
    assert "say on which images with --data" in error
    status, _, error = call(capsys, "evaluate", "squeezenet1_1", "--data", str(folder))
    assert status == 2
    assert "unknown class of the data" in error


def test_without_a_network_the_hub_s_error_is_one_line(monkeypatch, capsys):
    class Offline:
        @staticmethod
        def hf_hub_download(*_):
            raise ConnectionError("no route to host\nand thirty lines more")

    monkeypatch.setitem(sys.modules, "huggingface_hub", Offline)
    assert app.main(["predict", "resnet18", "photo.jpg"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "(ConnectionError: no route to host): is there a network?" in error
