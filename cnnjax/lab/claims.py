"""Statements of the lectures, and what checking them gave."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from cnnjax.lab import markdown

ROUNDING = 1e-5  # largest error of float32 sums, relative to the largest of them


class Verdict(StrEnum):
    """The result of a check; an erratum is a wrong statement of a lecture whose correction was confirmed."""

    HOLDS = "holds"
    FAILS = "fails"
    ERRATUM = "erratum"
    NOT_RUN = "not run"


class Claim(NamedTuple):
    """A statement of a lecture, checked.

    Attributes:
        id: in the ledger of claims, e.g. "A1".
        statement: what is claimed.
        lecture: the lecture's value.
        ours: what was computed or measured.
        tolerance: how far the two may be apart, in words.
        verdict: the result of the check.
        reason: why it was not run, or what the lecture should say.
        stored: what measured it before, if the verdict is about a stored result: an experiment's run, or a benchmark
            as "bench NAME"; "" if it was computed for the verdict.
        note: about that stored result, such as that its code has changed since.
    """

    id: str
    statement: str
    lecture: str
    ours: str
    tolerance: str
    verdict: Verdict
    reason: str = ""
    stored: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the claim, or its correction, was confirmed."""
        return self.verdict in (Verdict.HOLDS, Verdict.ERRATUM)

    def cells(self) -> tuple[str, ...]:
        """Return the claim as a table row, with the reason behind the verdict, and the note."""
        verdict = f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict)
        return (*self[:5], f"{verdict} ({self.note})" if self.note else verdict)


def check(id: str, statement: str, lecture: str, ours: str, holds: bool, tolerance: str = "exact") -> Claim:
    """Return a claim that holds or fails."""
    return Claim(id, statement, lecture, ours, tolerance, Verdict.HOLDS if holds else Verdict.FAILS)


def check_error(id: str, statement: str, lecture: str, error: float, tolerance: float = ROUNDING) -> Claim:
    """Return a claim that two computations of the same values agree: their distance is at most the tolerance."""
    return check(id, statement, lecture, f"{error:.0e} apart", error <= tolerance, f"{tolerance:g}")


def erratum(id: str, statement: str, lecture: str, right: str, confirmed: bool, tolerance: str = "exact") -> Claim:
    """Return a claim where the lecture is wrong, with the right value and whether it was confirmed."""
    correction = f"the lecture says {lecture}; right is {right}"
    return check_or_correct(
        id, statement, lecture, right, tolerance, holds=False, confirmed=confirmed, correction=correction
    )


def check_or_correct(
    id: str,
    statement: str,
    lecture: str,
    ours: str,
    tolerance: str = "exact",
    *,
    holds: bool,
    confirmed: bool,
    correction: str,
) -> Claim:
    """Return a claim that a measurement may confirm, correct, or neither.

    Args:
        id: as in `Claim`, like the next four.
        statement: what is claimed.
        lecture: the lecture's value.
        ours: what was measured.
        tolerance: how far the two may be apart.
        holds: whether the lecture is right.
        confirmed: whether the correction is right if the lecture is not.
        correction: what the lecture should say.
    """
    if holds or not confirmed:
        return check(id, statement, lecture, ours, holds, tolerance)
    return Claim(id, statement, lecture, ours, tolerance, Verdict.ERRATUM, correction)


def not_run(id: str, statement: str, reason: str) -> Claim:
    """Return a claim that could not be checked, and why."""
    return Claim(id, statement, "", "", "", Verdict.NOT_RUN, reason)


def stored(measured_by: str, *claims: Claim) -> list[Claim]:
    """Return claims that are about a stored result of an experiment, or of a benchmark as "bench NAME"."""
    return [claim._replace(stored=measured_by) for claim in claims]


def from_json(row: Sequence[Any]) -> Claim:
    """Return a claim as `verify` stored it."""
    claim = Claim(*row)
    return claim._replace(verdict=Verdict(claim.verdict))


def count(claims: Sequence[Claim]) -> str:
    """Return how many claims have each verdict: "97 hold, 0 fail, 11 are errata, 0 not run"."""
    verdicts = [claim.verdict for claim in claims]
    words = {Verdict.HOLDS: "hold", Verdict.FAILS: "fail", Verdict.ERRATUM: "are errata", Verdict.NOT_RUN: "not run"}
    return ", ".join(f"{verdicts.count(verdict)} {word}" for verdict, word in words.items())


def table(claims: Sequence[Claim]) -> str:
    """Return claims as a Markdown table; a verdict other than "holds" is set in bold."""
    rows = []
    for claim in claims:
        *cells, verdict = claim.cells()
        if claim.verdict is not Verdict.HOLDS:
            verdict = verdict.replace(claim.verdict, f"**{claim.verdict}**", 1)
        rows.append((*cells, verdict))
    return markdown.table(("claim", "what", "lecture", "here", "tolerance", "verdict"), rows)
