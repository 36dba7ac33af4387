"""From a folder of images to a network that is judged, used and handed on, by the commands that a person types."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cnnjax import data, interop, models, runs, train
from cnnjax.lab import app, starting, training
from cnnjax.lab.kinds import classification
from cnnjax.lab.predicting import find_images
from tests.lab.own_data import CLASSES, MISLABELLED, SIZE, logits_of, make_folder, pixels_of, softmax
from tests.lab.test_launch import _lines, _wait, call, start

MODEL = ["--model", "lecture-cnn", "--image-size", str(SIZE), "--batch-size", "16", "--epochs", "2"]


class Stop(train.Callback):
    """Ends a training after its first epoch, as a failing machine would."""

    def on_epoch(self, epoch):
        raise runs.Interrupted(signal.SIGTERM, saved=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("own") / "colours")


@pytest.fixture(scope="module")
def command(folder):
    return ["train", *MODEL, "--data", str(folder)]


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    assert app.main([*command, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The network in every format, and what was printed."""
    out, said = tmp_path_factory.mktemp("exported"), {}
    for kind in ("npz", "safetensors", "stablehlo"):
        stdout, sys.stdout = sys.stdout, io.StringIO()
        try:
            assert app.main(["export", str(run), "--to", kind, "--out", str(out / f"net.{kind}")]) == 0
            said[kind] = sys.stdout.getvalue()
        finally:
            sys.stdout = stdout
    return out, said


@pytest.fixture(scope="module")
def tested(folder, exported):
    """Every test image: files, labels, and the logits that NumPy computes from the exported arrays."""
    files = sorted((folder / "test").glob("*/*.png"))
    labels = np.array([CLASSES.index(file.parent.name) for file in files])
    arrays = dict(np.load(exported[0] / "net.npz"))
    return files, labels, logits_of(arrays, np.stack([pixels_of(file) for file in files]))


# ---------------------------------------------------------------- train


def test_a_run_has_what_predicting_needs_and_figures(run):
    assert {"config.json", "metrics.jsonl", "summary.json", "index.html", "weights.safetensors", "model.json"} <= {
        path.name for path in run.iterdir()
    }
    assert {path.name for path in (run / "figures").iterdir()} == {"confusion.png", "curves.png", "mistakes.png"}
    about = json.loads((run / "model.json").read_text())
    assert about["classes"] == list(CLASSES)
    assert about["arguments"] == {"num_classes": 3, "in_channels": 3, "image_size": SIZE}
    assert about["finished"] is True
    report = (run / "report.md").read_text()
    assert "| test | 30 |" in report
    assert "python launch.py train " in report


def test_the_figures_of_a_run_are_those_of_its_logits(run, tested):
    _, labels, logits = tested
    summary = json.loads((run / "summary.json").read_text())
    right = np.mean(logits.argmax(1) == labels)
    entropy = -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()
    assert summary["test_accuracy"] == pytest.approx(right, abs=1e-6)
    assert summary["metrics"]["test"]["loss"] == pytest.approx(entropy, rel=1e-3)
    assert right == pytest.approx(1 - sum(MISLABELLED.values()) / len(labels), abs=0.11)  # it has learned


def test_a_stopped_run_is_used_and_resumed_to_the_same_bits(command, run, folder, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert app.run_experiment("train", [*command[1:], *out], callbacks=[Stop()]) == 143
    assert json.loads((tmp_path / "run" / "model.json").read_text())["epoch"] == 1
    capsys.readouterr()
    status, printed, error = call(capsys, "predict", str(tmp_path / "run"), str(folder / "test" / "red"))
    assert status == 0
    assert "is not finished: this is its best network so far, of epoch 1" in error
    assert printed.count(".png") == 10
    assert call(capsys, *command, *out)[0] == 0
    ours, theirs = (json.loads((path / "summary.json").read_text()) for path in (tmp_path / "run", run))
    assert ours["params_sha256"] == theirs["params_sha256"]
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()


@pytest.mark.processes
@pytest.mark.parametrize("lines", [1, 8])
def test_a_killed_run_ends_with_the_network_of_an_undisturbed_one(lines, command, tmp_path, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    for name in ("killed", "whole"):
        out = ["--out", str(tmp_path / name)]
        process = start(*command, *out, cache=cache)
        if name == "killed":
            _wait(process, lambda: _lines(tmp_path / "killed") >= lines)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (tmp_path / "killed" / "summary.json").exists()
            process = start(*command, *out, cache=cache)
        _, error = process.communicate()
        assert process.returncode == 0, error
    ours, theirs = (runs.read_json(tmp_path / name / "summary.json") for name in ("killed", "whole"))
    assert ours["params_sha256"] == theirs["params_sha256"]
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


def test_weights_of_other_classes_begin_a_training_but_for_the_last_layer(run):
    weights = load_file(run / "weights.safetensors")
    arguments = json.loads((run / "model.json").read_text())["arguments"]
    for given in (run, run / "weights.safetensors"):
        config = training.Config(model="lecture-cnn", pretrained=str(given))
        other = interop.to_torch(starting.started_from(config, {**arguments, "num_classes": 10}).model)
        assert other["dense2.weight"].shape == (10, 128)
        assert all(np.array_equal(other[key], value) for key, value in weights.items() if "dense2" not in key)
        same = interop.to_torch(starting.started_from(config, arguments).model)
        assert all(np.array_equal(same[key], value) for key, value in weights.items())


def test_top_5_counts_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 9)).astype(np.float32), rng.integers(0, 9, 200)
    weights = (np.arange(200) < 150).astype(np.float32)
    batch = data.augment.Sample(np.zeros((200, 1, 1, 3)), labels, weights=weights)
    measured = classification.Judged().measure(logits, batch)
    expected = metrics.top_k_accuracy_score(labels[:150], logits[:150], k=5, normalize=False, labels=range(9))
    assert float(measured["top5"]) == expected
    assert "top5" not in classification.Judged().measure(
        logits[:, :5], data.augment.Sample(batch.images, labels % 5, weights=weights)
    )


