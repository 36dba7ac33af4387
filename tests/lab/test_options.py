"""Options say in their types and in --help what they may be, and nothing else is taken."""

import dataclasses
import importlib
import math
from typing import Annotated, Literal

import pytest

from cnnjax import data, options, tasks, train
from cnnjax.errors import UserError
from cnnjax.lab import app, experiments
from cnnjax.lab.app import benches
from cnnjax.lab.options import Directory, Execution, describe, find_run, parse, resuming, with_flags
from cnnjax.lab.slurm import Slurm
from cnnjax.lab.sweep import Sweep
from cnnjax.options import Checked, Count, kinds

COMMANDS = {
    **{name: experiments.load(name).Config for name in experiments.files()},
    **{f"bench {name}": importlib.import_module(f"experiments.bench.{name}").Options for name in benches()},
    "sweep": Sweep,
    "submit": Slurm,
    "directory": Directory,
    "execution": Execution,
}
ANY_INTEGER = kinds(tasks.ClassificationLoss)["ignore_index"].range
NO_NUMBER = (math.nan, math.inf, None, "1")
# range: values that are taken, values that are refused
RANGES = {
    "AnyInteger": ((-1, 0, 255), (1.5, *NO_NUMBER)),
    "Positive": ((1e-30, 1e30, 1), (0.0, -1.0, *NO_NUMBER)),
    "NotNegative": ((0.0, 1e30), (-1e-9, *NO_NUMBER)),
    "Fraction": ((1e-9, 0.999), (0.0, 1.0, *NO_NUMBER)),
    "FractionOrZero": ((0.0, 0.999), (-1e-9, 1.0, *NO_NUMBER)),
    "Count": ((1, 1000), (0, -1, 1.5, None)),
    "CountOrZero": ((0, 1000), (-1, 1.5, None)),
    "Seed": ((0, 2147483647), (-1, 2147483648, 0.5, None)),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_range_takes_what_it_says_and_nothing_else(name):
    part = dataclasses.make_dataclass("Part", [("field", getattr(options, name))], bases=(Checked,), frozen=True)
    taken, refused = RANGES[name]
    for value in taken:
        part(value)
    for value in refused:
        with pytest.raises(UserError, match=f"`field` must be {kinds(part)['field'].range.text}, got {value!r}"):
            part(value)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_a_range_and_every_option_a_help_that_says_it(command):
    texts = describe(COMMANDS[command])
    for name, kind in kinds(COMMANDS[command]).items():
        assert kind.range or kind.type not in (int, float), name
        text = kind.range.text if kind.range else ""
        assert len(texts[name]) > len(text) + 3, name
        assert text.lower() in texts[name].lower()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_before_any_work_what_is_out_of_range(command):
    part = COMMANDS[command]
    for name, kind in kinds(part).items():
        if kind.type in (int, float):
            for value in (math.nan,) if kind.range is ANY_INTEGER else (-1, math.nan):
                with pytest.raises(UserError, match=f"`{name}` must be"):
                    part(**{name: value})
        if kind.choices:
            with pytest.raises(UserError, match=f"unknown `{name}` '{kind.choices[0]}y': did you mean"):
                part(**{name: f"{kind.choices[0]}y"})


@dataclasses.dataclass(frozen=True)
class Sized(Checked):
    size: Count | None = None
    share: Annotated[float | None, "a note"] = None
    mode: Literal["fast", "exact"] = "fast"


def test_what_is_optional_may_be_none():
    assert Sized(None) == Sized()
    assert kinds(Sized)["share"].type is float
    with pytest.raises(UserError, match="unknown `mode` None"):
        Sized(mode=None)


@pytest.mark.parametrize(
    ("part", "field", "names"),
    [
        (train.Recipe, "optimizer", train.OPTIMIZERS),
        (train.Recipe, "schedule", train.SCHEDULES),
        (tasks.ClassificationLoss, "loss", tasks.LOSSES),
    ],
)
def test_the_choices_of_an_option_are_the_names_of_its_registry(part, field, names):
    assert kinds(part)[field].choices == tuple(names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 2147483646, "seeds": 3}, "`seeds` must be at most 2 with `seed=2147483646`, got 3"),
        ({"epochs": 5, "warmup_epochs": 5.0}, "`warmup_epochs` must be less than the 5 epochs"),
        ({"epochs": 5, "schedule": "step", "decay_epochs": 5.0}, "`decay_epochs=5.0` after 0 epochs of warm-up"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, message):
    last = list(given)[-1]
    train.Recipe(**given | {last: given[last] - 1})
    with pytest.raises(UserError, match=message):
        train.Recipe(**given)


