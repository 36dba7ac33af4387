"""From a folder of images and boxes to a network that is judged and used, by the commands that a person types."""

import csv
import io
import json
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from cnnjax import interop, models, runs, train, viz
from cnnjax.lab import app, grid, training
from cnnjax.models import registry
from cnnjax.models.detection import Localized
from cnnjax.models.localizer import boxes_of
from cnnjax.models.vgg import TINY
from cnnjax.nn import Linear, Module
from tests.lab.own_data import OBJECTS, make_folder, make_objects, photograph
from tests.lab.test_launch import call

SIZE = 24  # of the network's images: photographs of 24x32 become 18x24, with three black rows above and below
TEST = range(40, 50)
LOCALIZE = ["train", "--task", "localization"]
FOLDER = [*LOCALIZE, "--data", "FOLDER", "--annotations", "boxes.json", "--bad-boxes", "drop", "--image-size"]


class Cells(Module):
    """The class and the box from the mean colours of 4x4 cells, which NumPy computes in lines."""

    def __init__(self, num_classes, in_channels, rngs):
        self.classify = Linear(16 * in_channels, num_classes, rngs=rngs)
        self.place = Linear(16 * in_channels, 4, rngs=rngs)

    def __call__(self, x):
        count, height, width, channels = x.shape
        cells = x.reshape(count, 4, height // 4, 4, width // 4, channels).mean((2, 4)).reshape(count, -1)
        return Localized(self.classify(cells), boxes_of(self.place(cells), (height, width)), (height, width))


@pytest.fixture(scope="module", autouse=True)
def networks():
    """Networks for these tests, which others shall not find."""
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "_REGISTRATIONS", dict(registry._REGISTRATIONS))
    registry.register("cells", task="localization")(partial(Cells))
    registry.register("vgg-tiny")(partial(TINY, hidden=8))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Without validation images, under another name of the JSON, with a box that has no area."""
    splits = {"train": range(40), "test": TEST}
    root = make_objects(tmp_path_factory.mktemp("own") / "objects", splits, "boxes.json")
    spoil(root / "train" / "boxes.json")
    return root


def spoil(file):
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [4, 4, 0, 9]
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    words = [*LOCALIZE, "--model", "cells", "--data", str(folder), "--image-size", str(SIZE), "--batch-size", "8"]
    words += ["--lr", "0.1", "--epochs", "10", "--validation-split", "0.2", "--annotations", "boxes.json"]
    assert app.main([*words, "--bad-boxes", "drop", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def found(run, folder):
    """Probabilities and boxes of the test images, in the network's pixels, as NumPy computes them in float64."""
    return computed(run, [folder / "test" / f"{number}.png" for number in TEST])


def computed(run, files, mirrored=False):
    images = np.zeros((len(files), SIZE, SIZE, 3))
    for image, file in zip(images, files, strict=True):
        image[3:21] = np.asarray(Image.open(file).resize((24, 18), Image.Resampling.BILINEAR)) / 255
    images = images[:, :, ::-1] if mirrored else images
    cells = images.reshape(len(files), 4, 6, 4, 6, 3).mean((2, 4)).reshape(len(files), -1)
    model = train.load(run).model
    logits, codes = (
        cells @ np.float64(layer.kernel[...]) + np.float64(layer.bias[...]) for layer in (model.classify, model.place)
    )
    x, y, width, height = (SIZE / (1 + np.exp(-codes))).T
    boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), boxes


def in_photograph(boxes):
    """Boxes of the network's images in the pixels of the photographs of 24x32."""
    return np.clip((boxes - [0, 3, 0, 3]) * 32 / 24, 0, [32, 24, 32, 24])


def overlap(a, b):
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    inside = sides.prod(1)
    return inside / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inside)


