"""The report of a sweep: its cells side by side, the best one, and a figure."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cnnjax import runs, viz
from cnnjax.errors import unknown_name
from cnnjax.lab import markdown
from cnnjax.lab.grid import METRICS, Cell, default_metric, numbers
from cnnjax.lab.options import resuming
from cnnjax.lab.terminal import print_markdown

STATE = "sweep.json"


def write_report(cells: Sequence[Cell], metric: str | None, minimize: bool, folder: Path, command: str) -> None:
    """Write `report.md`, `figures/sweep.png` and `sweep.json` of the finished cells, and print the table.

    Args:
        cells: of the grid, in its order.
        metric: path of the number that they are compared by; None for the default.
        minimize: whether the lowest is the best, as it always is for a metric whose name ends in loss.
        folder: of the sweep.
        command: that runs the sweep again.

    Raises:
        UserError: no summary has that metric.
    """
    found = {path for cell in cells for path in numbers(cell.summary())}
    if metric and found and metric not in found:
        raise unknown_name("metric", metric, found)
    metric = metric or next((path for cell in cells if (path := value_of(cell, None)[0])), None)
    ranked = rank(cells, metric, minimize)
    write_state(cells, folder, metric, ranked)
    parts = [f"# Sweep of {cells[0].arguments[0]}", f"    {command}", table(ranked, metric, link=True)]
    print_markdown(table(ranked, metric))
    if found and metric is None:
        print(f"\nNo {' or '.join(METRICS)} to compare by; --metric takes one of {', '.join(sorted(found))}")
    if ranked[0].status == "finished" and metric:
        best = f"Best: {ranked[0].name}, in {ranked[0].path}. Its command:"
        again = f"    {resuming(ranked[0].arguments)}"
        parts += [best, again, "![sweep](figures/sweep.png)"]
        print(f"\n{best}\n{again}")
        viz.save(draw(cells, metric), folder / "figures" / "sweep.png")
    runs.write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    print(f"\nResults: {folder} (report.md, figures/, {STATE})")


def value_of(cell: Cell, metric: str | None) -> tuple[str | None, float | None]:
    """Return the path of the metric, or of the default one, and its value if the cell is finished, else None."""
    found = numbers(cell.summary())
    path = metric or default_metric(found)
    return path, found.get(path) if path else None


def rank(cells: Sequence[Cell], metric: str | None, minimize: bool) -> list[Cell]:
    """Return the cells, best first; those without the metric, or with nan, come last."""
    sign = 1 if minimize or (metric or "").endswith("loss") else -1

    def key(cell: Cell) -> float:
        value = value_of(cell, metric)[1]
        return math.inf if value is None or math.isnan(value) else sign * value

    return sorted(cells, key=key)


def write_state(cells: Sequence[Cell], folder: Path, metric: str | None = None, ranked: Sequence[Cell] = ()) -> None:
    """Write `sweep.json`: the grid, the state of each cell, and the best one once they are ranked."""
    rows = [
        {
            "name": cell.name,
            "folder": cell.path.name,
            "status": cell.status,
            "metric": value_of(cell, metric)[1],
            "seconds": cell.summary().get("seconds"),
            "job": cell.job,
        }
        for cell in cells
    ]
    best = next((cell.name for cell in ranked if cell.status == "finished"), None)
    state = {"experiment": cells[0].arguments[0], "grid": grid(cells), "metric": metric, "best": best, "cells": rows}
    runs.write_json(folder / STATE, state)


def grid(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Return the values of every swept option."""
    return {option: list(dict.fromkeys(cell.values[option] for cell in cells)) for option in cells[0].values}


def table(cells: Sequence[Cell], metric: str | None, link: bool = False) -> str:
    """Return the cells as a Markdown table, with a link to the report of each if wanted."""
    head = [*cells[0].values, metric or "no metric", "seconds", "status"]
    rows = []
    for cell in cells:
        value, seconds = value_of(cell, metric)[1], cell.summary().get("seconds")
        linked = link and cell.status == "finished"
        status = f"[finished]({cell.path.name}/report.md)" if linked else cell.status
        rows.append([*cell.values.values(), _number(value, ".5g"), _number(seconds, ".0f"), status])
    return markdown.table(head, rows)


def draw(cells: Sequence[Cell], metric: str) -> Figure:
    """Draw the metric against the first option, a line for each value of the second."""
    values = grid(cells)
    first, *rest = values
    second, others = rest[:1], rest[1:]
    found = {tuple(cell.values.values()): value_of(cell, metric)[1] for cell in cells}
    lines = {
        " ".join(f"{option}={value}" for option, value in zip(second, chosen, strict=True)): np.array(
            [
                [found[(value, *chosen, *other)] for value in values[first]]
                for other in itertools.product(*(values[option] for option in others))
            ],
            float,
        )
        for chosen in itertools.product(*(values[option] for option in second))
    }
    return viz.option_effect(first, values[first], lines, metric)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
