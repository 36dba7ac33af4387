"""The pages of one's own runs: one for each that lacks it, and an index of all of them."""

import re
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from cnnjax.errors import UserError
from cnnjax.lab import experiments, stored, workspace
from cnnjax.lab.experiments import Experiment, reading
from cnnjax.lab.grid import default_metric, numbers
from cnnjax.lab.page import inline, lone_page, scrolling
from cnnjax.lab.report import command, write_pages
from cnnjax.lab.stored import Stored
from cnnjax.lab.terminal import say
from cnnjax.runs import read_json, write_text

FOUND = "suggested_lr"  # what is shown of a run without a test accuracy or loss
COLUMNS = ("run", "options", "result", "seconds", "state", "changed")


class Row(NamedTuple):
    """A run in the index.

    Attributes:
        run: the run.
        link: what its name leads to, relative to the index; "" if there is nothing to see yet.
        options: those that differ from the defaults, as on the command line.
    """

    run: Stored
    link: str
    options: str


def main(arguments: Sequence[str]) -> int:
    """Write the site of the published runs and the index of one's own; given a folder, only the index of that."""
    place = workspace.find()
    if len(arguments) > 1:
        raise UserError(f"report takes nothing, or one folder of runs, got {' '.join(arguments)}")
    if arguments:
        report(Path(arguments[0]))
        return 0
    if place.experiments:
        from cnnjax.lab import published

        published.report(place.results, place.root / "docs")
    if not place.experiments or stored.all_in(place.runs):
        report(place.runs)
    return 0


def report(folder: Path) -> None:
    """Write the pages that runs in a folder lack, and its `index.html`; say what cannot be read.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if (folder / "config.json").is_file():
        run = stored.read(folder)
        if not run.summary:
            said = "its page is written when it finishes" if run.experiment else "only runs of commands have a page"
            raise UserError(f"{folder} is {run.state}: {said}")
        _write_page(run)
        print(f"wrote {folder / 'index.html'}")
        return
    rows, notices = [], list[str]()
    for path in stored.all_in(folder):
        try:
            rows.append(_row(folder, path, notices))
        except UserError as error:
            notices.append(f"{error}; left out")
    for notice in notices:
        say(notice)
    if not rows:
        raise UserError(f"there is no run in {folder}: expected a folder of runs, or the directory of one")
    write_text(folder / "index.html", index(folder, rows, notices))
    print(f"wrote {folder / 'index.html'}, of {len(rows)} run{'s' * (len(rows) > 1)}")


def _row(folder: Path, path: Path, notices: list[str]) -> Row:
    run, options = stored.read(path), ""
    if run.experiment.startswith(stored.SWEEP):
        return Row(run, _link(folder, path / "report.md"), "")
    if not run.experiment:  # of `train.fit` in a script, which nothing repeats
        return Row(run, "", "")
    try:
        experiment = _experiment(run)
        words = command(run.experiment, experiments.config_of(experiment, config=run.config), run.config)
        options = words.removeprefix(f"{workspace.find().command} {run.config.get('file', run.experiment)}").strip()
        if run.summary and not (path / "index.html").exists():
            _write_page(run)
    except UserError as error:
        notices.append(f"{path} has no page ({error})")
    return Row(run, _link(folder, path / "index.html"), options)


def _link(folder: Path, page: Path) -> str:
    return page.relative_to(folder).as_posix() if page.exists() else ""


def _write_page(run: Stored) -> None:
    with reading(run.path / "summary.json"):
        write_pages(run.path, run.experiment, _experiment(run), run.summary)


def _experiment(run: Stored) -> Experiment:
    """Return the experiment of a run; one's own is imported only if its file is still the one that ran."""
    file = run.config.get("file")
    if file is None:
        return experiments.load(run.experiment)
    if not Path(file).is_file() or experiments.identity(file)["file_sha256"] != run.config.get("file_sha256"):
        raise UserError(f"{file}, which ran, has changed or is gone")
    return experiments.load(file)


# ---------------------------------------------------------------- the index


def index(folder: Path, rows: Sequence[Row], notices: Sequence[str] = ()) -> str:
    """Return the page that lists runs, newest first."""
    head = "".join(f'<th scope="col">{title}</th>' for title in COLUMNS)
    table = "".join(f"<tr>{_cells(folder, row)}</tr>" for row in rows)
    table = f'<table class="claims runs"><thead><tr>{head}</tr></thead><tbody>{table}</tbody></table>'
    finished = sum(bool(row.run.summary) for row in rows)
    lead = f'<p class="lead">{len(rows)} runs, {finished} of them finished; the newest first.</p>'
    said = "".join(f'<p class="notice">{inline(notice)}</p>' for notice in notices)
    program = escape(workspace.find().command)
    note = f"Compare some of them with <code>{program} compare RUN RUN</code>."
    footer = (
        f"Written by <code>{program} report</code>. You can move this folder anywhere: it loads nothing from outside."
    )
    return lone_page("Your runs", f"{lead}{said}<p>{note}</p>{scrolling(table, 'Runs')}", footer)


def _cells(folder: Path, row: Row) -> str:
    run, name = row.run, escape(row.run.path.relative_to(folder).as_posix())
    state = _state_of_sweep(run) if run.experiment.startswith(stored.SWEEP) else run.state
    badge = "holds" if state == "finished" else "open"
    cells = (
        f'<a href="{escape(row.link)}">{name}</a>' if row.link else name,
        " ".join(f"<code>{escape(option)}</code>" for option in re.split(r" (?=--)", row.options) if option),
        escape(result(run)),
        f"{run.summary['seconds']:,.0f}" if isinstance(run.summary.get("seconds"), int | float) else "",
        f'<span class="verdict {badge}">{escape(state)}</span>',
        time.strftime("%Y-%m-%d %H:%M", time.localtime(stored.changed(run.path))),
    )
    return "".join(
        f'<td data-title="{title}"><div>{cell}</div></td>' for title, cell in zip(COLUMNS, cells, strict=True)
    )


def _state_of_sweep(run: Stored) -> str:
    cells = (read_json(run.path / "sweep.json") or {}).get("cells", [])
    done = sum(cell.get("status") == "finished" for cell in cells)
    return "finished" if cells and done == len(cells) else f"{done} of {len(cells)} cells finished"


def result(run: Stored) -> str:
    """Return the figure that a run is judged by, with its name; "" if it has none."""
    found = numbers(run.summary)
    name = default_metric(found) or (FOUND if FOUND in found else None)
    return f"{name.split('.')[-1].replace('_', ' ')} {found[name]:.4g}" if name else ""