def test_a_run_has_figures_of_its_own_and_all_that_predicting_needs(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_joint_iou"] == summary["metrics"]["test"]["joint_iou"] > 0.5
    assert grid.default_metric(grid.numbers(summary)) == "test_joint_iou"
    assert summary["images"]["train"] + summary["images"]["validation"] == 40
    about = json.loads((run / "model.json").read_text())
    assert (about["task"], about["classes"], about["image_size"]) == ("localization", list(OBJECTS), [SIZE, SIZE])
    assert {path.name for path in (run / "figures").iterdir()} == {"curves.png", "located.png", "confusion.png"}
    report = (run / "report.md").read_text()
    for said in ("mean IoU", " --task localization", "the true class; and both boxes"):
        assert said in report
    assert "Accuracy" not in report
    page = (run / "index.html").read_text()
    assert "figures/located.png" in page


def test_evaluate_judges_the_largest_object_as_numpy_does(run, found, tmp_path, capsys):
    there = np.array([photograph(number)[1] is not None for number in TEST])
    labels = np.array([number % 2 for number in TEST])[there]
    boxes = np.array([photograph(number)[2] for number, seen in zip(TEST, there, strict=True) if seen])
    assert 0 < there.sum() < len(TEST)
    status, printed, _ = call(capsys, "evaluate", str(run), "--out", str(tmp_path))
    assert status == 0
    figures = json.loads((tmp_path / "metrics.json").read_text())
    right = found[0][there].argmax(1) == labels
    shared = overlap(np.clip(found[1][there], 0, SIZE), boxes * 24 / 32 + [0, 3, 0, 3])
    assert figures["accuracy"] == pytest.approx(right.mean())
    assert figures["mean_iou"] == pytest.approx(shared.mean(), rel=1e-4)
    assert figures["joint_iou"] == pytest.approx((right * shared).mean(), rel=1e-4)
    assert figures["located"] == pytest.approx((right & (shared >= 0.5)).mean())
    rows = list(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert rows[0] == ["true", *OBJECTS]
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == there.sum()
    assert (tmp_path / "located.png").stat().st_size > 5000
    assert f"mean IoU {figures['mean_iou']:.2%}" in re.sub(" +", " ", printed)


def test_predict_gives_boxes_in_the_pixels_of_the_photograph(run, folder, found, monkeypatch, capsys):
    command = ("predict", str(run), str(folder / "test"), "--format")
    status, printed, _ = call(capsys, *command, "jsonl")
    assert status == 0
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["file"] for line in lines] == [str(folder / "test" / f"{number}.png") for number in TEST]
    assert [line["class"] for line in lines] == [OBJECTS[label] for label in found[0].argmax(1)]
    np.testing.assert_allclose([line["score"] for line in lines], found[0].max(1), atol=1e-4)
    np.testing.assert_allclose([line["box"] for line in lines], in_photograph(found[1]), atol=0.02)
    rows = list(csv.DictReader(io.StringIO(call(capsys, *command, "csv")[1])))
    assert list(rows[0]) == ["file", "class", "probability", "x0", "y0", "x1", "y1"]
    assert [float(rows[3][side]) for side in ("x0", "y0", "x1", "y1")] == lines[3]["box"]
    monkeypatch.chdir(folder / "test")  # a short name, and so no wrapped line
    row = call(capsys, "predict", str(run), "43.png")[1].splitlines()[1]
    assert row.split()[-4:] == [f"{value:.0f}" for value in lines[3]["box"]]
    assert f"{lines[3]['class']}" in row
    assert f"{lines[3]['score']:.1%}" in row


def test_flip_takes_the_mean_with_the_mirror_image(run, folder, found, capsys):
    files = [folder / "test" / f"{number}.png" for number in TEST]
    scores, boxes = computed(run, files, mirrored=True)
    mirrored = np.stack([SIZE - boxes[:, 2], boxes[:, 1], SIZE - boxes[:, 0], boxes[:, 3]], 1)
    status, printed, _ = call(capsys, "predict", str(run), *map(str, files), "--format", "jsonl", "--flip")
    assert status == 0
    lines = [json.loads(line) for line in printed.splitlines()]
    np.testing.assert_allclose([line["score"] for line in lines], ((found[0] + scores) / 2).max(1), atol=1e-4)
    np.testing.assert_allclose([line["box"] for line in lines], in_photograph((found[1] + mirrored) / 2), atol=0.02)


def test_a_box_fits_its_image_whatever_its_shape_and_however_it_is_turned(run, tmp_path):
    pixels = photograph(41)[0]
    tall = np.ascontiguousarray(np.rot90(pixels))  # with black on the left and on the right
    Image.fromarray(tall).save(tmp_path / "tall.png")
    turned = Image.fromarray(np.rot90(tall, 1))
    exif = turned.getexif()
    exif[0x0112] = 6  # shown turned to the right by a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    locator = train.load(run)
    one, two, three = (
        locator.predict(image).boxes[0] for image in (tall, tmp_path / "tall.png", tmp_path / "turned.png")
    )
    np.testing.assert_allclose(one, two, atol=0.1)
    np.testing.assert_array_equal(two, three)
    image = np.zeros((1, SIZE, SIZE, 3), np.float32)
    image[0, :, 3:21] = np.asarray(Image.fromarray(tall).resize((18, 24), Image.Resampling.BILINEAR)) / np.float32(255)
    inside = np.asarray(locator.model(image).boxes[0])
    np.testing.assert_allclose(two, np.clip((inside - [3, 0, 3, 0]) * 24 / 18, 0, [24, 32, 24, 32]), atol=1e-3)


def test_the_picture_shows_photographs_with_their_boxes(run, tmp_path, monkeypatch, capsys):
    """Large ones are shown smaller: many of them would not fit into the memory."""
    drawn = {}
    monkeypatch.setattr(viz, "save", lambda figure, path: drawn.update({path.name: figure}))
    Image.fromarray(photograph(44, 750, 1000)[0]).save(tmp_path / "large.png")
    Image.fromarray(photograph(45)[0]).save(tmp_path / "little.png")
    files = [str(tmp_path / f"{name}.png") for name in ("large", "little")]
    status, printed, error = call(
        capsys, "predict", str(run), *files, "--format", "jsonl", "--out", str(tmp_path / "out")
    )
    assert status == 0
    assert "predictions.png shows 2 of 2 images" in error
    lines = [json.loads(line) for line in printed.splitlines()]
    for axes, line, name, shape, scale in zip(
        drawn["predictions.png"].axes, lines, ("large", "little"), ((360, 480), (24, 32)), (0.48, 1), strict=True
    ):
        assert axes.get_images()[0].get_array().shape[:2] == shape
        (patch,) = axes.patches
        corners = [*patch.get_xy(), patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height()]
        np.testing.assert_allclose(corners, np.array(line["box"]) * scale, atol=0.02)
        assert axes.get_title() == f"{name}.png\n{line['class']} ({line['score']:.0%})"


def test_files_that_are_no_images_are_named_or_left_out(run, folder, tmp_path, caplog, capsys):
    (tmp_path / "a.png").write_text("no image")
    words = ["predict", str(run), str(tmp_path / "a.png"), str(folder / "test/40.png")]
    status, _, error = call(capsys, *words)
    assert status == 2
    assert "a.png is no image that can be read" in " ".join(error.split())
    assert "leave it out with --skip-bad" in " ".join(error.split())
    status, printed, _ = call(capsys, *words, "--skip-bad", "--format", "jsonl")
    assert status == 0
    assert len(printed.splitlines()) == 1
    status, _, error = call(capsys, *words[:3], "--skip-bad")
    assert status == 2
    assert "none of the 1 files is an image" in error


def test_a_program_gives_the_same_class_and_box(run, folder, found, tmp_path, capsys):
    out = tmp_path / "net.stablehlo"
    status, printed, _ = call(capsys, "export", str(run), "--to", "stablehlo", "--out", str(out))
    assert status == 0
    script = printed[printed.index("from pathlib") :].replace("photo.jpg", str(folder / "test/42.png"))
    names = {}
    exec(script, names)
    np.testing.assert_allclose(names["box"], in_photograph(found[1])[2], atol=1e-3)
    assert capsys.readouterr().out.startswith(f"{OBJECTS[found[0][2].argmax()]} [")


# ---------------------------------------------------------------- data of other kinds


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluate_repeats_the_figures_of_the_run_on_each_of_its_parts(run, split, tmp_path, capsys):
    status, _, error = call(capsys, "evaluate", str(run), "--split", split, "--out", str(tmp_path))
    assert status == 0, error
    summary, figures = (json.loads(path.read_text()) for path in (run / "summary.json", tmp_path / "metrics.json"))
    assert figures["images"] == summary["images"][split]
    for name, value in summary["metrics"][split].items():
        assert figures[name] == pytest.approx(value, rel=1e-5), name


def test_other_data_may_have_other_names_and_faults(run, tmp_path, capsys):
    root = make_objects(tmp_path / "objects", {"train": range(6), "test": range(6, 12)}, "mine.json")
    spoil(root / "test" / "mine.json")
    words = ["evaluate", str(run), "--data", str(root), "--annotations", "mine.json"]
    status, _, error = call(capsys, *words, "--bad-boxes", "refuse")
    assert status == 2
    assert "07.png: its object 0 has a box without area" in " ".join(error.split())
    assert "leave such out with --bad-boxes drop" in " ".join(error.split())
    assert call(capsys, *words)[0] == 0
    status, _, error = call(capsys, *words[:4])
    assert status == 2
    assert "has no file boxes.json" in " ".join(error.split())


def test_a_folder_whose_boxes_have_changed_is_another_run(run, tmp_path):
    root = make_objects(tmp_path / "objects", {"train": range(20), "test": range(20, 26)}, "boxes.json")
    config = training.config_for(LOCALIZE)(data=str(root), annotations="boxes.json")
    before = config.identity()
    spoil(root / "train" / "boxes.json")
    assert config.identity() != before
    assert runs.read_json(run / "config.json")["data_version"]


def test_shapes_are_images_of_one_object(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path))
    for name, count in (("SHAPES_TRAIN", 12), ("SHAPES_TEST", 4), ("SCENES_TRAIN", 6), ("SCENES_TEST", 3)):
        monkeypatch.setattr(f"cnnjax.data.boxes.{name}", count)
    config = training.config_for(LOCALIZE)
    dataset = config(image_size=32, validation_split=0.25).dataset()
    assert [part.labels.shape for part in (dataset.train, dataset.validation, dataset.test)] == [(9, 1), (3, 1), (4, 1)]
    assert config(image_size=32, max_objects=4).dataset().test.labels.shape == (3, 4)


