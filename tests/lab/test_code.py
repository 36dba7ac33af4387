"""A summary names the code of its run; `verify` says where that has changed since, and does such runs again."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from cnnjax.lab import again, app, code, experiments, published, workspace
from cnnjax.lab.claims import check, stored

ROOT = Path(__file__).parents[2]
OWN = '''"""Mine."""
from cnnjax import ops
from helper import {name}

def run(config, data, run, parallel):
    return {{"value": measured()}}

def measured():
    return {value}

def table(summary):
    return "{table}"
'''


@pytest.fixture
def own(tmp_path):
    """An experiment of a person's own, with a module beside it: writes both, returns its path."""

    def write(name="help_me", value="1", table="x", helper="def help_me(): return 1  # comment"):
        (tmp_path / "mine.py").write_text(OWN.format(name=name, value=value, table=table))
        (tmp_path / "helper.py").write_text(helper)
        return tmp_path / "mine.py"

    return write


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({}, []),
        ({"table": "another"}, []),
        ({"helper": '"""New words."""\n\ndef help_me():\n    return 1'}, []),
        ({"value": "2"}, ["mine.py"]),
        ({"helper": "def help_me(): return 2"}, ["helper.py"]),
    ],
)
def test_what_is_measured_with_counts_and_words_and_tables_do_not(own, change, files):
    recorded = code.describe(own())
    assert "cnnjax/ops/conv.py" in recorded["sources"]
    assert code.changed(own(**change), recorded) == files


def test_a_file_that_is_gone_has_changed_and_without_a_record_nothing_is_known(own):
    recorded = code.describe(own())
    recorded["sources"]["cnnjax/ops/gone.py"] = "0" * 12
    assert code.changed(own(), recorded) == ["cnnjax/ops/gone.py"]
    assert code.changed(own(), None) is None


def test_of_the_networks_those_that_an_experiment_names_count():
    named = {Path(file).name for file in code.sources(ROOT / "experiments" / "architectures.py") if "models/" in file}
    assert {"vgg.py", "efficientnet.py", "shufflenet_v1.py", "lecture.py"} <= named
    named = {Path(file).name for file in code.sources(ROOT / "experiments" / "fcn_vs_cnn.py") if "models/" in file}
    assert "lecture.py" in named
    assert not {"vgg.py", "efficientnet.py"} & named


@pytest.mark.parametrize(("text", "counts"), [("unet", True), ("une", False), ("unet_", True), ("unet_x", False)])
def test_a_text_is_a_network_s_whole_name_or_a_long_beginning_of_one(tmp_path, text, counts):
    path = tmp_path / "mine.py"
    path.write_text(f"from cnnjax import models\n\ndef run():\n    return models.create_model({text!r})\n")
    assert ("cnnjax/models/unet.py" in code.sources(path)) == counts


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_the_commit_is_git_s_and_none_outside_of_a_checkout(own, monkeypatch, tmp_path):
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert code.describe(own())["commit"] == head.stdout.strip()
    monkeypatch.setattr(code, "CHECKOUT", tmp_path)
    found = code.describe(own())
    assert (found["commit"], found["modified"]) == (None, None)


class Lab:
    """A folder of results with one experiment, whose claim M1 is about a stored run."""

    def __init__(self, monkeypatch, root):
        self.root, self.runs = root, []
        shutil.copytree(ROOT / "experiments", root / "experiments", ignore=shutil.ignore_patterns("bench", "*.pyc"))
        module = SimpleNamespace(Config=experiments.load("kernels").Config, __doc__="", __file__="", table=str)
        module.claims = lambda summary: [
            check("B1", "one", "1", "1", True),
            *stored("kernels", check("M1", "two", "2", "2", summary is not None)),
        ]
        place = workspace.Workspace(root, (), "python launch.py", (root / "experiments",))
        monkeypatch.setattr(workspace, "find", lambda: place)
        monkeypatch.setattr(experiments, "files", lambda: {"kernels": ROOT / "experiments" / "kernels.py"})
        monkeypatch.setattr(experiments, "load", lambda name: module)
        monkeypatch.setattr(app, "run_experiment", self.run)

    def run(self, name, options):
        self.runs.append((name, options))
        self.write(Path(options[-1]), code=code.describe(experiments.files()[name]))
        return 0

    def write(self, folder=None, **more):
        folder = folder or self.root / "results" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        summary = {"experiment": "kernels", "config": {"photograph": "flower"}, **more}
        (folder / "summary.json").write_text(json.dumps(summary))

    def page(self):
        published.verify(self.root / "results")
        return (self.root / "results" / "CLAIMS.md").read_text()


@pytest.fixture
def lab(monkeypatch, tmp_path):
    return Lab(monkeypatch, tmp_path)


def test_a_stored_row_says_whether_the_code_of_its_run_has_changed(lab, capsys):
    lab.write()
    assert "| holds (stored run, whose code was not recorded) |" in lab.page()
    recorded = code.describe(ROOT / "experiments" / "kernels.py") | {"commit": "a" * 40}
    lab.write(code=recorded)
    page = lab.page()
    assert "| holds (stored run, whose code is the same) |" in page
    assert "stored results of code" not in page
    recorded["sources"]["cnnjax/ops/conv.py"] = "0" * 12
    lab.write(code=recorded)
    assert "| holds (stored run, whose code has changed since aaaaaaa: cnnjax/ops/conv.py) |" in lab.page()
    printed = capsys.readouterr().out
    assert "1 is about stored results of code that may differ; anew: python launch.py verify --again M1" in printed


def test_the_run_behind_a_claim_is_done_again_with_its_options_and_published(lab, capsys):
    lab.write()
    lab.page()
    assert app.main(["verify", "--again", "M1"]) == 0
    ((name, options),) = lab.runs
    assert (name, options[:2], options[2]) == ("kernels", ["--photograph", "flower"], "--out")
    page = (lab.root / "results" / "CLAIMS.md").read_text()
    assert "| holds (stored run, whose code is the same) |" in page


def test_without_verdicts_or_a_run_it_is_said_what_to_do_first(lab, capsys):
    assert app.main(["verify", "--again", "M1"]) == 2
    assert re.search(
        r"there is no .*claims.json, which names the runs: python launch.py verify", capsys.readouterr().err
    )
    (lab.root / "results").mkdir()
    lab.page()
    assert app.main(["verify", "--again", "M1"]) == 2
    assert "kernels has no published run: python launch.py kernels, then publish" in capsys.readouterr().err


def test_help_says_what_is_computed_and_what_again_does(capsys):
    with pytest.raises(SystemExit) as stop:
        again.parse(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for words in ("--again ID [ID ...]", "Exit status", "published run", "resumes with the same command"):
        assert words in printed
