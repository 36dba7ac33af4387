"""Claims are of the lectures' ledger, complete in the parts that need no long training, and none fails."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from cnnjax.lab import experiments, ledger
from cnnjax.lab.claims import from_json

# The claims of each experiment; those that are errata of a lecture, as often as they are; those that need a run.
EXPERIMENTS = {
    "convolution": ("B1 B2 B6 B7 B8 B9 B10 B13", "B9 B10", ""),
    "kernels": ("B4 B5", "B5 B5", ""),
    "learn-kernel": ("B11", "", ""),
    "strides-and-padding": ("B3 B12 C1 C2 C3 C8 C9 C11", "B3 C8", ""),
    "arithmetic": ("C4 C5 C6 C7 C10", "C6 C6 C6 C6", ""),
    "pooling": ("D1 D2 D3 D4 D5 D6 D7", "D3", ""),
    "receptive-field": ("E1 E2 E3", "", "E2"),
    "upsampling": ("F1 F2", "", ""),
    "checkerboard": ("F3", "", "F3"),
    "activations": ("G1 G2", "", ""),
}
LEDGER = {"B": 13, "C": 11, "D": 7, "E": 3, "F": 3, "G": 2}  # claims of each section, D8 and the later ones are trained


RESULTS = Path(__file__).parents[2] / "results"
SECTIONS = {"A": 6, "B": 13, "C": 11, "D": 11, "E": 4, "F": 5, "G": 13, "H": 12, "I": 6, "J": 13}  # of the lectures


def test_every_claim_is_of_the_ledger_and_what_is_open_is_printed(capsys):
    entries = ledger.read()
    assert [entry.id for entry in entries] == [
        f"{name}{n + 1}" for name, count in SECTIONS.items() for n in range(count)
    ]
    assert all(entry.lectures and entry.statement for entry in entries)
    checked = json.loads((RESULTS / "claims.json").read_text())
    claims = [from_json(row) for of_one in checked.values() for row in of_one["claims"]]
    ids = {claim.id for claim in claims}
    assert ids <= {entry.id for entry in entries}
    waiting = [entry for entry in entries if entry.id not in ids]
    assert ledger.open_entries(claims) == waiting
    with capsys.disabled():
        print(f"\nopen: {len(waiting)} of {len(entries)}: {' '.join(entry.id for entry in waiting)}")
    said = re.search(r"open: (\d+) of the ledger's (\d+) statements", (RESULTS / "CLAIMS.md").read_text())
    assert [int(number) for number in said.groups()] == [len(waiting), len(entries)]


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
