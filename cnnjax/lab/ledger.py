"""What is written down of the lectures: which there are, everything checkable that they state, and captions.

The tables lie beside the experiments; of the statements, some have a claim that checks them, and some not yet.
"""

import csv
from collections.abc import Sequence
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


class Lecture(NamedTuple):
    """A lecture: its short name in all texts, its title, and where it was given."""

    id: str
    title: str
    where: str


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a table that lies beside the experiments; none outside of a checkout."""
    for folder in workspace.find().experiments:
        if (folder / name).exists():
            with (folder / name).open(newline="") as rows:
                return list(csv.DictReader(rows))
    return []


def read() -> list[Entry]:
    """Return all entries, none outside of a checkout."""
    return [Entry(row["id"], tuple(row["lectures"].split()), row["statement"]) for row in rows_of("ledger.csv")]


def lectures() -> list[Lecture]:
    """Return all lectures, none outside of a checkout."""
    return [Lecture(**row) for row in rows_of("lectures.csv")]


def captions(experiment: str) -> dict[str, str]:
    """Return what the figures of an experiment of the lectures show, by the names of their files without suffix."""
    return {row["figure"]: row["caption"] for row in rows_of("captions.csv") if row["experiment"] == experiment}


def open_entries(claims: Sequence[Claim]) -> list[Entry]:
    """Return the entries that no claim checks."""
    checked = {claim.id for claim in claims}
    return [entry for entry in read() if entry.id not in checked]
