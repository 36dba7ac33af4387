"""No claim of the ledger's parts on convolution and its arithmetic is missing, and none fails."""

import pytest

from experiments import load_experiment

EXPERIMENTS = ("convolution", "kernels", "learn-kernel", "strides-and-padding", "arithmetic")


@pytest.fixture(scope="module")
def claims():
    return [claim for name in EXPERIMENTS for claim in load_experiment(name).claims(None)]


def test_every_claim_from_b1_to_b13_and_c1_to_c11_has_a_row(claims):
    expected = {f"B{number}" for number in range(1, 14)} | {f"C{number}" for number in range(1, 12)}
    assert {claim.id for claim in claims} == expected


def test_every_row_holds_or_is_a_confirmed_erratum(claims):
    assert [claim for claim in claims if not claim.ok] == []


def test_the_errata_are_those_that_were_found(claims):
    errata = [claim.id for claim in claims if claim.verdict.startswith("erratum: the deck says")]
    assert sorted(errata) == ["B10", "B3", "B4", "B5", "B9", "C6", "C6", "C6", "C8"]


def test_every_row_says_what_the_deck_has_what_we_have_and_how_far_they_may_be_apart(claims):
    assert [claim for claim in claims if not all(claim)] == []


def test_no_two_rows_are_the_same(claims):
    assert len({(claim.id, claim.statement) for claim in claims}) == len(claims)
