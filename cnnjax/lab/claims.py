"""Statements of the lectures, and what checking them gave."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from cnnjax.lab import markdown


class Verdict(StrEnum):
    """What checking a claim gave; an erratum is a wrong statement of a lecture whose correction was confirmed."""

    HOLDS = "holds"
    FAILS = "fails"
    ERRATUM = "erratum"
    NOT_RUN = "not run"


class Claim(NamedTuple):
    """A statement of a lecture, checked.

    Attributes:
        id: in the ledger of claims, e.g. "A1".
        statement: what is claimed.
        deck: the lecture's value.
        ours: what was computed or measured.
        tolerance: how far the two may be apart, in words.
        verdict: what the comparison gave.
        reason: why it was not run, or what the lecture should say.
    """

    id: str
    statement: str
    deck: str
    ours: str
    tolerance: str
    verdict: Verdict
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the claim, or its correction, was confirmed."""
        return self.verdict in (Verdict.HOLDS, Verdict.ERRATUM)

    def cells(self) -> tuple[str, ...]:
        """Return the row of a table: all of the claim as text, the reason beside the verdict."""
        return (*self[:5], f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict))


def check(id: str, statement: str, deck: str, ours: str, tolerance: str, holds: bool) -> Claim:
    """Return a claim with the verdict that a comparison gave."""
    return Claim(id, statement, deck, ours, tolerance, Verdict.HOLDS if holds else Verdict.FAILS)


def erratum(id: str, statement: str, deck: str, right: str, tolerance: str, confirmed: bool) -> Claim:
    """Return a claim whose deck is wrong, with the right value and whether it was confirmed."""
    if not confirmed:
        return Claim(id, statement, deck, right, tolerance, Verdict.FAILS)
    return Claim(id, statement, deck, right, tolerance, Verdict.ERRATUM, f"the deck says {deck}, right is {right}")


def holds_or_erratum(
    id: str, statement: str, deck: str, ours: str, tolerance: str, *, holds: bool, confirmed: bool, correction: str
) -> Claim:
    """Return a claim that a measurement may confirm, correct, or neither.

    Args:
        id: as `Claim` has it, like what follows.
        statement: what is claimed.
        deck: the lecture's value.
        ours: what was measured.
        tolerance: how far the two may be apart.
        holds: whether the lecture is right.
        confirmed: whether the correction is, where the lecture is not.
        correction: what the lecture should say.
    """
    if holds or not confirmed:
        return check(id, statement, deck, ours, tolerance, holds)
    return Claim(id, statement, deck, ours, tolerance, Verdict.ERRATUM, correction)


def not_run(id: str, statement: str, reason: str) -> Claim:
    """Return a claim that nothing at hand can check, and why."""
    return Claim(id, statement, "", "", "", Verdict.NOT_RUN, reason)


def from_json(row: Sequence[Any]) -> Claim:
    """Return a claim as `verify` stored it."""
    id, statement, deck, ours, tolerance, verdict, reason = row
    return Claim(id, statement, deck, ours, tolerance, Verdict(verdict), reason)


def table(claims: Sequence[Claim]) -> str:
    """Return claims as a Markdown table; a verdict other than "holds" is set in bold."""
    rows = []
    for claim in claims:
        *cells, verdict = claim.cells()
        if claim.verdict is not Verdict.HOLDS:
            verdict = verdict.replace(claim.verdict, f"**{claim.verdict}**", 1)
        rows.append((*cells, verdict))
    return markdown.table(("claim", "what", "lecture", "here", "tolerance", "verdict"), rows)