# ---------------------------------------------------------------- evaluate


def test_evaluate_counts_the_confusions_of_its_logits(run, folder, tested, tmp_path, capsys):
    _, labels, logits = tested
    status, printed, _ = call(capsys, "evaluate", str(run), "--data", str(folder), "--out", str(tmp_path / "judged"))
    assert status == 0
    assert f"{np.mean(logits.argmax(1) == labels):.2%}" in printed
    with (tmp_path / "judged" / "confusion.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == ["true", *CLASSES]
    counts = Counter(zip(labels.tolist(), logits.argmax(1).tolist(), strict=True))
    assert [[int(cell) for cell in row[1:]] for row in rows] == [[counts[i, j] for j in range(3)] for i in range(3)]
    assert (tmp_path / "judged" / "mistakes.png").stat().st_size
    status, printed, _ = call(capsys, "evaluate", str(run), "--split", "validation")
    assert status == 0
    count = json.loads((run / "summary.json").read_text())["images"]["validation"]
    assert re.search(rf"images +{count}\b", printed)


def test_the_mistakes_are_the_most_confident_ones(run, folder, tested):
    files, labels, logits = tested
    dataset = data.load(str(folder), image_size=SIZE)
    trained = train.load(run)
    evaluation = train.evaluate(*trained.split(), classification.Reviewed(class_names=CLASSES), dataset.test)
    found = classification.mistakes(evaluation)
    scores = softmax(logits)
    wrong = sorted((-scores[k].max(), files[k]) for k in range(len(files)) if scores[k].argmax() != labels[k])
    assert len(found) == min(len(wrong), 12)
    source = [path for _, path in wrong[: len(found)]]
    for place, path in zip(found, source, strict=True):
        np.testing.assert_allclose(dataset.test.images[place] / 255, pixels_of(path), atol=1e-6)


# ---------------------------------------------------------------- predict


def test_probabilities_are_the_softmax_of_the_logits_whatever_the_images_are(run, tested):
    files, _, logits = tested
    trained = train.load(run)
    found = trained.predict(files)
    np.testing.assert_allclose(found.probabilities, softmax(logits), atol=2e-4)
    assert found.names == tuple(CLASSES[k] for k in logits.argmax(1))
    arrays = np.stack([pixels_of(file, None) for file in files])
    np.testing.assert_allclose(trained.predict(arrays).probabilities, found.probabilities, atol=1e-5)
    np.testing.assert_allclose(trained.predict(arrays / 255).probabilities, found.probabilities, atol=5e-3)
    np.testing.assert_allclose(trained.predict(arrays[0]).probabilities, found.probabilities[:1], atol=1e-5)
    assert trained.predict(str(files[0])).names == found.names[:1]
    assert trained.predict([]).probabilities.shape == (0, 3)


def test_predict_writes_tables_json_csv_and_a_picture(run, folder, tested, tmp_path, capsys):
    files, _, logits = tested
    scores = softmax(logits)
    status, printed, _ = call(capsys, "predict", str(run), str(folder / "test"), "--format", "jsonl", "--top", "2")
    assert status == 0
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["file"] for row in rows] == [str(file) for file in files]
    for row, expected in zip(rows, scores, strict=True):
        best = np.argsort(-expected)[:2]
        assert row["class"] == CLASSES[best[0]]
        assert row["probabilities"] == pytest.approx({CLASSES[k]: expected[k] for k in best}, abs=2e-4)
    pattern = str(folder / "test" / "*" / "03.png")
    status, printed, error = call(
        capsys, "predict", str(run), pattern, "--format", "csv", "--top", "1", "--out", str(tmp_path / "sheet")
    )
    assert status == 0
    assert [row["file"] for row in csv.DictReader(io.StringIO(printed))] == [
        str(f) for f in files if f.name == "03.png"
    ]
    assert "shows 3 of 3 images" in error
    with Image.open(tmp_path / "sheet" / "predictions.png") as picture:
        assert picture.size[0] > 100