def test_the_help_of_augment_has_every_option_of_every_augmentation():
    text = describe(train.Recipe)["augment"]
    for name, given in data.augment.OPTIONS.items():
        assert name in text
        assert all(f"{option} {what}" in text for option, what in given.items())


def test_a_command_line_makes_the_dataclasses():
    line = "--optimizer nesterov --lr 0.1 --momentum 0.8 --loss focal --focal-gamma 1 --lr-factors fc=10 --out here"
    line += " --no-gradient-norm --sync-batch-norm --distributed --stream never"
    parts = (train.Recipe, tasks.ClassificationLoss, data.Source, Directory, Execution)
    recipe, loss, source, directory, execution = parse("x", "", line.split(), *parts)
    assert loss == tasks.ClassificationLoss("focal", focal_gamma=1.0)
    expected = {"optimizer": "nesterov", "lr": 0.1, "momentum": 0.8}
    assert recipe == train.Recipe(**expected, lr_factors="fc=10", sync_batch_norm=True)
    assert source == data.Source(stream="never")
    assert (str(directory.out), execution.distributed) == ("here", ())


@pytest.mark.parametrize(
    ("message", "translated"),
    [
        ("`lr` must be larger than 0, got 0", "--lr must be larger than 0, got 0"),
        ("try `clip_norm=1`, or `on_nan='rollback'`", "try --clip-norm 1, or --on-nan rollback"),
        ("choose another directory (`out`)", "choose another directory (--out)"),
        ("add `overwrite=True`", "add --overwrite"),
        ("leave out `overwrite=False`", "leave out --no-overwrite"),
        ("`augment='mirror rotate'`", "--augment 'mirror rotate'"),
        ("`distributed=HOST:PORT PROCESSES INDEX`", "--distributed HOST:PORT PROCESSES INDEX"),
        ("`shape` and `layer1.conv` stay", "`shape` and `layer1.conv` stay"),
    ],
)
def test_a_message_names_the_options_of_the_command_as_flags(message, translated):
    names = {**kinds(train.Recipe), **kinds(Directory), **kinds(Execution)}
    assert with_flags(message, names) == translated


def test_another_folder_of_the_same_name_is_another_run(tmp_path):
    (tmp_path / "train").mkdir()
    paths = set()
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).touch()
        config = COMMANDS["fcn-vs-cnn"](data=str(tmp_path))
        paths.add(find_run("fcn-vs-cnn", config, Directory(), Execution()).path)
    assert len(paths) == 2


@pytest.mark.parametrize(
    ("started", "typed"),
    [
        ("/usr/bin/cnnjax", "cnnjax"),
        (r"C:/Scripts/cnnjax.exe", "cnnjax"),
        ("/lib/cnnjax/__main__.py", "python -m cnnjax"),
        ("launch.py", "python launch.py"),
        ("/lib/other/__main__.py", "python launch.py"),
    ],
)
def test_messages_and_help_name_the_program_as_it_was_started(started, typed, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [started])
    assert resuming(["train", "--overwrite"]) == f"{typed} train"
    assert app.main(["help"]) == 0
    assert f"\n  {typed} train " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        app.main(["predict", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"usage: {typed.replace('python launch.py', 'launch.py')} predict" in printed
    assert f"{typed} predict results/runs/RUN photo.jpg" in printed
    assert (typed == "python launch.py") == ("launch.py" in printed)
