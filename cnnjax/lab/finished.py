"""What `predict`, `evaluate` and `export` share: the network that they take, and results as a table."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cnnjax import models, train
from cnnjax.errors import UserError, unknown_name
from cnnjax.interop.hub import WEIGHTS
from cnnjax.lab import imported, workspace
from cnnjax.lab.imported import Origin


def trained_of(command: str, run: str, origin: Origin | None = None) -> train.Trained:
    """Return the network of a run, of a file of weights, or of published weights.

    Args:
        command: who asks.
        run: directory of a run or its weights, or the name of a directory in results/runs; a file of other weights; or
            the name of a network.
        origin: what such a file does not say.

    Raises:
        UserError: nothing is named, there is nothing of that name (the nearest one is suggested), or it has no network.
    """
    place, origin = workspace.find(), origin or Origin()
    known = sorted(path.parent.name for path in place.runs.glob(f"*/{train.trained.MODEL}"))
    if not run:
        there = f"; there are {', '.join(known)}" if known else ""
        raise UserError(
            f"{command} takes a run of train, its directory or its name in {place.runs}{there}; or the name of a "
            "network, for its published weights; or a file of weights"
        )
    for path in (Path(run), place.runs / run):
        if not path.exists():
            continue
        if path.is_file() and not (path.parent / train.trained.MODEL).is_file():
            return imported.from_file(path, origin)
        if origin.given():
            raise UserError(f"`{origin.given()[0]}` is for weights from elsewhere: {path} says it itself")
        return train.load(path)
    if run in models.list_models():
        return imported.by_name(run, origin)
    if Path(run).parent == Path() and not Path(run).suffix:
        raise unknown_name("run or network", run, [*known, *WEIGHTS])
    return train.load(run)  # which says what is nearest there


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 1) -> None:
    """Print a table; the columns from `numbers` on are aligned on the right."""
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place < numbers else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
