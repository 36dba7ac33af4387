"""Runs side by side, from their files: directories are written here as runs leave them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.lab import app, comparing, stored
from tests.lab.test_launch import ROOT, at, call

CONFIG = {"experiment": "train", "model": "resnet18", "epochs": 3, "lr": None, "augment": "", "seed": 0}
LOSSES = {"a": [2.0, 1.0, 1.5], "b": [3.0, 2.5], "seeds/seed0": [4.0, 3.0], "seeds/seed1": [6.0, 1.0]}


def lines(losses, tag=""):
    """What a training writes: its losses on both splits, and the accuracy of the validation."""
    for epoch, loss in enumerate(losses, 1):
        rows = {("train", "loss"): loss + 1, ("validation", "loss"): loss, ("validation", "accuracy"): 1 / loss}
        rows[("train", "seconds")] = 9.0
        for (split, name), value in rows.items():
            name = f"{tag}/{name}" if tag else name
            yield json.dumps({"step": 10 * epoch, "epoch": epoch, "split": split, "name": name, "value": value})


def make_run(folder, config, trainings, summary=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    text = "\n".join(line for tag, losses in trainings.items() for line in lines(losses, tag))
    (folder / "metrics.jsonl").write_text(text)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps({"config": CONFIG | config, **summary}))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three runs in results/runs: finished, unfinished, and a finished one of two seeds of a network."""
    at(tmp_path, monkeypatch)
    folder = tmp_path / "results" / "runs"
    done = {"params": 11_181_642, "test_accuracy": 0.5, "seconds": 75.04, "device": {"count": 1}, "same": 7}
    make_run(folder / "a", {}, {"": LOSSES["a"]}, done)
    make_run(folder / "b", {"lr": 0.1, "augment": "mirror"}, {"": LOSSES["b"]})
    both = {f"net/{tag.partition('/')[2]}": LOSSES[tag] for tag in ("seeds/seed0", "seeds/seed1")}
    make_run(folder / "c", {"experiment": "own", "seed": 5}, both, {**done, "test_accuracy": 0.75})
    return folder


def test_the_table_has_what_differs_and_leaves_out_what_does_not(place, capsys):
    status, printed, _ = call(capsys, "compare", "a", str(place / "b"), "c", "--out", str(place / "out"))
    assert status == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines() if line.strip()]
    assert rows[:-1] == [
        ["a", "b", "c"],
        ["experiment", "train", "train", "own"],
        ["state", "finished", "unfinished, epoch 2 of 3", "finished"],
        ["lr", "default", "0.1", "default"],
        ["augment", "mirror"],
        ["seed", "0", "0", "5"],
        ["best validation loss", "1", "2.5", "2"],  # of two seeds: the mean of 3 and 1
        ["best validation accuracy", "1", "0.4", "0.6667"],  # the mean of 1/3 and 1
        ["params", "11,181,642", "11,181,642"],
        ["test_accuracy", "0.5", "0.75"],
    ]  # and neither model, devices nor what is the same in all that are finished
    assert rows[-1][0].startswith("wrote curves.png, comparison.json, index.html to ")
    written = json.loads((place / "out" / "comparison.json").read_text())
    assert written["b"]["state"] == "unfinished, epoch 2 of 3"
    assert written["c"]["summary"]["test_accuracy"] == 0.75
    with Image.open(place / "out" / "curves.png") as picture:
        assert picture.size[0] > 1000
    page = (place / "out" / "index.html").read_text()
    assert 'src="curves.png"' in page
    assert "<td>unfinished, epoch 2 of 3</td>" in page
    assert not re.search(r'(?:src|href)="(?:https?:|/)', page)


