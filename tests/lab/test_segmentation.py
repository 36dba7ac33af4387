"""From a folder of images and masks to a network that is judged and used, by the commands that a person types."""

import csv
import json
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cnnjax import data, models, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import app, grid
from cnnjax.models import registry
from cnnjax.nn import Conv, Module
from cnnjax.tasks.masks import scores
from cnnjax.train.segmented import Segmenter, largest
from tests.lab.own_data import make_scenes, scene
from tests.lab.test_launch import call

CLASSES = ("grass", "car")
SIZE = (12, 16)


class Pixels(Module):
    """A class for each pixel from its colour alone, which NumPy computes in a line."""

    def __init__(self, num_classes, in_channels, rngs):
        self.classify = Conv(in_channels, num_classes, 1, rngs=rngs)

    def __call__(self, x):
        return self.classify(x)


@pytest.fixture(scope="module", autouse=True)
def networks():
    """Networks for these tests, which others shall not find."""
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "_REGISTRATIONS", dict(registry._REGISTRATIONS))
    registry.register("pixels", task="segmentation")(partial(Pixels))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    splits = {"train": range(16), "val": range(16, 20), "test": range(20, 26)}
    root = make_scenes(tmp_path_factory.mktemp("own") / "scenes", splits)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    words = ["train", "--task", "segmentation", "--model", "pixels", "--data", str(folder), "--out", str(out)]
    words += ["--image-size", *map(str, SIZE), "--epochs", "6", "--batch-size", "8", "--lr", "0.3"]
    assert app.main([*words, "--score-size", "24", "32", "--class-weights", "median-frequency"]) == 0
    return out


@pytest.fixture(scope="module")
def logits(run, folder):
    """Of the test images, at the size of the network, in float64."""
    arrays = train.load(run)
    kernel, bias = np.float64(arrays.model.classify.kernel[0, 0]), np.float64(arrays.model.classify.bias)
    small = [
        Image.open(folder / "test/images" / f"{number}.png").resize(SIZE[::-1], Image.Resampling.BILINEAR)
        for number in range(20, 26)
    ]
    return np.stack([np.asarray(image) / 255 for image in small]) @ kernel + bias


def resized(logits, height, width):
    """Bilinearly, as torch's interpolate without aligned corners."""
    torch = pytest.importorskip("torch")
    planes = torch.tensor(np.moveaxis(logits, -1, 1))
    found = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    return np.moveaxis(found.numpy(), 1, -1)


def test_a_run_has_figures_of_its_own_and_all_that_predicting_needs(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_mean_iou"] == summary["metrics"]["test"]["mean_iou"] > 0.4
    assert grid.default_metric(grid.numbers(summary)) == "test_mean_iou"
    assert summary["images"] == {"train": 16, "validation": 4, "test": 6}
    assert "boundary_f1" in summary["metrics"]["test"]
    about = json.loads((run / "model.json").read_text())
    assert (about["task"], about["classes"], about["image_size"]) == ("segmentation", list(CLASSES), list(SIZE))
    assert {path.name for path in (run / "figures").iterdir()} == {
        "curves.png",
        "masks.png",
        "iou.png",
        "confusion.png",
    }
    report = (run / "report.md").read_text()
    assert "mean IoU" in report
    assert " --task segmentation" in report  # without it the command would train a classifier
    assert "Intersection over union of each class, over all test images." in report


def test_evaluate_scores_at_the_masks_own_size_as_numpy_and_torch_do(run, logits, tmp_path, capsys):
    masks = np.stack([scene(number)[1] for number in range(20, 26)])
    predicted = resized(logits, 24, 32).argmax(-1)
    counts = np.zeros((2, 2), int)
    np.add.at(counts, (masks[masks != 255], predicted[masks != 255]), 1)
    status, printed, _ = call(capsys, "evaluate", str(run), "--score-size", "24", "32", "--out", str(tmp_path))
    assert status == 0
    figures = json.loads((tmp_path / "metrics.json").read_text())
    for name, value in scores(counts).items():
        np.testing.assert_allclose(figures[name], value, rtol=2e-3)  # a pixel on the edge of two classes
    rows = list(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert rows[0] == ["true", *CLASSES]
    assert np.abs(np.array([row[1:] for row in rows[1:]], int) - counts).sum() <= 4
    assert f"mean IoU {figures['mean_iou']:.2%}" in re.sub(" +", " ", printed)
    assert "share of the pixels" in printed
    assert any(line.split()[:1] == ["car"] for line in printed.splitlines())


def test_predict_writes_masks_of_the_images_own_size(run, folder, tmp_path, capsys):
    file = folder / "test/images/21.png"
    status, printed, _ = call(capsys, "predict", str(run), str(file), "--out", str(tmp_path), "--format", "jsonl")
    assert status == 0
    (mask,) = train.load(run).predict(file)
    assert mask.shape == (24, 32)
    picture = Image.open(tmp_path / "21.mask.png")
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), mask)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), viz.palette(2)[mask])
    overlay = np.asarray(Image.open(tmp_path / "21.overlay.png"))
    np.testing.assert_array_equal(overlay[mask == 0], scene(21)[0][mask == 0])
    assert (overlay[mask == 1] != scene(21)[0][mask == 1]).any()
    shares = json.loads(printed)["shares"]
    assert shares == {CLASSES[k]: (mask == k).mean() for k in sorted({0, 1}, key=lambda k: -(mask == k).sum())}
    true = scene(21)[1]
    assert ((mask == true) | (true == 255)).mean() > 0.85