# ---------------------------------------------------------------- weights of a backbone


def test_weights_of_the_backbone_alone_start_a_localizer(tmp_path):
    network = models.create_model("vgg-tiny", num_classes=1000, seed=3)
    interop.save_safetensors(network, tmp_path / "vgg.safetensors")
    config = training.config_for(LOCALIZE)(backbone="vgg-tiny", pretrained=str(tmp_path / "vgg.safetensors"))
    start = training.started_from(config, {"num_classes": 2, "in_channels": 3, "backbone": "vgg-tiny"})
    kernels = [layers["0"].kernel[...] for layers in (start.model.backbone.layers, {"0": network.features[0]})]
    np.testing.assert_array_equal(*kernels)
    assert start.model.classifier.out_features == 2
    assert start.mean is not None  # 1,000 classes are ImageNet's


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*LOCALIZE, "--model", "resnet18"], "network for classification: choose one for localization"),
        ([*LOCALIZE, "--model", "locaizer"], "did you mean localizer"),
        (["train", "--model", "localizer"], "network for localization: choose one for classification"),
        ([*FOLDER, "24", "--model", "cells", "--backbone", "resnet18"], "takes no --backbone"),
        ([*FOLDER, "64", "--backbone", "lecture-cnn", "--batch-size", "8"], "cannot be a backbone"),
        (FOLDER[:-1], "add --image-size, height and width"),
        ([*FOLDER, "24", "--batch-size", "8"], "at least 32x32 pixels"),
        ([*LOCALIZE, "--data", "CLASSES", "--image-size", "24"], "has no file instances.json"),
        ([*LOCALIZE, "--data", "EMPTY", "--image-size", "24"], "no training image has an object"),
        ([*LOCALIZE, "--data", "UNTESTED", "--image-size", "24"], "no test image has an object"),
        ([*LOCALIZE, "--data", "SPOILT", "--image-size", "24"], "leave such out with --bad-boxes drop"),
        ([*LOCALIZE, "--max-objects", "3"], "give 1 for images of one object each"),
        ([*FOLDER, "24", "--no-keep-largest"], "it has 2 objects and there are"),
        ([*LOCALIZE, "--data", "digits"], "digits"),
        (
            ["evaluate", "RUN", "--data", "OTHERS", "--annotations", "instances.json"],
            "choose data with the same classes in the same order",
        ),
        (["evaluate", "RUN", "--score-size", "9", "9"], "--score-size is for segmentation: this network has learned"),
        (["predict", "RUN", "EMPTY", "--windows"], "--windows are for segmentation"),
        (["predict", "RUN", "EMPTY", "--scales", "1", "2"], "--scales are for segmentation"),
    ],
)
def test_mistakes_are_told(capsys, places, words, message):
    status, _, error = call(capsys, *(str(places.get(word, word)) for word in words))
    assert status == 2
    assert message in " ".join(error.split())


