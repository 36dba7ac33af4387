"""Every number that a person can choose says in --help what it may be, and nothing else is taken."""

import dataclasses
import importlib
import math
import re
from typing import get_args, get_type_hints

import pytest

from cnnjax import data, train
from cnnjax.errors import UserError
from cnnjax.lab import experiments
from cnnjax.lab.app import benches
from cnnjax.lab.options import Execution
from cnnjax.lab.slurm import Slurm
from cnnjax.lab.sweep import Sweep

NO_NUMBER = (math.nan, math.inf)
ABOVE_0 = ("above 0", (1e-30, 1e30), (0.0, -1.0, *NO_NUMBER))
FROM_0 = ("at least 0", (0.0, 1e30), (-1e-9, *NO_NUMBER))
SHARE = ("between 0 and 1", (1e-9, 0.999), (0.0, 1.0, *NO_NUMBER))
BELOW_1 = ("in [0, 1)", (0.0, 0.999), (-1e-9, 1.0, *NO_NUMBER))
COUNT = ("at least 1", (1, 1000), (0, -1, 1.5))
FOCAL, STEP, MOMENTUM = {"loss": "focal"}, {"schedule": "step"}, {"optimizer": "momentum"}

# option: what its help says, values that are taken, values that are refused, options that it goes with
RANGES = {
    "label_smoothing": (*BELOW_1, {}),
    "focal_gamma": (*FROM_0, FOCAL),
    "focal_alpha": (*SHARE, FOCAL),
    "l1": (*FROM_0, {}),
    "l2": (*FROM_0, {}),
    "lr": (*ABOVE_0, {}),
    "momentum": (*BELOW_1, MOMENTUM),
    "weight_decay": (*FROM_0, {}),
    "warmup_epochs": ("at least 0 and less than --epochs", (0.0, 4.9), (-0.1, 5.0, *NO_NUMBER), {"epochs": 5}),
    "decay_rate": (*SHARE, STEP),
    "decay_epochs": ("above 0, of a step decay less than", (0.1, 4.9), (0.0, 5.0, *NO_NUMBER), STEP | {"epochs": 5}),
    "clip_norm": (*ABOVE_0, {}),
    "accumulate": ("from 1 to", (1, 1000), (0, -1, 1.5), {}),
    "ema": (*SHARE, {}),
    "epochs": (*COUNT, {}),
    "batch_size": (*COUNT, {}),
    "seed": ("from 0 to 2147483647", (0, 2147483647), (-1, 2147483648, 0.5), {}),
    "seeds": (*COUNT, {}),
    "image_size": ("at least 1", (), (0, -8), {}),  # taken ones read data: see tests/data
    "workers": ("at least 0", (), (-1,), {}),
    "distributed_wait": ("from 1 to a day's 86400", (1.0, 86400.0), (0.9, 86401.0, *NO_NUMBER), {}),
    "save_every": ("above 0", (1e-3, math.inf), (0.0, -1.0, math.nan), {}),
}
PARTS = {field.name: part for part in (train.Recipe, data.Source, Execution) for field in dataclasses.fields(part)}

COMMANDS = {
    **{name: experiments.load(name).Config for name in experiments.files()},
    **{f"bench {name}": importlib.import_module(f"experiments.bench.{name}").Options for name in benches()},
    "sweep": Sweep,
    "submit": Slurm,
}
RANGE = r"\b((?P<taken>at least|from|in \[)|above|between) ?(?P<lowest>[\d.]*\d)(( to| and|,) (?P<highest>\d+))?"


def help_of(part, option):
    return get_type_hints(part, include_extras=True)[option].__metadata__[0].help


def numbers(part):
    """The options of a dataclass that are numbers, with what they are."""
    hints = {field.name: get_type_hints(part)[field.name] for field in dataclasses.fields(part)}
    kinds = {option: {int, float} & {hint, *get_args(hint)} for option, hint in hints.items()}
    return {option: kind.pop() for option, kind in kinds.items() if kind}


def make(part, **options):
    made = part(**options)
    return made.dataset() if isinstance(made, data.Source) else made


def test_this_table_has_every_option_that_is_a_number():
    parts = (train.Recipe, data.Source, Execution)
    assert RANGES.keys() == {option for part in parts for option in numbers(part)}


@pytest.mark.parametrize("option", RANGES)
def test_the_help_says_the_range_that_is_enforced(option):
    words, taken, refused, others = RANGES[option]
    assert words in help_of(PARTS[option], option)
    for value in taken:
        make(PARTS[option], **others, **{option: value})
    for value in refused:
        with pytest.raises(UserError, match=f"--{option.replace('_', '-')} "):
            make(PARTS[option], **others, **{option: value})


@pytest.mark.parametrize(
    ("part", "option"),
    [pytest.param(part, option, id=f"{name} {option}") for name, part in COMMANDS.items() for option in numbers(part)],
)
def test_every_command_refuses_before_any_work_what_is_outside_the_range_in_its_help(part, option):
    said = re.search(RANGE, help_of(part, option))
    assert said, help_of(part, option)
    lowest, is_whole = float(said["lowest"]), numbers(part)[option] is int
    refused = [lowest - 1 if is_whole else lowest - 1e-9, -1.0] if said["taken"] else [lowest, -1.0]
    refused += [float(said["highest"]) + 1] if said["highest"] else []
    others = RANGES[option][-1] if option in RANGES and issubclass(part, train.Recipe) else {}
    for value in map(int, refused) if is_whole else [*refused, math.nan]:
        with pytest.raises(UserError, match=f"--{option.replace('_', '-')} "):
            make(part, **others, **{option: value})


def test_the_last_of_several_seeds_is_a_seed_too():
    assert train.Recipe(seed=2147483646, seeds=2).seeds == 2
    with pytest.raises(UserError, match="--seeds must be at most 2 from --seed 2147483646 on, got 3"):
        train.Recipe(seed=2147483646, seeds=3)


def test_the_help_of_augment_has_every_option_of_every_augmentation():
    for name, options in data.augment.OPTIONS.items():
        assert name in help_of(train.Recipe, "augment")
        assert all(f"{option} {what}" in help_of(train.Recipe, "augment") for option, what in options.items())