def test_what_is_no_image_is_named_or_left_out(run, folder, tmp_path, capsys):
    (tmp_path / "broken.png").write_text("no pixels")
    good = folder / "test" / "red" / "00.png"
    words = ["predict", str(run), str(good), str(tmp_path / "broken.png")]
    status, _, error = call(capsys, *words)
    assert status == 2
    assert re.search(r"broken.png is no image that can be read .*--skip-bad", error)
    status, printed, _ = call(capsys, *words, "--skip-bad", "--format", "jsonl")
    assert status == 0
    assert len(printed.splitlines()) == 1


def test_of_a_folder_each_image_is_classified_once_and_no_hidden_copy(tmp_path, caplog):
    for name in ("a.png", "in/b.PNG", "in/.ipynb_checkpoints/b-checkpoint.png", "@eaDir/a.png/small.png", "._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "in" / "around").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with caplog.at_level("WARNING"):
        assert find_images([str(tmp_path)]) == [str(tmp_path / "a.png"), str(tmp_path / "in" / "b.PNG")]
    (said,) = caplog.messages
    assert "has 2 images; left out are broken links, pipes and devices: 1" in said
    assert "hidden files and folders: 3" in said
    assert "links to a folder around them: 1" in said


# ---------------------------------------------------------------- export


def test_the_printed_loader_needs_jax_alone_and_gives_the_same_logits(exported, tested, tmp_path):
    script = exported[1]["stablehlo"].partition("To use it:\n\n")[2]
    (files, _, logits), size = tested, 3
    for number, file in enumerate(files[:size]):
        Image.fromarray(np.uint8(np.rint(pixels_of(file) * 255))).save(tmp_path / f"{number}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "photo.jpg")  # Pillow goes by the content
    assert len(script.strip().splitlines()) <= 12
    checks = [
        "import sys",
        "assert not {'cnnjax', 'flax', 'optax'} & sys.modules.keys()",
        f"many = np.stack([np.asarray(Image.open(f'{{k}}.png'), np.float32) / 255 for k in range({size})])",
        "np.save('logits.npy', np.concatenate([logits, jax.jit(program.call)(many)]))",
    ]
    text = script + "\n".join(checks)
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, logits[[0, 0, 1, 2]], rtol=1e-3, atol=1e-3)
    assert done.stdout.startswith(CLASSES[logits[0].argmax()])


def test_exported_weights_load_back(exported, run, tested, tmp_path, capsys):
    files, _, logits = tested
    out = exported[0]
    state = load_file(out / "net.safetensors")
    model = models.create_model("lecture-cnn", num_classes=3, image_size=SIZE, seed=5)
    interop.load_torch(model, state)
    model.eval()
    images = np.stack([pixels_of(file) for file in files[:4]]).astype(np.float32)
    np.testing.assert_allclose(model(images), logits[:4], rtol=1e-3, atol=1e-3)
    torch = pytest.importorskip("torch")
    status, _, _ = call(capsys, "export", str(run), "--to", "torch", "--out", str(tmp_path / "net.pth"))
    assert status == 0
    saved = torch.load(tmp_path / "net.pth", weights_only=True)
    assert saved.keys() == state.keys()
    assert all(np.array_equal(saved[key].numpy(), value) for key, value in state.items())


# ---------------------------------------------------------------- the zoo


def test_models_and_summary_print_tables(capsys):
    status, printed, _ = call(capsys, "models", "resnet?8")
    assert status == 0
    assert re.findall(r"resnet18 +classification +torchvision/resnet18 +11,689,512", printed)
    assert len(printed.splitlines()) == 2
    status, printed, _ = call(capsys, "summary", "lecture-cnn", "--classes", "10")
    assert status == 0
    assert "Total params: 2,077,130" in printed


# ---------------------------------------------------------------- mistakes


@pytest.fixture
def other_runs(run, tmp_path):
    """Directories that are not what they should be."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "lecture").mkdir()
    (tmp_path / "lecture" / "config.json").write_text(json.dumps({"experiment": "fcn-vs-cnn"}))
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "model.json", tmp_path / "begun")
    shutil.copy(run / "weights.safetensors", tmp_path / "alone.safetensors")
    (tmp_path / "boxes").mkdir()
    about = json.loads((run / "model.json").read_text())
    (tmp_path / "boxes" / "model.json").write_text(json.dumps({**about, "task": "detection"}))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "predict takes a run of train, its directory or its name in"),
        (["predict", "{run}"], "predict takes images after the run: files, folders, or patterns"),
        (["predict", "{run}", "nowhere.jpg"], "there is no image nowhere.jpg: expected a file, a folder"),
        (["predict", "{run}", "{other}/empty"], "empty has no images: fill or remove it; images are files"),
        (["predict", "{run}s", "x.jpg"], "did you mean {run}?"),
        (["predict", "{other}/empty", "x.jpg"], "empty is no run of `train`: it has no model.json"),
        (["predict", "{other}/lecture", "x.jpg"], "is a run of fcn-vs-cnn, which keeps no model.json"),
        (["predict", "{other}/begun", "x.jpg"], "begun has no weights yet, which the first epoch ends with"),
        (["predict", "{other}/alone.safetensors", "x.jpg"], "alone.safetensors has no model.json beside it"),
        (["predict", "{other}/boxes", "x.jpg"], "is of the task 'detection', not classification"),
        (["predict", "{run}", "x.jpg", "--top", "0"], "--top must be an integer of at least 1, got 0"),
        (["evaluate", "{run}", "--data", "digits"], "digits has the classes 0, 1, 2, 3, 4 and 5 more, the network has"),
        (["export", "{run}", "--out", "{other}/nowhere/net"], "is in a folder that is not there: give a file"),
        (["export", "{run}", "--out", "{run}/model.json"], "model.json is there already: choose another --out"),
        (["export", "{run}", "--to", "onnx"], "invalid choice 'onnx'"),
        (["models", "resnet19"], "unknown model 'resnet19': did you mean resnet"),
        (["models", "y*"], "no name of a network matches 'y*'"),
        (["models", "--task", "classify"], "unknown --task 'classify': did you mean classification?"),
        (["summary", "resnet81"], "unknown model 'resnet81': did you mean resnet18"),
        (["summary", "lecture-cnn", "--image-size", "8"], "lecture-cnn does not take images of 8x8x3"),
        (["train", "--data", "digits", "--model", "resnet19"], "unknown --model 'resnet19': did you mean"),
        (["train", "--data", "digits", "--model", "lecture-cnn", "--seeds", "2"], "--seeds must be 1, got 2"),
        (["train", "--data", "digits", "--task", "detection"], "invalid choice 'detection'"),
        (["train", "--data", "digits", "--model", "{autoencoder}"], "is a network for reconstruction: choose"),
        (
            ["train", "--data", "digits", "--model", "lecture-cnn", "--pretrained", "none.safetensors"],
            "there is no file none.safetensors",
        ),
        (
            ["train", "--data", "digits", "--model", "lecture-fcn", "--pretrained", "{run}"],
            "--pretrained has no weights of lecture-fcn ({run}/weights.safetensors does not fit",
        ),
    ],
)
def test_a_mistake_gets_one_message(arguments, said, run, other_runs, capsys):
    names = {"run": run, "other": other_runs, "autoencoder": models.list_models(task="reconstruction")[0]}
    status, printed, error = call(capsys, *(word.format(**names) for word in arguments))
    assert status == 2
    assert re.sub(r"\s+", "", said.format(**names)) in re.sub(r"[│\s]+", "", error)
    assert "Traceback" not in printed + error


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (
            np.zeros((2, 8, 8, 1), np.uint8),
            "takes images .* it was trained on images of 3 channels",
        ),
        (np.zeros((8, 8), np.uint8), "got an array of shape"),
        (np.full((8, 8, 3), 255.0), "float images are in .0, 1., got 255 to 255"),
        (np.full((8, 8, 3), np.nan), "float images are in"),
        (np.zeros((8, 8, 3), np.int64), "bytes .uint8. or floats in .0, 1., got int64"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images, said, run):
    with pytest.raises(ValueError, match=said):
        train.load(run).predict(images)


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "export", "models", "summary"])
def test_every_command_is_listed_and_explains_itself(name, capsys):
    status, printed, _ = call(capsys)
    assert status == 0
    assert re.search(rf"\b{name} ", printed)
    status, printed, _ = call(capsys, name, "--help")
    assert status == 0
    assert "usage: launch.py" in printed
