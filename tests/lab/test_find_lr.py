"""The learning-rate sweep as a command: on a folder of images, with what it leaves behind."""

import json
import re
import shlex

import numpy as np
import pytest

from cnnjax import models, train
from cnnjax.lab import find_lr
from tests.lab.own_data import CLASSES, make_folder
from tests.lab.test_launch import ROOT, call


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("sweep") / "colours")
    options = ["--lowest", "0.0001", "--highest", "1", "--steps", "20", "--batch-size", "16", "--optimizer", "sgd"]
    (line,) = re.findall(r"^    cnnjax (find-lr .*)$", (ROOT / "docs" / "own_data.md").read_text(), re.MULTILINE)
    smaller = {"resnet18": "lecture-cnn", "flowers": str(folder), "64": "16"}
    return [*(smaller.get(word, word) for word in shlex.split(line)), *options]


def test_the_command_sweeps_as_asked_and_leaves_rates_losses_and_a_picture(command, tmp_path, capsys, monkeypatch):
    asked, rates = [], np.geomspace(1e-4, 1, 20)
    sweep = train.RateSweep(rates[:15], np.linspace(2, 1, 15), np.linspace(2, 1, 15), 0.012, "a tenth of 0.12")

    def sweeps(model, task, recipe, examples, **options):
        asked.append((models.count_params(model), task.class_names, recipe.optimizer, examples.size, options))
        return sweep

    monkeypatch.setattr(train, "find_lr", sweeps)
    out = ["--out", str(tmp_path / "run")]
    status, printed, _ = call(capsys, *command, *out)
    assert status == 0
    ((params, classes, optimizer, size, options),) = asked
    assert (params, classes, optimizer, size) == (241_219, CLASSES, "sgd", 81)
    assert [options[name] for name in ("lowest", "highest", "steps")] == [1e-4, 1, 20]
    assert "Suggested learning rate: 0.012, a tenth of 0.12" in " ".join(printed.split())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    np.testing.assert_array_equal(summary["rates"], sweep.rates)
    np.testing.assert_array_equal(summary["losses"], sweep.losses)
    np.testing.assert_array_equal(summary["smoothed"], sweep.smoothed)
    assert (summary["suggested_lr"], summary["params"]) == (0.012, 241_219)
    assert (tmp_path / "run" / "figures" / "rates.png").stat().st_size > 10_000
    assert "The loss of each step of the sweep" in (tmp_path / "run" / "index.html").read_text()
    assert "Finished before" in call(capsys, *command, *out)[1]
    assert len(asked) == 1


def test_options_that_the_sweep_decides_are_refused(command, capsys):
    for options, said in (
        (["--lr", "0.1"], "--lr 0.1 is what is looked for: leave it out, and give --lowest and --highest"),
        (["--highest", "0.0001"], "--lowest must be less than --highest, got 0.0001 and 0.0001"),
        (["--steps", "9"], "--steps must be at least 10, got 9"),
    ):
        status, _, error = call(capsys, *command, *options)
        assert (status, said in error) == (2, True), error


def test_a_table_says_the_rate_or_why_there_is_none():
    summary = {"model": "net", "optimizer": "adam", "rates": [1e-6, 0.25], "smoothed": [2.0, 1.5], "why": "because"}
    assert "Suggested learning rate: **0.00012**, because." in find_lr.table(summary | {"suggested_lr": 0.00012})
    page = find_lr.table(summary | {"suggested_lr": None, "why": "raise `highest`"})
    assert "No rate: raise --highest." in page
    assert "| net | adam | 2 | 0.000001 to 0.25 | 1.500 |" in page
