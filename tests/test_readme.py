"""README's Python runs as it stands, its counts are those of the results, and its commands those that CI runs."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(block, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_primitives_and_models_are_used_as_shown(tmp_path, monkeypatch):
    (block,) = (block for block in BLOCKS if "ops.conv2d" in block)
    names = run(block, tmp_path, monkeypatch)
    assert names["gradient"].shape == (3, 3, 8, 4)
    assert names["logits"].shape == (8, 10)


@pytest.mark.processes
def test_a_network_of_the_zoo_is_trained_as_shown(tmp_path, monkeypatch):
    (block,) = (block for block in BLOCKS if "train.fit" in block)
    names = run(block, tmp_path, monkeypatch)
    assert names["fit"].history["train/loss"][0] < 3
    assert (tmp_path / "results" / "runs" / "mine" / "metrics.jsonl").exists()


def test_every_block_of_python_is_one_of_these():
    assert len(BLOCKS) == 2


def test_the_claims_are_as_many_as_their_table_has():
    said = re.search(r"\[(\d+) rows\]\(results/CLAIMS.md\), of which (\d+) are errata", README)
    written = re.search(r"(\d+) of \1 claims hold, (\d+) of them errata", (ROOT / "results" / "CLAIMS.md").read_text())
    assert said.groups() == written.groups()


COMMANDS = dict(word.split("=", 1) for word in shlex.split((ROOT / ".ci" / "commands").read_text(), comments=True))


@pytest.mark.parametrize(
    ("page", "names"), [("README.md", ("run", "test")), ("CONTRIBUTING.md", ("test", "parity", "lint", "docs"))]
)
def test_the_commands_that_a_page_shows_are_those_that_ci_runs(page, names):
    shown = [line.strip() for line in (ROOT / page).read_text().splitlines()]
    assert [name for name in names if COMMANDS[name] not in shown] == []


def test_ci_runs_every_command():
    assert set(COMMANDS) <= set(re.findall(r'^bash -c "\$(\w+)', (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
