"""Compare runs: a table of what they found and how they differ, and their curves in one figure.

    python launch.py compare results/runs/train-1a2b3c4d results/runs/train-5e6f7a8b
    python launch.py compare train-1a2b3c4d train-5e6f7a8b --out comparison

Runs are directories or their names in results/runs, of `train` or of any experiment, finished or not. The table has the
options that are not the same in all of them, every figure that differs, and the best validation figure of each
training. The folder of --out gets curves.png (training dashed, validation solid; seeds as mean and range),
comparison.json and index.html.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from cnnjax import runs, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown, stored, workspace
from cnnjax.lab.finished import show_table
from cnnjax.lab.grid import numbers
from cnnjax.lab.options import parse
from cnnjax.lab.page import Figure, figures_html, lone_page, scrolling, to_html
from cnnjax.lab.stored import Stored
from cnnjax.options import Checked
from cnnjax.viz.figures import Curve

HIDDEN = {"experiment", "config", "file_sha256"}  # of a run's options
SPEED = ("lr", "seconds", "step_ms", "images_per_second", "flop_utilization", "gradient_norm")  # that are not drawn
# In this order where not all quantities are drawn.
BEST = {"loss": min, "accuracy": max, "mean_iou": max, "joint_iou": max}
PANELS = 3  # quantities that are drawn at most
MOST = 40  # figures in the table; comparison.json has all
CAPTION = (
    "The runs' curves over their epochs: training dashed, validation solid, bands from the least to the largest seed."
)


@dataclass(frozen=True)
class Compare(Checked):
    """What is compared."""

    run: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Directories of two or more runs, or their names in results/runs."""
    out: Path | None = None
    """Folder for the figure, the page and the JSON; default: results/runs/compare-<hash of the runs>."""


def main(arguments: Sequence[str]) -> int:
    """Compare, print the table, and write figure, page and JSON."""
    (options,) = parse("compare", __doc__, arguments, Compare)
    found = {stored_run.path.resolve(): stored_run for stored_run in map(stored.find, options.run)}
    if len(found) < 2:
        what = "the same run twice" if len(options.run) > 1 else f"{len(options.run)} of them"
        raise UserError(f"compare takes two or more runs, got {what}: name their directories")
    compared = name_runs(list(found.values()))
    for run in compared.values():
        if run.experiment.startswith(stored.SWEEP):
            raise UserError(f"{run.path} is a sweep, whose report.md compares its cells: name some of its cells")
    rows = table(compared)
    show_table(("", *compared), rows)
    folder = options.out or workspace.find().runs / f"compare-{runs.config_hash({'runs': sorted(map(str, found))})}"
    print(f"\nwrote {', '.join(write(folder, compared, rows))} to {folder}")
    return 0


def name_runs(found: Sequence[Stored]) -> dict[str, Stored]:
    """Return runs by the shortest ends of their paths that tell them apart."""
    parts = 1
    while len({run.path.resolve().parts[-parts:] for run in found}) < len(found):
        parts += 1
    return {"/".join(run.path.resolve().parts[-parts:]): run for run in found}


def table(compared: Mapping[str, Stored]) -> list[list[str]]:
    """Return the rows of the comparison: what a row is of, then a cell for each run; what is the same is left out."""
    all_runs = list(compared.values())
    rows = [["experiment", *(run.experiment for run in all_runs)], ["state", *(run.state for run in all_runs)]]
    rows += [[name.replace("_", "-"), *values] for name, values in differing_options(all_runs).items()]
    rows += [[name, *map(_shown, values)] for name, values in best_figures(all_runs).items()]
    summaries = [numbers(run.summary) for run in all_runs]
    names = dict.fromkeys(name for summary in summaries for name in summary)
    figures = {name: [summary.get(name) for summary in summaries] for name in names}
    finished = [place for place, run in enumerate(all_runs) if run.summary]

    def differs(values: Sequence[float | None]) -> bool:
        return len({values[place] for place in finished}) > 1 or len(finished) == 1

    differing = {name: values for name, values in figures.items() if name == "params" or differs(values)}
    rows += [[name, *map(_shown, values)] for name, values in list(differing.items())[:MOST]]
    more = len(differing) - MOST
    return rows + ([[f"and {more} more figures in comparison.json", *[""] * len(all_runs)]] if more > 0 else [])


