"""Break a run in every way that a machine can, and see that nothing is lost: `python -m tests.chaos`.

Each trial is the real command line in a process of its own: it is killed at random moments, its checkpoints are
damaged, its disk is filled, signals are sent; then the same command again has to end with the parameters of an
undisturbed run, bit by bit. Prints what was tried, how often, and what was lost, and writes it to results/reliability.

    python -m tests.chaos                # 50 kills; about 20 minutes on two cores
    python -m tests.chaos --kills 5      # the short form
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from tests.train.damage import DAMAGES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "reliability"
RUN = ["fcn-vs-cnn", "--data", "digits", "--epochs", "3", "--batch-size", "64", "--save-every", "0.01"]
NETWORKS = ("lecture-fcn", "lecture-cnn")
GRACE = 30  # seconds in which a signal has saved
FULL, ROOM = "64m", 60 << 20  # a small disk, and what fills it


@dataclass(frozen=True)
class Options:
    """What to try."""

    kills: Annotated[int, tyro.conf.arg(help="How often a run is killed at a random moment.")] = 50
    seed: Annotated[int, tyro.conf.arg(help="Of the moments.")] = 0
    write: Annotated[bool, tyro.conf.arg(help="Write results/reliability.")] = True


@dataclass
class Trial:
    """One way to break a run: how often it was tried, how often nothing was lost, and what was seen."""

    name: str
    tried: int = 0
    passed: int = 0
    seen: str = ""

    def count(self, passed: bool) -> None:
        self.tried += 1
        self.passed += passed


class Lab:
    """Runs the command in its own folder, with a cache of compiled programs that is warm after the first run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "CNNJAX_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}

    def start(self, out: Path, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "launch.py"), *RUN, *more, "--out", str(out)]
        return subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=self.environment
        )

    def finish(self, out: Path, *more: str) -> tuple[int, str]:
        process = self.start(out, *more)
        _, error = process.communicate()
        return process.returncode, error


def result(out: Path) -> str | None:
    """Return the fingerprint of a finished run's parameters; None if it is not finished."""
    path = out / "summary.json"
    return json.loads(path.read_text())["params_sha256"] if path.exists() else None


def saved_steps(out: Path) -> dict[str, list[int]]:
    """Return the steps of every network's complete states."""
    return {
        name: sorted(
            int(path.name) for path in (out / "checkpoints" / name / "seed0").glob("[0-9]*") if path.name.isdigit()
        )
        for name in NETWORKS
    }


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.02)


# ---------------------------------------------------------------- trials


def kill(lab: Lab, expected: str, seconds: float, options: Options) -> Trial:
    """`kill -9` at random moments of starting, training and saving, until all of them were had."""
    trial, rng, resumed = Trial("kill -9 at a random moment"), random.Random(options.seed), 0
    while trial.tried < options.kills:
        out = lab.folder / f"killed-{trial.tried}"
        while result(out) is None:
            process, before = lab.start(out), saved_steps(out)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=rng.uniform(0, seconds) if trial.tried < options.kills else None)
            if process.poll() is None:
                process.kill()
                process.communicate()
                kept = all(not steps or saved_steps(out)[name][-1] >= steps[-1] for name, steps in before.items())
                trial.count(kept)
                resumed += any(before.values())
            elif process.returncode:
                raise SystemExit(f"the run in {out} failed by itself with exit status {process.returncode}")
        if result(out) != expected:
            trial.passed = 0
            trial.seen = f"other parameters in {out}"
            return trial
        shutil.rmtree(out)
    trial.seen = f"{resumed} of them of a run that had gone on from a state; all ended with the same parameters"
    return trial


def damage(lab: Lab, expected: str, interrupted: Path) -> Iterator[Trial]:
    """The newest state damaged, then all of them."""
    for name, spoil in DAMAGES.items():
        trial, out = Trial(f"newest checkpoint: {name}"), lab.folder / "damaged"
        shutil.copytree(interrupted, out)
        folder = out / "checkpoints" / NETWORKS[0] / "seed0"
        spoil(folder / str(saved_steps(out)[NETWORKS[0]][-1]))
        _, error = lab.finish(out)
        trial.count(result(out) == expected and "is damaged" in error)
        trial.seen = "noticed, said, the one before it used; same parameters"
        shutil.rmtree(out)
        yield trial
    trial, out = Trial("every checkpoint damaged"), lab.folder / "damaged"
    for spoil in DAMAGES.values():
        shutil.copytree(interrupted, out)
        folder = out / "checkpoints" / NETWORKS[0] / "seed0"
        for step in saved_steps(out)[NETWORKS[0]]:
            spoil(folder / str(step))
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        status, error = lab.finish(out)
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        trial.count(status == 2 and "every checkpoint" in error and before == after)
        shutil.rmtree(out)
    trial.seen = "refused with exit status 2, nothing changed"
    yield trial