@pytest.fixture(scope="module")
def places(run, folder, tmp_path_factory):
    """Folders with a mistake, by the words that stand for them."""
    root = tmp_path_factory.mktemp("places")
    splits = {"train": range(14), "test": range(14, 20)}
    found = {name: make_objects(root / name, splits) for name in ("EMPTY", "UNTESTED", "SPOILT", "OTHERS")}
    for file in (*found["EMPTY"].glob("*/*.json"), found["UNTESTED"] / "test" / "instances.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    spoil(found["SPOILT"] / "train" / "instances.json")
    for file in found["OTHERS"].glob("*/*.json"):
        file.write_text(file.read_text().replace("boat", "ship"))
    return {
        **found,
        "RUN": run,
        "FOLDER": folder,
        "CLASSES": make_folder(root / "CLASSES", (("train", 3), ("test", 1))),
    }


def test_options_of_boxes_are_refused_of_a_classifier(tmp_path, capsys):
    model = models.create_model("lecture-cnn", num_classes=2, image_size=32)
    about = {"model": "lecture-cnn", "arguments": {"num_classes": 2, "image_size": 32}, "task": "classification"}
    about |= {"loss": "cross-entropy", "classes": ["a", "b"], "image_size": [32, 32], "channels": 3}
    train.trained.save(tmp_path, model, about)
    status, _, error = call(capsys, "evaluate", str(tmp_path), "--data", "shapes", "--bad-boxes", "drop")
    assert status == 2
    assert "--bad-boxes is for localization: this network has learned classification" in " ".join(error.split())