def test_a_mask_fits_its_image_whatever_the_shape_of_that(run):
    """A tall image has black on both sides of it inside the network's wide input, and none in its mask."""
    segmenter = train.load(run)
    pixels = np.full((48, 20, 3), (40, 140, 40), np.uint8)
    pixels[:24] = (160, 40, 40)
    (mask,) = segmenter.predict(pixels)
    assert mask.shape == (48, 20)
    assert (mask[:21] == 1).all()
    assert (mask[27:] == 0).all()
    (same,) = segmenter.predict(pixels / np.float32(255))
    np.testing.assert_array_equal(same, mask)


@pytest.mark.parametrize("size", [(40, 50), (12, 16), (7, 30), (13, 17)])
def test_windows_look_at_every_pixel_of_an_image_in_its_own_size(run, size):
    """Of a network that sees one pixel, the mean over windows is what it says of that pixel."""
    segmenter = train.load(run)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    kernel, bias = np.float64(segmenter.model.classify.kernel[0, 0]), np.float64(segmenter.model.classify.bias)
    expected = (pixels / 255 @ kernel + bias).argmax(-1)
    (mask,) = segmenter.predict(pixels, windows=True)
    assert (mask == expected).mean() > 0.999


class Ramp(Module):
    """Logits of class 1 that grow from left to right, whatever the image."""

    def __call__(self, x):
        column = np.linspace(-1, 3, x.shape[2], dtype=np.float32)
        ramp = np.broadcast_to(column[None, None, :, None], (*x.shape[:3], 1))
        return np.concatenate([np.zeros_like(ramp), ramp], -1) + 0 * x[..., :2]


def test_flips_and_scales_average_probabilities_at_the_right_places():
    about = {"loss": "cross-entropy", "task": "segmentation"}
    segmenter = Segmenter(Ramp(), CLASSES, (4, 9, 3), about)
    images = np.zeros((1, 4, 9, 3), np.float32)

    def chance(width):
        return 1 / (1 + np.exp(-np.linspace(-1, 3, width)))

    found = segmenter.averaged(flip=True).probabilities(images)[0, 0, :, 1]
    np.testing.assert_allclose(found, (chance(9) + chance(9)[::-1]) / 2, rtol=1e-5)
    found = segmenter.averaged(scales=(1.0, 2.0)).probabilities(images)[0, 0, :, 1]
    doubled = resized(np.tile(chance(18)[None, None, :, None], (1, 8, 1, 1)), 4, 9)[0, 0, :, 0]
    np.testing.assert_allclose(found, (chance(9) + doubled) / 2, rtol=1e-5)
    with pytest.raises(UserError, match="`scales` must be numbers larger than 0"):
        segmenter.averaged(scales=(0.0,))


def test_the_largest_class_is_taken_after_scaling():
    probabilities = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)
    expected = resized(probabilities[None], 20, 24)[0].argmax(-1)
    assert (largest(probabilities, (20, 24)) == expected).mean() > 0.99
    np.testing.assert_array_equal(largest(probabilities, (5, 6)), probabilities.argmax(-1))