def test_curves_lie_over_each_other_seeds_as_one(place):
    runs = comparing.name_runs([stored.find(name) for name in "abc"])
    panels = comparing.curves(runs)
    assert list(panels) == ["loss", "accuracy"]
    drawn = {curve.label: curve for curve in panels["loss"]}
    assert list(drawn) == [f"{run}, {split}" for run in ("a", "b", "c net") for split in ("train", "validation")]
    np.testing.assert_array_equal(drawn["a, train"].values, [[3, 2, 2.5]])
    np.testing.assert_array_equal(drawn["b, validation"].values, [[3, 2.5]])
    np.testing.assert_array_equal(drawn["c net, validation"].values, [[4, 3], [6, 1]])
    assert [drawn[f"{run}, validation"].colour for run in ("a", "b", "c net")] == [0, 1, 2]
    assert {curve.style[:2] for label, curve in drawn.items() if label.endswith("train")} == {"--"}


def test_mean_iou_is_compared_before_other_figures_of_segmentation():
    history = {
        f"validation/{name}": [0.2, 0.5, 0.4] for name in ("pixel_accuracy", "mean_accuracy", "mean_iou", "loss")
    }
    run = stored.Stored(Path("a"), {}, {})
    vars(run)["curves"] = {"": history}
    assert list(comparing.curves({"a": run})) == ["loss", "mean iou", "pixel accuracy"]
    assert comparing.best_figures([run]) == {"best validation loss": [0.2], "best validation mean iou": [0.5]}


def test_one_finished_run_shows_all_its_figures_beside_an_unfinished_one(place):
    rows = comparing.table(comparing.name_runs([stored.find(name) for name in "ab"]))
    assert ["same", "7", ""] in rows
    assert ["seconds", "75.04", ""] in rows


def test_runs_of_one_name_are_told_apart_by_their_folders(place):
    other = make_run(place.parent / "other" / "a", {}, {"": [1.0]})
    assert list(comparing.name_runs([stored.read(place / "a"), stored.read(other)])) == ["runs/a", "other/a"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "compare takes two or more runs, got 0 of them"),
        (("a",), "compare takes two or more runs, got 1 of them"),
        (("a", "a"), "got the same run twice"),
        (("a", "bb"), "unknown run 'bb': did you mean b?"),
        (("a", "nowhere/b"), "there is no run nowhere/b: expected its directory, or its name in "),
        (("a", "."), "is no run (it has no config.json)"),
        (("a", "swept"), "swept is a sweep, whose report.md compares its cells"),
        (("a", "broken"), "config.json cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_said(place, capsys, monkeypatch, names, said):
    monkeypatch.chdir(place.parent)
    make_run(place / "swept", {"experiment": "sweep train"}, {})
    make_run(place / "broken", {}, {})
    (place / "broken" / "config.json").write_text("{")
    status, _, error = call(capsys, "compare", *names)
    assert status == 2
    assert said in error
    assert not list(place.glob("compare-*"))


def test_the_same_runs_in_any_order_have_one_folder(place, capsys):
    for names in (("a", "b"), ("b", "a")):
        assert app.main(["compare", *names]) == 0
    assert len(list(place.glob("compare-*/comparison.json"))) == 1


def test_the_commands_of_the_page_about_ones_own_data_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("flowers", "other"):
        make_run(tmp_path / "runs" / name, {"out": name}, {"": [1.0]})
    page = (ROOT / "docs" / "own_data.md").read_text()
    lines = re.findall(r"^    cnnjax ((?:compare|report) .*)$", page, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        assert call(capsys, *shlex.split(line))[0] == 0
    assert (tmp_path / "comparison" / "curves.png").exists()
    assert (tmp_path / "runs" / "index.html").exists()


def test_many_figures_are_cut_and_counted():
    runs = {
        name: stored.Stored(place, {}, {f"figure{k}": k + add for k in range(50)})
        for name, place, add in (("a", "a", 0.5), ("b", "b", 0.25))
    }
    for run in runs.values():
        vars(run)["curves"] = {}
    rows = comparing.table(runs)
    assert rows[-1] == ["and 10 more figures in comparison.json", "", ""]
    assert len(rows) == 2 + comparing.MOST + 1
