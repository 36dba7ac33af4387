"""README's Python runs as it stands, its counts are those of the results, and its commands those that CI runs."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.processes
def test_the_package_is_used_as_shown(tmp_path, monkeypatch):
    (block,) = BLOCKS
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["slope"].shape == (3, 3, 8, 4)
    assert names["fit"].history["train/loss"][0] < 3
    assert not list(tmp_path.iterdir())


def test_the_claims_are_as_many_as_their_table_has():
    lectures = (ROOT / "docs" / "lectures.md").read_text()
    said = re.search(r"\[(\d+) rows\]\(../results/CLAIMS.md\), of which (\d+) are errata", lectures)
    written = re.search(r"(\d+) of \1 claims hold, (\d+) of them errata", (ROOT / "results" / "CLAIMS.md").read_text())
    assert said.groups() == written.groups()
    assert f"[{said[1]} checked claims]" in README


LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in PAGES)])
def test_every_link_leads_to_a_file_of_the_repository(page):
    folder = (ROOT / page).parent
    links = set(LINK.findall((ROOT / page).read_text()))
    made = {link for link in links if link.startswith("api/")}  # pages of the site alone
    assert [link for link in sorted(links - made) if not (folder / link).exists()] == []


COMMANDS = dict(word.split("=", 1) for word in shlex.split((ROOT / ".ci" / "commands").read_text(), comments=True))


@pytest.mark.parametrize(
    ("page", "names"), [("README.md", ("run", "test")), ("CONTRIBUTING.md", ("test", "parity", "lint", "docs"))]
)
def test_the_commands_that_a_page_shows_are_those_that_ci_runs(page, names):
    shown = [line.strip() for line in (ROOT / page).read_text().splitlines()]
    assert [name for name in names if COMMANDS[name] not in shown] == []


def test_ci_runs_every_command():
    assert set(COMMANDS) <= set(re.findall(r'^bash -c "\$(\w+)', (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
