"""Break a run in every way that a machine can, and see that nothing is lost.

Each trial is the real command line in a process of its own: it is killed, signalled, its checkpoints are damaged, its
disk is filled or taken away; then the same command again has to end with the parameters of an undisturbed run, bit by
bit, and no stack trace may have been shown. Prints what was tried, how often, and how often nothing was lost, and
writes it to results/reliability.

    python -m tests.chaos                                   # 50 kills and every other fault
    python -m tests.chaos --kills 3 --each 1 --no-write     # the short form: one fault of every group
"""

import itertools
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from tests.chaos import trials
from tests.chaos.lab import ROOT, RUN, SEGMENTATION, TRAIN, Lab, Trial

TRAIN_KILLS = 15  # at most
RESULTS = ROOT / "results" / "reliability"


@dataclass(frozen=True)
class Options:
    """What to try."""

    kills: Annotated[int, tyro.conf.arg(help="How often a run is killed, in turn at random, starting, saving.")] = 50
    seed: Annotated[int, tyro.conf.arg(help="Of the moments.")] = 0
    each: Annotated[int | None, tyro.conf.arg(help="Faults of every group that are tried; default: all.")] = None
    write: Annotated[bool, tyro.conf.arg(help="Write results/reliability, where all is tried.")] = True


@dataclass(frozen=True)
class Group:
    """Faults of one kind: a heading, what a person can rely on, and the trials."""

    title: str
    promise: str
    trials: Callable[[Lab], Iterable[Trial]]


def groups(options: Options) -> list[Group]:
    """Return every group of faults."""

    def first(*parts: Iterable[Trial]) -> Iterable[Trial]:
        return itertools.islice(itertools.chain(*parts), options.each)

    return [
        Group(
            "The process is killed",
            "States are complete or not there, and the same command goes on from the newest. What is lost is the work "
            "since it was saved: at most an epoch, or `--save-every` minutes.",
            lambda lab: trials.kill(lab, options.kills, options.seed),
        ),
        Group(
            "The process is killed, of `train` on a folder of images",
            f"`python launch.py {' '.join(TRAIN)}` also ends with the same `weights.safetensors`, byte for byte.",
            lambda lab: trials.kill(lab.of_train(), min(options.kills, TRAIN_KILLS), options.seed, ", train"),
        ),
        Group(
            "The process is killed, of `train --task segmentation` on a folder of images and masks",
            f"`python launch.py {' '.join(SEGMENTATION)}` ends with the same bytes of weights, too.",
            lambda lab: trials.kill(lab.of_segmentation(), min(options.kills, TRAIN_KILLS), options.seed, ", masks"),
        ),
        Group(
            "The process is asked to stop",
            "SIGTERM and Ctrl-C save first and print the command that goes on. A second signal, from a second later "
            "on, stops at once; what was saved before is intact.",
            lambda lab: first(trials.signals(lab), trials.second_signals(lab)),
        ),
        Group(
            "Two runs in one directory",
            "A directory belongs to one process at a time; the lock of a dead one is taken over.",
            trials.two_runs,
        ),
        Group(
            "Checkpoints are damaged",
            "Each has a checksum. A damaged one is set aside and the one before it used; where all are damaged the run "
            "is refused and nothing changed. Summary and config appear whole or not at all.",
            lambda lab: first(trials.leftovers(lab), trials.damage(lab), trials.damage_all(lab)),
        ),
        Group(
            "The disk is full, read-only, or gone",
            "Training goes on without what cannot be saved, says so, and saves again once that is possible; lines of "
            "metrics and TensorBoard's events wait in memory. Where the directory itself is gone the run stops.",
            lambda lab: first(trials.full_disk(lab), trials.read_only(lab), trials.vanished(lab)),
        ),
        Group(
            "The loss is not finite",
            "No such state is saved. The run stops and names the step, or leaves its batch out.",
            lambda lab: first(trials.not_finite(lab)),
        ),
    ]


def main() -> int:
    """Run the trials, print the table, write it; exit status 1 if anything was lost."""
    options = tyro.cli(Options, prog="python -m tests.chaos", description=__doc__)
    console, tried = Console(stderr=True), {}
    with tempfile.TemporaryDirectory(prefix="cnnjax-chaos-") as temporary:
        lab = Lab(Path(temporary))
        for group in groups(options):
            tried[group.title] = []
            for trial in group.trials(lab):
                console.print(f"{trial.name}: {trial.passed} of {trial.tried}; {trial.seen}", highlight=False)
                tried[group.title].append(trial)
    everything = [trial for some in tried.values() for trial in some]
    table = Table("what was tried", "how often", "nothing lost", "seen")
    for trial in everything:
        table.add_row(trial.name, str(trial.tried), str(trial.passed), trial.seen)
    Console().print(table)
    if options.write and options.kills >= Options.kills and options.each is None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "README.md").write_text(page(groups(options), tried))
    return int(any(trial.passed < trial.tried for trial in everything))


def page(groups: list[Group], tried: dict[str, list[Trial]]) -> str:
    """Return what survives what, as Markdown: what a person can rely on, and how often it was tried."""
    everything = [trial for some in tried.values() for trial in some]
    parts = [
        "# What survives what",
        "Written by `python -m tests.chaos`: the real command line in processes of their own is broken as below, and "
        "the same command run again. Nothing was lost if that ends with the parameters of an undisturbed run, bit by "
        f"bit, and no stack trace was shown: {sum(trial.passed for trial in everything)} of "
        f"{sum(trial.tried for trial in everything)} times.",
        f"    python launch.py {' '.join(RUN)}",
    ]
    for group in groups:
        rows = [f"| {trial.name} | {trial.tried} | {trial.passed} | {trial.seen} |" for trial in tried[group.title]]
        head = ["| what was tried | how often | nothing lost | seen |", "| --- | --- | --- | --- |"]
        parts += [f"## {group.title}", group.promise, "\n".join(head + rows)]
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "orbax-checkpoint"))
    return "\n\n".join([*parts, f"On {machine}, {versions}.\n"])


if __name__ == "__main__":
    sys.exit(main())