def test_a_program_gives_the_same_masks_with_jax_alone(run, folder, tmp_path, capsys):
    out = tmp_path / "net.stablehlo"
    status, printed, _ = call(capsys, "export", str(run), "--to", "stablehlo", "--out", str(out))
    assert status == 0
    script = printed[printed.index("from pathlib") :].replace("photo.jpg", str(folder / "test/images/22.png"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    segmenter = train.load(run)
    mask = segmenter.probabilities(segmenter.fit_image(folder / "test/images/22.png")[None])[0].argmax(-1)
    assert eval(done.stdout) == {CLASSES[k]: (mask == k).mean() for k in np.unique(mask)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--task", "segmentation", "--model", "resnet18"], "network for classification: choose one for segm"),
        (["train", "--model", "pixels"], "network for segmentation: choose one for classification"),
        (["train", "--task", "segmentation", "--model", "pixels", "--data", "shapes", "--score-size", "9"], "square"),
        (["train", "--task", "pose"], "pose"),
        (["train", "--task", "segmentation", "--model", "unet_tiny", "--backbone", "resnet18"], "takes no --backbone"),
    ],
)
def test_mistakes_are_told(capsys, words, message):
    status, _, error = call(capsys, *words)
    assert status == 2
    assert message in " ".join(error.split())


def test_options_of_segmentation_are_refused_of_a_classifier(tmp_path, capsys):
    with pytest.raises(SystemExit):
        app.main(["train", "--task", "segmentation", "--label-smoothing", "0.1"])
    model = models.create_model("lecture-cnn", num_classes=2, image_size=32)
    about = {"model": "lecture-cnn", "arguments": {"num_classes": 2, "image_size": 32}, "task": "classification"}
    about |= {"loss": "cross-entropy", "classes": ["a", "b"], "image_size": [32, 32], "channels": 3}
    train.trained.save(tmp_path, model, about)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    for option in (["--windows"], ["--scales", "0.5", "1"]):
        status, _, error = call(capsys, "predict", str(tmp_path), str(tmp_path / "a.png"), *option)
        assert status == 2
        assert "for segmentation: this network has learned classification" in " ".join(error.split())
    assert nnx.state(model)


@pytest.fixture(scope="module")
def halves(folder, tmp_path_factory):
    """A run on a folder without validation images, whose masks have a class 2 that is none."""
    root = tmp_path_factory.mktemp("halves") / "scenes"
    for split, numbers in (("train", range(20)), ("test", range(20, 23))):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number in numbers:
            pixels, mask = scene(number)
            mask[:3] = 2
            Image.fromarray(pixels).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    out = root.parent / "run"
    words = ["train", "--task", "segmentation", "--model", "pixels", "--data", str(root), "--out", str(out)]
    words += ["--image-size", *map(str, SIZE), "--epochs", "1", "--batch-size", "8", "--lr", "0.3"]
    assert app.main([*words, "--score-size", "24", "32", "--mask-ignore", "2", "--validation-split", "0.3"]) == 0
    return out


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluate_repeats_the_figures_of_the_run_on_each_of_its_parts(halves, split, tmp_path, capsys):
    status, _, error = call(capsys, "evaluate", str(halves), "--split", split, "--out", str(tmp_path))
    assert status == 0, error
    summary, figures = (json.loads(path.read_text()) for path in (halves / "summary.json", tmp_path / "metrics.json"))
    assert figures["images"] == summary["images"][split]
    for name, value in summary["metrics"][split].items():
        assert figures[name] == pytest.approx(value, rel=1e-5), name


def test_a_folder_without_validation_images_is_loaded_as_it_is(halves):
    loaded = data.load_masks(str(halves.parent / "scenes"), image_size=SIZE)
    assert (loaded.train.size, loaded.validation, loaded.test.size) == (20, None, 3)


def test_images_of_the_same_name_have_masks_of_their_own_also_the_second_time(run, tmp_path, capsys):
    files = [tmp_path / place for place in ("a.png", "a.bmp", "x/a.png", "y/a.png")]
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for attempt in range(2):
        for number, file in enumerate(files):
            Image.fromarray(scene(100 * attempt + number, 8 + number, 12)[0]).save(file)
        status, _, _ = call(capsys, "predict", str(run), *map(str, files), "--out", str(tmp_path / "out"))
        assert status == 0
        masks = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "out").glob("*.mask.png")}
        assert len(masks) == 4
        for file, beginning in zip(files, ("a.mask", "a.bmp.mask", "a.png.mask", "tmp-"), strict=True):
            (found,) = [mask for name, mask in masks.items() if name.startswith(beginning)]
            np.testing.assert_array_equal(found, train.load(run).predict(file)[0])
