"""What `predict`, `evaluate` and `export` share: the run whose network they take, and results as a table."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cnnjax import train
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import workspace


def trained_of(command: str, run: str) -> train.Trained:
    """Return the network of a run.

    Args:
        command: who asks.
        run: its directory or weights, or the name of a directory in results/runs.

    Raises:
        UserError: no run is named, there is none of that name (the nearest one is suggested), or it has no network.
    """
    place = workspace.find()
    known = sorted(path.parent.name for path in place.runs.glob(f"*/{train.trained.MODEL}"))
    if not run:
        there = f"; there are {', '.join(known)}" if known else ""
        raise UserError(f"{command} takes a run of train, its directory or its name in {place.runs}{there}")
    for path in (Path(run), place.runs / run):
        if path.exists():
            return train.load(path)
    if Path(run).parent == Path() and known:
        raise unknown_name("run", run, known)
    return train.load(run)  # which says what is nearest there


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 1) -> None:
    """Print a table; the columns from `numbers` on are aligned on the right."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place < numbers else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
