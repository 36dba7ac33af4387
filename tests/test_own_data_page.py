"""docs/own_data.md tells the truth: its commands and its Python run as they stand, in this order."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from cnnjax.lab import app
from tests.lab.own_data import make_folder

PAGE = (Path(__file__).parent.parent / "docs" / "own_data.md").read_text()
COMMANDS = re.findall(r"^    python launch\.py (.*)$", PAGE.partition("## Weights that you did")[0], re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
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
    for block in BLOCKS:
        assert len(block.splitlines()) <= 12
        exec(compile(smaller(block), "own_data.md", "exec"), names)
    assert names["logits"].shape == (8, 2)
    assert names["trained"].classes == ("daisy", "rose")
    assert re.search(r"^\('(daisy|rose)',\)$", capsys.readouterr().out, re.MULTILINE)
