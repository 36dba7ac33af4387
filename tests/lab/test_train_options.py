"""Options of `train` that change what is learned, when it ends, and what its network takes, on the command line."""

import json

import jax
import numpy as np
import pytest
from jax import export
from safetensors.numpy import load_file, save_file

from cnnjax import interop, models, train
from cnnjax.errors import UserError
from cnnjax.interop import hub
from cnnjax.interop.preprocess import MEAN, STD
from cnnjax.lab import app, starting, training
from tests.lab.own_data import CLASSES, SIZE, logits_of, make_folder, pixels_of, softmax
from tests.lab.test_launch import call

NORMALISED = ["--mean", "0.4", "0.3", "0.35", "--std", "0.2", "0.25", "0.3"]
CLASSWISE = ["--class-weights", "balanced", "--sampling", "balanced"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("own") / "colours", (("train", 12), ("test", 6)))


@pytest.fixture(scope="module")
def command(folder):
    size = ["--image-size", str(SIZE), "--batch-size", "16", "--validation-split", "0.25"]
    return ["train", "--model", "lecture-cnn", "--data", str(folder), *size]


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """A run of two epochs, first of one alone: its figures are of what was added."""
    out = tmp_path_factory.mktemp("trained") / "run"
    for epochs in ("1", "2"):
        assert app.main([*command, *NORMALISED, *CLASSWISE, "--epochs", epochs, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def logits(run, folder):
    """What NumPy computes of the test images and of their mirror images, and their labels."""
    model = models.create_model("lecture-cnn", num_classes=3, image_size=SIZE)
    interop.load_safetensors(model, run / "weights.safetensors")
    interop.save_npz(model, run.parent / "net.npz")
    arrays, files = dict(np.load(run.parent / "net.npz")), sorted((folder / "test").glob("*/*.png"))
    images = (np.stack([pixels_of(file) for file in files]) - NORMALISATION[0]) / NORMALISATION[1]
    labels = np.array([CLASSES.index(file.parent.name) for file in files])
    return logits_of(arrays, images), logits_of(arrays, images[:, :, ::-1]), labels


NORMALISATION = np.array([0.4, 0.3, 0.35]), np.array([0.2, 0.25, 0.3])


def summary(out):
    return json.loads((out / "summary.json").read_text())


# ---------------------------------------------------------------- when a training ends


def test_more_epochs_go_on_in_the_same_directory_to_the_same_weights(run, command, tmp_path, capsys):
    whole = [*command, *NORMALISED, *CLASSWISE, "--epochs", "2", "--out"]
    assert call(capsys, *whole, str(tmp_path / "whole"))[0] == 0
    files = [(out / "weights.safetensors").read_bytes() for out in (run, tmp_path / "whole")]
    assert files[0] == files[1]
    ours, theirs = summary(run), summary(tmp_path / "whole")
    for name in ("params_sha256", "metrics", "epochs", "best_epoch", "config"):
        assert ours[name] == theirs[name]
    status, printed, _ = call(capsys, *whole, str(run))
    assert status == 0
    assert "Finished before" in printed
    assert "the best of 2 epochs by validation is epoch" in " ".join(printed.split())


def test_what_does_not_go_on_says_why(run, command, tmp_path, capsys):
    options = [*NORMALISED, *CLASSWISE, "--out", str(run)]
    status, _, error = call(capsys, *command, *options, "--epochs", "1")
    assert status == 2
    assert "epochs: 2 there, 1 now" in error
    status, _, error = call(capsys, *command, *options, "--epochs", "3", "--lr", "0.1")
    assert status == 2
    assert "lr: None there, 0.1 now" in error
    assert summary(run)["epochs"] == 2  # nothing was changed
    (tmp_path / "config.json").write_text(
        json.dumps({**summary(run)["config"], "schedule": "cosine", "experiment": "train"})
    )
    options = [*NORMALISED, *CLASSWISE, "--out", str(tmp_path), "--schedule", "cosine", "--epochs", "3"]
    status, _, error = call(capsys, *command, *options)
    assert status == 2
    assert "started with --epochs 2, and --schedule cosine is stretched over all epochs: with --epochs 3 its" in error


def test_a_training_that_gets_no_better_ends_early_and_says_so(command, tmp_path, capsys):
    words = [*command, "--lr", "1e-30", "--patience", "1", "--epochs", "5", "--out", str(tmp_path)]
    words += ["--label-smoothing", "0.3", "--ignore-index", "1"]
    status, printed, error = call(capsys, *words)
    assert status == 0
    said = "stopped after epoch 2 of 5: validation accuracy was not better for 1 epoch (`patience`)"
    assert said in " ".join(error.split())
    assert (summary(tmp_path)["epochs"], summary(tmp_path)["best_epoch"]) == (2, 1)
    for output in (printed, (tmp_path / "report.md").read_text()):
        assert "stopped after epoch 2 of 5" in " ".join(output.split())
        assert "the best of 2 epochs by validation is epoch 1" in " ".join(output.split())
    status, printed, _ = call(capsys, *words)
    assert status == 0
    assert "Finished before" in printed
    assert call(capsys, "evaluate", str(tmp_path), "--out", str(tmp_path / "judged"))[0] == 0
    figures = json.loads((tmp_path / "judged" / "metrics.json").read_text())  # by the loss and its options of the run
    assert {name: figures[name] for name in ("accuracy", "loss")} == pytest.approx(
        summary(tmp_path)["metrics"]["test"], rel=1e-5
    )


# ---------------------------------------------------------------- what its network takes


def test_figures_predictions_and_exports_are_of_normalised_images(run, folder, logits, tmp_path, capsys):
    right, _, labels = logits
    about = json.loads((run / "model.json").read_text())
    assert (about["mean"], about["std"]) == ([0.4, 0.3, 0.35], [0.2, 0.25, 0.3])
    loss = -np.log(softmax(right)[np.arange(len(labels)), labels]).mean()
    assert summary(run)["metrics"]["test"]["loss"] == pytest.approx(loss, rel=1e-4)
    files = sorted((folder / "test").glob("*/*.png"))
    np.testing.assert_allclose(train.load(run).predict(files).probabilities, softmax(right), atol=1e-4)
    status, printed, _ = call(capsys, "evaluate", str(run))
    assert status == 0
    assert f"{loss:.4f}" in printed
    assert call(capsys, "export", str(run), "--to", "stablehlo", "--out", str(tmp_path / "net"))[0] == 0
    program = export.deserialize(bytearray((tmp_path / "net").read_bytes()))
    images = np.stack([pixels_of(file) for file in files]).astype(np.float32)  # in [0, 1]
    np.testing.assert_allclose(jax.jit(program.call)(images), right, rtol=1e-3, atol=1e-3)
    status, printed, _ = call(capsys, "export", str(run), "--out", str(tmp_path / "net.safetensors"))
    assert "images are floats in [0, 1], then (image - [0.4, 0.3, 0.35]) / [0.2, 0.25, 0.3]" in printed
    assert load_file(tmp_path / "net.safetensors").keys() == load_file(run / "weights.safetensors").keys()


def test_flip_judges_the_mean_of_an_image_and_its_mirror_image(run, folder, logits, capsys):
    right, mirrored, labels = logits
    mean = (softmax(right) + softmax(mirrored)) / 2
    status, printed, _ = call(capsys, "evaluate", str(run), "--flip")
    assert status == 0
    assert f"{-np.log(mean[np.arange(len(labels)), labels]).mean():.4f}" in printed
    status, printed, _ = call(capsys, "predict", str(run), str(folder / "test"), "--flip", "--format", "jsonl")
    assert status == 0
    for line, expected in zip(printed.splitlines(), mean, strict=True):
        found = json.loads(line)["probabilities"]
        assert [found[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-4)


# ---------------------------------------------------------------- what it starts from


def start(name, given, classes=3, channels=3, **more):
    config = training.Config(model=name, pretrained=str(given), **more)
    return starting.started_from(config, {"num_classes": classes, "in_channels": channels, **ARGUMENTS.get(name, {})})


ARGUMENTS = {"lecture-cnn": {"image_size": SIZE}}


def test_a_run_s_weights_come_with_its_normalisation(run, tmp_path, caplog):
    for given in (run, run / "weights.safetensors"):
        found = start("lecture-cnn", given)
        assert (found.mean, found.std) == ((0.4, 0.3, 0.35), (0.2, 0.25, 0.3))
    assert not caplog.records
    found = start("lecture-cnn", run, mean=(0.5,), std=(1.0,))
    assert (found.mean, found.std) == ((0.5,), (1.0,))
    file = tmp_path / "alone.safetensors"
    save_file(load_file(run / "weights.safetensors"), file)
    assert start("lecture-cnn", file).mean is None
    assert "it is not known on which images" in caplog.text
    assert "give --mean and --std" in caplog.text


@pytest.fixture(scope="module")
def of_imagenet(tmp_path_factory):
    """Weights for 1,000 classes, as ImageNet's are."""
    file = tmp_path_factory.mktemp("published") / "weights.safetensors"
    interop.save_safetensors(models.create_model("resnet20"), file)
    return file


def test_weights_for_imagenet_s_classes_are_not_given_other_images_in_silence(of_imagenet, monkeypatch, caplog):
    found = start("resnet20", of_imagenet)
    assert (found.mean, found.std) == (MEAN, STD)
    assert "has ImageNet's 1,000 classes: images are normalised as its weights expect, with mean 0.485" in caplog.text
    halves = hub.WEIGHTS["inception_v3"]
    monkeypatch.setitem(hub.WEIGHTS, "resnet20", halves)
    assert start("resnet20", of_imagenet).mean == halves.preprocess.mean == (0.5, 0.5, 0.5)
    caplog.clear()
    assert start("resnet20", of_imagenet, mean=(0.0,), std=(1.0,)).mean == (0.0,)
    assert not caplog.records


def test_published_weights_are_fetched_by_their_name(of_imagenet, monkeypatch):
    monkeypatch.setitem(hub.WEIGHTS, "resnet20", hub.WEIGHTS["inception_v3"]._replace(repository="timm/small"))
    monkeypatch.setattr(hub, "fetch", {"timm/small": of_imagenet}.__getitem__)
    found = start("resnet20", "resnet20")
    assert found.mean == (0.5, 0.5, 0.5)
    theirs, ours = load_file(of_imagenet), interop.to_torch(found.model)
    differing = {key for key in theirs if not np.array_equal(theirs[key], ours[key])}
    assert differing == {key for key in theirs if key.startswith("fc.")}
    assert ours["fc.weight"].shape[0] == 3
    with pytest.raises(UserError, match=r"weights of resnet20 .`pretrained`. are for images of 3 channels, not 1"):
        start("resnet20", "resnet20", channels=1)


def test_weights_that_cannot_be_fetched_get_one_message(command, monkeypatch, capsys):
    def unreachable(repository):
        raise UserError(f"no {repository}") from ConnectionError("no route to host\nand more")

    monkeypatch.setattr(hub, "fetch", unreachable)
    words = [*command, "--model", "resnet18", "--pretrained"]
    status, _, error = call(capsys, *words, "resnet18")
    assert status == 2
    expected = "the published weights of resnet18 (--pretrained) cannot be fetched from timm/resnet18.tv_in1k on the"
    assert f"\nerror: {expected} Hugging Face hub (ConnectionError: no route to host): see whether" in error
    assert "and more" not in error
    status, _, error = call(capsys, *words, "resnet34")
    assert status == 2
    assert "--pretrained resnet34 are weights of resnet34, but --model resnet18: name the same network" in error
    status, _, error = call(capsys, *words, "resnet81")
    assert status == 2
    assert "as there is no such file or run: 'resnet81': did you mean resnet18" in error