def signals(lab: Lab, expected: str) -> Iterator[Trial]:
    """SIGTERM and Ctrl-C: saved, the status, the line that goes on; a second one stops at once."""
    for signum, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        trial, out = Trial(f"{signum.name}"), lab.folder / "signalled"
        process = lab.start(out)
        wait_until(process, lambda out=out: any(saved_steps(out).values()))
        process.send_signal(signum)
        started = time.monotonic()
        _, error = process.communicate()
        seconds = time.monotonic() - started
        ended = process.returncode == status and "Go on with: python launch.py" in error and seconds < GRACE
        lab.finish(out)
        trial.count(ended and result(out) == expected)
        trial.seen = f"exit status {process.returncode} after {seconds:.1f} s, the line that goes on; same parameters"
        shutil.rmtree(out)
        yield trial


def full_disk(lab: Lab, expected: str) -> Trial:
    """A disk that is full when a state is to be saved, and has room again later."""
    trial, disk = Trial("disk full during a save"), lab.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL}", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        trial.seen = f"not tried: {mounted.stderr.decode().strip()}"
        return trial
    try:
        out, filler = disk / "run", disk / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(ROOM))
        process = lab.start(out)
        said = [line for line in process.stderr if "cannot be saved" in line][:1] if process.stderr else []
        filler.unlink(missing_ok=True)
        process.communicate()
        status, _ = lab.finish(out)
        trial.count(bool(said) and status == 0 and result(out) == expected)
        trial.seen = "said, training went on; same parameters once there was room"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return trial


def two_runs(lab: Lab, expected: str) -> Trial:
    """A second run in a directory where the first lives."""
    trial, out = Trial("two runs in one directory"), lab.folder / "shared"
    first = lab.start(out)
    wait_until(first, lambda: any(saved_steps(out).values()))
    status, error = lab.finish(out)
    first.communicate()
    trial.count(status == 2 and f"in use by process {first.pid}" in error and result(out) == expected)
    trial.seen = "the second refused, the first undisturbed"
    return trial


# ---------------------------------------------------------------- all of it


def main() -> int:
    """Run the trials, print the table, write it; exit status 1 if anything was lost."""
    options = tyro.cli(Options, prog="python -m tests.chaos", description=__doc__)
    with tempfile.TemporaryDirectory(prefix="cnnjax-chaos-") as temporary:
        lab = Lab(Path(temporary))
        trials = list(run_trials(lab, options))
    table = Table("what was tried", "how often", "nothing lost", "seen")
    for trial in trials:
        table.add_row(trial.name, str(trial.tried), str(trial.passed), trial.seen)
    Console().print(table)
    if options.write:
        write(trials)
    return int(any(trial.passed < trial.tried for trial in trials))


def run_trials(lab: Lab, options: Options) -> Iterator[Trial]:
    """Yield every trial as it is done."""
    whole = lab.folder / "whole"
    for folder in (lab.folder / "compiles", whole):
        started = time.monotonic()
        status, error = lab.finish(folder)
        seconds = time.monotonic() - started
        if status:
            raise SystemExit(f"the undisturbed run failed: {error}")
    expected = result(whole)
    assert expected
    interrupted = lab.folder / "interrupted"
    process = lab.start(interrupted)
    wait_until(process, lambda: len(saved_steps(interrupted)[NETWORKS[0]]) > 1)
    process.kill()
    process.communicate()

    console = Console(stderr=True)
    groups: list[Callable[[], Any]] = [
        lambda: damage(lab, expected, interrupted),
        lambda: signals(lab, expected),
        lambda: [two_runs(lab, expected)],
        lambda: [full_disk(lab, expected)],
        lambda: [kill(lab, expected, seconds, options)],
    ]
    for group in groups:
        for trial in group():
            console.print(f"{trial.name}: {trial.passed} of {trial.tried}; {trial.seen}", highlight=False)
            yield trial


def write(trials: list[Trial]) -> None:
    """Write the table to results/reliability."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = ["| what was tried | how often | nothing lost | seen |", "| --- | --- | --- | --- |"]
    lines += [f"| {trial.name} | {trial.tried} | {trial.passed} | {trial.seen} |" for trial in trials]
    (RESULTS / "README.md").write_text(
        "# What survives what\n\n    python -m tests.chaos\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
