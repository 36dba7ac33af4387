"""docs/own_data.md tells the truth: its commands and its Python run as they stand, in this order."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from cnnjax.lab import app
from tests.lab.own_data import make_folder
from tests.lab.test_localization import networks as locators
from tests.lab.test_segmentation import CLASSES, networks, scene

__all__ = ["locators", "networks"]  # fixtures: the networks "cells" and "pixels"

PAGE = (Path(__file__).parent.parent / "docs" / "own_data.md").read_text()
COMMANDS = re.findall(r"^    python launch\.py (.*)$", PAGE.partition("## Weights that you did")[0], re.MULTILINE)
BEFORE, _, MASKS = PAGE.partition("## Images with masks")
MASKS, _, BOXES = MASKS.partition("## Images with boxes")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
SMALLER = {"resnet18": "lecture-cnn", "epochs=20": "epochs=1", "--epochs 20": "--epochs 1 --batch-size 16"}


def smaller(text):
    """The same with a network that trains in seconds; nothing else is changed but the size of the work."""
    text = text.replace("class_names))\ntask", "class_names), image_size=16)\ntask")  # which lecture-cnn needs
    for ours, tiny in {**SMALLER, "image_size=64": "image_size=16", "--image-size 64": "--image-size 16"}.items():
        text = text.replace(ours, tiny)
    return text


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    made = make_folder(root / "colours", (("train", 20), ("test", 11)))
    for split in ("train", "test"):
        for ours, theirs in (("green", "daisy"), ("red", "rose")):
            (root / "flowers" / split / theirs).mkdir(parents=True)
            for path in (made / split / ours).glob("*.png"):
                with Image.open(path) as image:
                    image.save(root / "flowers" / split / theirs / f"{path.stem}.jpg")
    return root


def test_the_page_runs_from_the_folder_to_python(flowers, monkeypatch, capsys):
    monkeypatch.chdir(flowers)
    assert [shlex.split(command)[0] for command in COMMANDS] == ["train", "evaluate", "predict", "export"]
    for command in COMMANDS:
        assert app.main(shlex.split(smaller(command))) == 0, command
    assert (flowers / "judged" / "confusion.png").exists()
    assert (flowers / "sheet" / "predictions.png").exists()
    assert (flowers / "flowers.stablehlo").exists()
    names = {}
    for block in PYTHON.findall(BEFORE):
        assert len(block.splitlines()) <= 12
        exec(compile(smaller(block), "own_data.md", "exec"), names)
    assert names["logits"].shape == (8, 2)
    assert names["trained"].classes == ("daisy", "rose")
    assert re.search(r"^\('(daisy|rose)',\)$", capsys.readouterr().out, re.MULTILINE)


PIXELS = {"unet_tiny": "pixels", "96, 128": "12, 16", "96 128": "12 16", "192 256": "24 32", "epochs 20": "epochs 1"}


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    for start, split in enumerate(("train", "val", "test")):
        for part in ("images", "masks"):
            (root / "streets" / split / part).mkdir(parents=True)
        for number in range(8 if split == "train" else 2):
            pixels, mask = scene(10 * start + number)
            Image.fromarray(pixels).save(root / "streets" / split / "images" / f"{number}.jpg")
            Image.fromarray(mask).save(root / "streets" / split / "masks" / f"{number}.png")
    (root / "streets" / "classes.txt").write_text("\n".join(CLASSES))
    return root


def test_images_with_masks_go_from_the_folder_to_python(streets, monkeypatch, capsys):
    monkeypatch.chdir(streets)
    commands = re.findall(r"^    python launch\.py (.*)$", MASKS, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "evaluate", "predict"]
    (block,) = PYTHON.findall(MASKS)
    assert len(block.splitlines()) <= 12
    for ours, tiny in {**PIXELS, "epochs=20": "epochs=1"}.items():
        commands, block = [command.replace(ours, tiny) for command in commands], block.replace(ours, tiny)
    for command in commands:
        assert app.main(shlex.split(command)) == 0, command
    assert "left out" not in capsys.readouterr().err  # classes.txt is read
    assert (streets / "runs" / "streets" / "figures" / "masks.png").exists()
    with Image.open(streets / "masks" / "1.mask.png") as mask:
        assert mask.size == (32, 24)
    assert (streets / "masks" / "1.overlay.png").exists()
    names = {}
    exec(compile(block, "own_data.md", "exec"), names)
    assert names["mask"].shape == (24, 32)
    assert 0 < float(capsys.readouterr().out.split()[-1]) <= 1


def test_objects_are_read_and_located_as_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 8), ("val", 1), ("test", 1)):
        folder = tmp_path / "cells" / split
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (64, 48), (number, 50, 100)).save(folder / f"{number}.jpg")
        about = {
            "images": [{"id": k, "file_name": f"{k}.jpg", "width": 64, "height": 48} for k in range(count)],
            "annotations": [{"id": 1, "image_id": 0, "category_id": 3, "bbox": [8, 4, 16, 20]}],
            "categories": [{"id": 3, "name": "cell"}],
        }
        (folder / "instances.json").write_text(json.dumps(about))
    block, use = PYTHON.findall(BOXES)
    names = {}
    exec(compile(block, "own_data.md", "exec"), names)
    batch = names["batch"]
    with_cell = batch.labels[:, 0] == 0  # images are mixed
    assert batch.boxes[with_cell, 0].tolist() == [[40, 20, 120, 120]]  # five times as large
    assert batch.labels[~with_cell].tolist() == [[-1]] * 7
    commands = re.findall(r"^    python launch\.py (.*)$", BOXES, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "evaluate", "predict"]
    for command in commands:
        command = command.replace("240 320 --epochs 20", "24 32 --epochs 1 --model cells")
        assert app.main(shlex.split(command)) == 0, command
    assert (tmp_path / "located" / "predictions.png").exists()
    capsys.readouterr()
    exec(compile(use, "own_data.md", "exec"), names)
    assert capsys.readouterr().out.startswith("('cell',) [[")
