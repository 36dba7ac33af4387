"""Experiments by name. One file is one experiment: its config, its run, its table and its claims.

A module here has: a docstring (what it shows, its command, its time, what to expect; the first line is the listing's),
`Config` (a frozen dataclass of options with defaults), `load(config)` (the data, before anything is written),
`run(config, data, run, parallel)` (returns the summary), `table(summary)` and `claims(summary)` (None where no run is
published).
"""

import importlib
from types import ModuleType
from typing import NamedTuple

from cnnjax.errors import unknown_name

EXPERIMENTS = {
    "fcn-vs-cnn": "experiments.fcn_vs_cnn",
    "augmentations": "experiments.augmentations",
    "convolution": "experiments.convolution",
    "kernels": "experiments.kernels",
    "learn-kernel": "experiments.learn_kernel",
    "strides-and-padding": "experiments.strides_and_padding",
    "arithmetic": "experiments.arithmetic",
    "architectures": "experiments.architectures",
    "animations": "experiments.animations",
    "pooling": "experiments.pooling",
    "receptive-field": "experiments.receptive_field",
    "upsampling": "experiments.upsampling",
    "checkerboard": "experiments.checkerboard",
    "activations": "experiments.activations",
}


class Claim(NamedTuple):
    """A statement of a lecture, checked.

    Attributes:
        id: in the ledger of claims, e.g. "A1".
        statement: what is claimed.
        deck: the lecture's value.
        ours: what was computed or measured.
        tolerance: how far the two may be apart, in words.
        verdict: "holds", "fails", "erratum: ...", or "not run: ...".
    """

    id: str
    statement: str
    deck: str
    ours: str
    tolerance: str
    verdict: str

    @property
    def ok(self) -> bool:
        """Whether the claim, or its correction, was confirmed."""
        return self.verdict == "holds" or self.verdict.startswith("erratum")


def check(id: str, statement: str, deck: str, ours: str, tolerance: str, holds: bool) -> Claim:
    """Return a claim with the verdict that a comparison gave."""
    return Claim(id, statement, deck, ours, tolerance, "holds" if holds else "fails")


def erratum(id: str, statement: str, deck: str, right: str, tolerance: str, confirmed: bool) -> Claim:
    """Return a claim whose deck is wrong, with the right value and whether it was confirmed."""
    verdict = f"erratum: the deck says {deck}, right is {right}" if confirmed else "fails"
    return Claim(id, statement, deck, right, tolerance, verdict)


def load_experiment(name: str) -> ModuleType:
    """Import an experiment.

    Raises:
        UserError: there is none of that name.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return importlib.import_module(EXPERIMENTS[name])
