"""Pages of one's own runs, and their index: of an experiment in a file, which takes no time."""

import json
import os
import re
import shutil

import pytest

from cnnjax.lab import app, own_runs, stored
from tests.lab.test_comparing import make_run
from tests.lab.test_launch import at, call

MINE = '''"""Adds numbers.

How far is it to ten?
"""

from dataclasses import dataclass

from PIL import Image

from cnnjax.lab.claims import check

CAPTIONS = {"1-square": "A <grey> square."}


@dataclass(frozen=True)
class Config:
    """Numbers."""

    first: int = 1
    second: int = 2


def load(config):
    return None


def run(config, data, run, parallel):
    Image.new("L", (8, 8)).save(run.figures / "1-square.png")
    Image.new("L", (8, 8)).save(run.figures / "2-as_it-is.png")
    return {"test_accuracy": (config.first + config.second) / 10}


def table(summary):
    return f"| sum |\\n| --- |\\n| {summary['test_accuracy']} |"


def claims(summary):
    return [check("Z1", "sum of <both>", "1", f"{summary['test_accuracy']}", summary["test_accuracy"] == 1)]
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A finished run of one's own experiment, and its file."""
    root = tmp_path_factory.mktemp("mine")
    (root / "mine.py").write_text(MINE)
    (root / "runs").mkdir()
    assert app.main([str(root / "mine.py"), "--second", "9", "--out", str(root / "runs" / "nine")]) == 0
    return root


def test_a_run_that_finishes_has_a_page_of_its_own(mine):
    folder = mine / "runs" / "nine"
    page = (folder / "index.html").read_text()
    for part in (
        "<h1>mine</h1>",
        "Adds numbers. How far is it to ten?",
        "<td>1.0</td>",
        'src="figures/1-square.png" width="8" height="8" loading="lazy" alt="A &lt;grey&gt; square."',
        "<figcaption>As it is</figcaption>",
        "sum of &lt;both&gt;",
        '<span class="verdict holds">holds</span>',
        f"{mine / 'mine.py'} --second 9</code>",
    ):
        assert part in page, part
    assert "--first" not in page  # is as its default
    assert "<style>" in page
    targets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {"summary.json", "config.json", "report.md"} < set(targets)
    for target in targets:
        assert target.startswith(("#", "data:")) or (folder / target).exists(), target
    assert "model.json" not in targets  # there is none


@pytest.fixture
def folder(mine, tmp_path):
    """A folder with that run, which lacks its page; an unfinished one, and a sweep."""
    shutil.copytree(mine / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "nine" / "index.html").unlink()
    make_run(tmp_path / "runs" / "begun", {"epochs": 7, "model": "resnet34"}, {"": [1.0, 2.0]})
    swept = make_run(tmp_path / "runs" / "swept", {"experiment": "sweep train"}, {})
    (swept / "sweep.json").write_text(json.dumps({"cells": [{"status": "finished"}, {"status": "failed"}]}))
    (swept / "report.md").write_text("# Sweep")
    make_run(swept / "seed=1", {"seed": 1}, {})
    for age, file in enumerate(("nine/summary", "swept/config", "begun/config", "swept/seed=1/config")):
        os.utime(tmp_path / "runs" / f"{file}.json", (1e9 - age, 1e9 - age))
    return tmp_path / "runs"


def test_report_writes_what_is_missing_and_lists_all_runs(folder, capsys):
    status, printed, error = call(capsys, "report", str(folder))
    assert (status, error) == (0, "")
    assert "of 4 runs" in printed
    assert "As it is" in (folder / "nine" / "index.html").read_text()
    page = (folder / "index.html").read_text()
    rows = {}
    for row in re.findall(r"<tr>(.*?)</tr>", page)[1:]:
        cells = re.findall(r"<td[^>]*><div>(.*?)</div></td>", row)
        rows[re.sub("<.*?>", "", cells[0])] = [re.sub("<.*?>", "", cell) for cell in cells[1:5]], cells[0]
    assert list(rows) == ["nine", "swept", "begun", "swept/seed=1"]  # the newest first
    assert rows["nine"][0][:2] == ["--second 9", "test accuracy 1"]
    assert rows["nine"][0][3] == "finished"
    assert rows["begun"][0] == ["--model resnet34 --epochs 7", "", "", "unfinished, epoch 2 of 7"]
    assert rows["swept"][0][3] == "1 of 2 cells finished"
    assert 'href="nine/index.html"' in rows["nine"][1]
    assert 'href="swept/report.md"' in rows["swept"][1]
    assert "href" not in rows["begun"][1]
    assert "1 of them finished" in page


def test_a_run_from_python_is_listed_without_a_complaint(folder, capsys):
    make_run(folder / "script", {"experiment": ""}, {"": [1.0, 2.0]})
    status, printed, error = call(capsys, "report", str(folder))
    assert (status, error) == (0, "")
    assert "of 5 runs" in printed
    assert "from Python, epoch 2" in (folder / "index.html").read_text()
    status, _, error = call(capsys, "report", str(folder / "script"))
    assert status == 2
    assert "is from Python, epoch 2 of 3: only runs of commands have a page" in error


def test_a_page_that_is_there_stays_and_a_single_run_gets_it_anew(folder, capsys):
    page = folder / "nine" / "index.html"
    page.write_text("mine")
    assert app.main(["report", str(folder)]) == 0
    assert page.read_text() == "mine"
    assert app.main(["report", str(folder / "nine")]) == 0
    assert "<h1>mine</h1>" in page.read_text()


def test_code_that_has_changed_since_is_not_imported(folder, mine, capsys):
    config, summary = (folder / "nine" / name for name in ("config.json", "summary.json"))
    other = folder.parent / "mine.py"
    other.write_text("raise SystemExit('imported')")
    for file in (config, summary):
        file.write_text(file.read_text().replace(str(mine / "mine.py"), str(other)))
    status, _, error = call(capsys, "report", str(folder))
    assert status == 0
    assert f"{folder / 'nine'} has no page ({other}, which ran, has changed or is gone)" in error
    assert "mine.py, which ran, has changed" in (folder / "index.html").read_text()


@pytest.mark.parametrize("damage", ["{", "{}", '{"experiment": "train", "config": {}}'])
def test_a_damaged_run_is_named_and_the_others_are_listed(folder, capsys, damage):
    (folder / "nine" / "summary.json").write_text(damage)
    status, _, error = call(capsys, "report", str(folder))
    assert status == 0
    assert (str(folder / "nine" / "summary.json") in error) == (damage != "{}")  # which is no summary yet
    assert "begun" in (folder / "index.html").read_text()
    assert not (folder / "nine" / "index.html").exists()


def test_a_folder_without_runs_is_refused_in_words(tmp_path, folder, capsys, monkeypatch):
    for arguments, said in (
        ([str(tmp_path / "nothing")], "there is no run in"),
        ([str(folder / "begun")], "is unfinished, epoch 2 of 7: its page is written when it finishes"),
        (["one", "two"], "report takes nothing, or one folder of runs, got one two"),
    ):
        status, _, error = call(capsys, "report", *arguments)
        assert status == 2
        assert said in error


def test_where_the_package_is_installed_report_lists_the_runs_there(folder, monkeypatch, capsys):
    place = at(folder.parent, monkeypatch)._replace(experiments=(), command="cnnjax")
    monkeypatch.setattr(own_runs.workspace, "find", lambda: place)
    place.results.mkdir()
    folder.rename(place.runs)
    assert app.main(["report"]) == 0
    assert "cnnjax compare RUN RUN" in (place.runs / "index.html").read_text()
    assert len(stored.all_in(place.runs)) == 4
