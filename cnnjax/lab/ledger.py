"""The ledger: everything checkable that the lectures state, whether or not a claim checks it already."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnnjax.lab import workspace
from cnnjax.lab.claims import Claim


class Entry(NamedTuple):
    """A statement of the lectures.

    Attributes:
        id: as claims have it, e.g. "A1".
        lectures: which state it, e.g. ("S0", "S4").
        statement: in short.
    """

    id: str
    lectures: tuple[str, ...]
    statement: str


def path() -> Path | None:
    """Return the file of the ledger, beside the experiments; None outside of a checkout."""
    return next((file for folder in workspace.find().experiments if (file := folder / "ledger.csv").exists()), None)


def read() -> list[Entry]:
    """Return all entries, none outside of a checkout."""
    file = path()
    if file is None:
        return []
    with file.open(newline="") as rows:
        return [Entry(row["id"], tuple(row["lectures"].split()), row["statement"]) for row in csv.DictReader(rows)]


def open_entries(claims: Sequence[Claim]) -> list[Entry]:
    """Return the entries that no claim checks."""
    checked = {claim.id for claim in claims}
    return [entry for entry in read() if entry.id not in checked]