def differing_options(found: Sequence[Stored]) -> dict[str, list[str]]:
    """Return the options that are not the same in all runs, as they are shown; "" where a run has no such option."""
    names = dict.fromkeys(name for run in found for name in run.config if name not in HIDDEN)
    options = {
        name: ["default" if run.config.get(name, "") is None else _shown(run.config.get(name)) for run in found]
        for name in names
    }
    return {name: values for name, values in options.items() if len(set(values)) > 1}


def best_figures(found: Sequence[Stored]) -> dict[str, list[float | None]]:
    """Return the best figures of `BEST` in validation so far; of several trainings in a run, their mean."""
    rows = {}
    for quantity, choose in BEST.items():
        curves = [[part.get(f"validation/{quantity}") for part in run.curves.values()] for run in found]
        values = [
            statistics.fmean(choose(curve) for curve in of_run if curve) if any(of_run) else None for of_run in curves
        ]
        if any(value is not None for value in values):
            rows[f"best validation {quantity.replace('_', ' ')}"] = values
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else np.format_float_positional(float(f"{value:.4g}"), trim="-")


# ---------------------------------------------------------------- files


def write(folder: Path, compared: Mapping[str, Stored], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write the figure, the page and the JSON; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    panels = curves(compared)
    figures = []
    if panels:
        viz.save(viz.curves(panels), folder / "curves.png")
        figures = [Figure(folder / "curves.png", CAPTION)]
    content = {
        name: {"path": str(run.path), "state": run.state, "config": run.config, "summary": run.summary}
        for name, run in compared.items()
    }
    runs.write_json(folder / "comparison.json", content)
    html = figures_html(figures, "") + "<h2>Options and results</h2>"
    html += scrolling(to_html(markdown.table(("", *compared), rows)), "Options and results")
    runs.write_text(folder / "index.html", lone_page("Comparison of runs", html, f"{len(compared)} runs."))
    return [*(figure.path.name for figure in figures), "comparison.json", "index.html"]


def curves(compared: Mapping[str, Stored]) -> dict[str, list[Curve]]:
    """Return what is drawn: by quantity, a curve for every run, network in it, and split."""
    panels: dict[str, list[Curve]] = {}
    colour = -1
    for name, run in compared.items():
        for network, parts in _by_network(run).items():
            colour += 1
            label = f"{name} {network}".strip()
            for key in dict.fromkeys(key for part in parts for key in part):
                split, _, quantity = key.partition("/")
                if quantity in SPEED:
                    continue
                values = [part[key] for part in parts if key in part]
                length = max(map(len, values))
                padded = np.array([[*curve, *[np.nan] * (length - len(curve))] for curve in values])
                style = ("--" if split == "train" else "-") + ("o" if length == 1 else "")
                panels.setdefault(quantity, []).append(Curve(f"{label}, {split}", padded, colour, style))
    order = [*(quantity for quantity in BEST if quantity in panels), *(one for one in panels if one not in BEST)]
    return {quantity.replace("_", " "): panels[quantity] for quantity in order[:PANELS]}


def _by_network(run: Stored) -> dict[str, list[Mapping[str, list[float]]]]:
    """Return the curves of a run's trainings, those that differ in their seed alone together."""
    networks: dict[str, list[Mapping[str, list[float]]]] = {}
    for tag, part in run.curves.items():
        head, _, last = tag.rpartition("/")
        networks.setdefault(head if last.startswith("seed") else tag, []).append(part)
    return networks
