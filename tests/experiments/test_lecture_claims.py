"""No claim of the ledger's parts that need no long training is missing, and none fails."""

import pytest

from experiments import load_experiment

EXPERIMENTS = {  # and the claims of each
    "convolution": {"B1", "B2", "B6", "B7", "B8", "B9", "B10", "B13"},
    "kernels": {"B4", "B5"},
    "learn-kernel": {"B11"},
    "strides-and-padding": {"B3", "B12", "C1", "C2", "C3", "C8", "C9", "C11"},
    "arithmetic": {"C4", "C5", "C6", "C7", "C10"},
    "pooling": {"D1", "D2", "D3", "D4", "D5", "D6", "D7"},
    "receptive-field": {"E1", "E2", "E3"},
    "upsampling": {"F1", "F2"},
    "checkerboard": {"F3"},
    "activations": {"G1", "G2"},
}
LEDGER = {"B": 13, "C": 11, "D": 7, "E": 3, "F": 3, "G": 2}  # claims of each section, D8 and the later ones are trained


@pytest.fixture(scope="module")
def claims():
    return {name: load_experiment(name).claims(None) for name in EXPERIMENTS}


def test_the_ledger_s_claims_are_all_there():
    expected = {f"{section}{number}" for section, count in LEDGER.items() for number in range(1, count + 1)}
    assert set().union(*EXPERIMENTS.values()) == expected


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_has_a_row_also_without_a_run_and_nothing_fails(claims, name):
    assert {claim.id for claim in claims[name]} == EXPERIMENTS[name]
    assert [claim for claim in claims[name] if not claim.ok and not claim.verdict.startswith("not run")] == []


def test_the_errata_are_those_that_were_found(claims):
    errata = [c.id for rows in claims.values() for c in rows if c.verdict.startswith("erratum")]
    assert sorted(errata) == sorted(["B3", "B4", "B5", "B9", "B10", "C6", "C6", "C6", "C8", "D3", "F3", "G1", "G1"])


def test_every_row_is_complete_and_no_two_are_the_same(claims):
    rows = [claim for part in claims.values() for claim in part]
    assert [claim for claim in rows if not all(claim) and not claim.verdict.startswith("not run")] == []
    assert len({(claim.id, claim.statement) for claim in rows}) == len(rows)
