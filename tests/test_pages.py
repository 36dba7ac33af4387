"""What README and docs show: commands parse, Python names exist, the tour's quick commands run, and so do notebooks."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from cnnjax.lab import app, options

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")))]
COMMAND = re.compile(r"(?:python launch\.py|^    cnnjax) ([^`\n]+)", re.MULTILINE)


class ParsedError(Exception):
    """Ends a command once its options are parsed."""


def commands(page):
    """Every command of a page that stands alone in a line, or in a cell of a table."""
    text = (ROOT / page).read_text()
    shown = [*re.findall(r"^    .*$", text, re.MULTILINE), *re.findall(r"^\|.*$", text, re.MULTILINE)]
    found = [words for line in shown for words in COMMAND.findall(line)]
    return [words.removesuffix(" &") for words in found if "..." not in words and "EXPERIMENT" not in words]


def parse_only(words, monkeypatch):
    """Run a command as far as its options are parsed and checked; True if it parses any."""
    real = options._cli

    def parsed(*arguments, **settings):
        found = real(*arguments, **settings)
        if not settings.get("return_unknown_args"):
            options._instances(found)
            raise ParsedError
        return found

    monkeypatch.setattr(options, "_cli", parsed)
    try:
        app.command(words[0])(words[1:])
    except ParsedError:
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_parses(page, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    without_options = ("verify", "report", "publish", "list", "bench", "compare", "help")
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if not words or words[0] in without_options:
            assert not words or app.command(words[0]) or words[0] == "compare"
        elif words[0].startswith("-") or words[0].endswith(".py") or "--help" in words:
            assert words[0].endswith(".py") or app.command(words[0])
        else:
            assert parse_only(words, monkeypatch), command


def test_an_option_that_is_not_there_would_be_seen(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse_only(["train", "--image-sise", "64"], monkeypatch)
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        parse_only(["predict", "RUN", "photo.jpg", "--top", "0"], monkeypatch)


def names_in(code):
    """The dotted names of our packages in a piece of Python: "train.Recipe", with the arguments that it is given."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id, node.attr


def test_the_python_of_the_table_for_newcomers_names_what_there_is():
    page, checked = (DOCS / "elsewhere.md").read_text(), 0
    for row in re.findall(r"^\| .* \|$", page, re.MULTILINE):
        for code in re.findall(r"`([^`]+)`", row.split(" | ")[-1]):
            if code.startswith("python ") or not re.search(r"[(.=]", code):
                continue
            for package, name in names_in(code):
                if package in ("data", "interop", "models", "runs", "tasks", "train"):
                    assert hasattr(importlib.import_module(f"cnnjax.{package}"), name), code
                    checked += 1
    assert checked > 30


def test_the_quick_commands_of_the_tour_draw_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "kernels --out tour/kernels" in commands("docs/tour.md")
    assert app.main(["kernels", "--out", "tour/kernels"]) == 0
    assert (tmp_path / "tour" / "kernels" / "figures" / "china.png").exists()
    assert (tmp_path / "tour" / "kernels" / "report.md").exists()


# ---------------------------------------------------------------- notebooks


def smaller(source):
    """The same with less work: fewer epochs and images."""
    for ours, tiny in {"epochs=4": "epochs=1", "epochs=10": "epochs=1", "0.1)": "0.9)", "300 if": "90 if"}.items():
        source = source.replace(ours, tiny)
    return source


@pytest.mark.parametrize("name", ["tour", "own_data"])
def test_a_notebook_runs_from_top_to_bottom_and_is_stored_without_outputs(name, tmp_path, monkeypatch, capsys):
    notebook = json.loads((DOCS / f"{name}.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in code:
        source = smaller("".join(cell["source"]))
        exec(compile(source, f"{name}.ipynb", "exec"), names)
        plt.close("all")
    if name == "tour":
        assert names["change"]["change of the maximum"] == 0 < names["change"]["mean change of a place"]
        assert (names["three"], names["one"]) == (7, 7)
        assert len(names["predictions"]) == 12
    else:
        assert names["photos"].class_names == ("1", "4", "7")
        assert names["logits"].shape == (6, 3)
        assert (tmp_path / "digits.safetensors").exists()
