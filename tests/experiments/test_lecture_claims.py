"""No claim of the ledger's parts that need no long training is missing, and none fails."""

from collections import Counter

import pytest

from cnnjax.lab import experiments

# The claims of each experiment; those that are errata of a lecture, as often as they are; those that need a run.
EXPERIMENTS = {
    "convolution": ("B1 B2 B6 B7 B8 B9 B10 B13", "B9 B10", ""),
    "kernels": ("B4 B5", "B4 B5 B5", ""),
    "learn-kernel": ("B11", "", ""),
    "strides-and-padding": ("B3 B12 C1 C2 C3 C8 C9 C11", "B3 C8", ""),
    "arithmetic": ("C4 C5 C6 C7 C10", "C6 C6 C6", ""),
    "pooling": ("D1 D2 D3 D4 D5 D6 D7", "D3", ""),
    "receptive-field": ("E1 E2 E3", "", "E2"),
    "upsampling": ("F1 F2", "", ""),
    "checkerboard": ("F3", "F3", "F3"),
    "activations": ("G1 G2", "G1 G1", ""),
}
LEDGER = {"B": 13, "C": 11, "D": 7, "E": 3, "F": 3, "G": 2}  # claims of each section, D8 and the later ones are trained


def test_the_ledger_s_claims_are_all_there():
    expected = {f"{section}{number}" for section, count in LEDGER.items() for number in range(1, count + 1)}
    assert {id for ids, *_ in EXPERIMENTS.values() for id in ids.split()} == expected


@pytest.mark.published
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_has_a_complete_row_without_a_run_too_and_none_fails(name):
    ids, errata, runs = (text.split() for text in EXPERIMENTS[name])
    claims = experiments.load(name).claims(None)
    waiting = [claim for claim in claims if claim.verdict.startswith("not run")]
    computed = [claim for claim in claims if claim not in waiting]
    assert [claim.id for claim in waiting] == runs
    assert {claim.id for claim in claims} == set(ids)
    assert [claim for claim in computed if not (claim.ok and all(claim[:6]))] == []
    assert Counter(claim.id for claim in claims if claim.verdict.startswith("erratum")) == Counter(errata)
    assert len({(claim.id, claim.statement) for claim in claims}) == len(claims)
