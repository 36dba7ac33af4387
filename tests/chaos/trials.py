"""The ways to break a run, by group; each yields its trials as they are done."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.lab import (
    NETWORKS,
    Lab,
    Trial,
    checkpoints,
    end_with,
    has_a_state,
    is_saving,
    metric_lines,
    result,
    saved_steps,
    wait_until,
)
from tests.train.damage import DAMAGES

GRACE = 30  # seconds in which a signal has saved
START = 5  # seconds in which a run starts, more or less
DISK = 640 << 20  # bytes of a small disk: a few states
SIGNALS = ((signal.SIGTERM, 143), (signal.SIGINT, 130))
MOMENTS = {
    "as it starts": lambda out: (out / "config.json").exists(),
    "while it trains": has_a_state,
    "while it saves": is_saving,
    "while it draws": lambda out: any(out.glob("figures/*.png")),
}


# ---------------------------------------------------------------- the process


def kill(lab: Lab, kills: int, seed: int, of: str = "") -> list[Trial]:
    """`kill -9` at moments of three kinds in turn, until all kills were had; every run is then let to its end."""
    kinds = {
        "kill -9 at a random moment": lambda process, out: _wait_for(process, rng.uniform(0, lab.seconds)),
        "kill -9 while it starts": lambda process, out: _wait_for(process, rng.uniform(0, START)),
        "kill -9 while it saves": lambda process, out: (
            _wait_for(process, rng.uniform(0, lab.seconds / 2)),
            wait_until(process, lambda: is_saving(out)),
        ),
    }
    rng, trials = random.Random(seed), {kind: Trial(f"{kind}{of}") for kind in kinds}
    out, resumed, same = lab.folder / "killed", dict.fromkeys(kinds, 0), []
    for kind in itertools.islice(itertools.cycle(kinds), kills):
        while True:
            before = saved_steps(out)
            if _killed(lab, out, kinds[kind]):
                break
            same.append(result(out) == lab.expected)
            shutil.rmtree(out)
        trials[kind].count(_has_kept(before, out))
        resumed[kind] += any(before.values())
    same.append(lab.ends_as_undisturbed(out))
    shutil.rmtree(out)
    for kind, trial in trials.items():
        trial.passed *= all(same)
        ended = f"all {len(same)} runs ended with the same parameters" if all(same) else "other parameters"
        trial.seen = f"{resumed[kind]} of them of a run that had gone on from a state; {ended}"
    return list(trials.values())


def _has_kept(before: dict[str, list[int]], out: Path) -> bool:
    """Whether each network's newest state is there still, or one that is newer."""
    return all(saved_steps(out)[name][-1:] >= steps[-1:] for name, steps in before.items())


def _wait_for(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=seconds)


def _killed(lab: Lab, out: Path, wait: Callable[[subprocess.Popen[str], Path], object]) -> bool:
    """Start a run and kill it at its moment; return False if it had ended by itself."""
    process = lab.start(out)
    wait(process, out)
    if process.poll() is None:
        end_with(process, signal.SIGKILL)
        return True
    if process.returncode:
        raise SystemExit(f"the run in {out} failed by itself with exit status {process.returncode}")
    return False


def signals(lab: Lab) -> Iterator[Trial]:
    """SIGTERM and Ctrl-C at every stage: saved, the status, the line that goes on."""
    for (signum, status), (moment, condition) in itertools.product(SIGNALS, MOMENTS.items()):
        trial, out = Trial(f"{signum.name} {moment}"), lab.folder / "signalled"
        process = lab.start(out)
        wait_until(process, lambda out=out, condition=condition: condition(out))
        started = time.monotonic()
        ended, error = end_with(process, signum)
        seconds = time.monotonic() - started
        said = "Resume with: python launch.py" in error
        trial.count(ended == status and said and seconds < GRACE and lab.ends_as_undisturbed(out), error)
        trial.seen = f"exit status {ended} after {seconds:.1f} s, the line that goes on; same parameters"
        shutil.rmtree(out)
        yield trial


def second_signals(lab: Lab) -> Iterator[Trial]:
    """The same signal again and again, as somebody does who has no time."""
    for signum, status in SIGNALS:
        trial, out = Trial(f"{signum.name} until it ends"), lab.folder / "signalled"
        process = lab.start(out)
        wait_until(process, lambda out=out: is_saving(out))
        while process.poll() is None:
            process.send_signal(signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        error = process.stderr.read() if process.stderr else ""
        at_once = "at once, " if "stopped at once" in error else "as its state was saved, "
        trial.count(process.returncode == status and lab.ends_as_undisturbed(out), error)
        trial.seen = f"{at_once}exit status {process.returncode}; same parameters"
        shutil.rmtree(out)
        yield trial


def two_runs(lab: Lab) -> Iterator[Trial]:
    """A second run in a directory where the first lives."""
    trial, out = Trial("two runs in one directory"), lab.folder / "shared"
    first = lab.start(out)
    wait_until(first, lambda: has_a_state(out))
    status, error = lab.finish(out)
    first.communicate()
    refused = status == 2 and f"in use by process {first.pid}" in error
    trial.count(refused and result(out) == lab.expected, error)
    trial.seen = "the second refused, the first undisturbed"
    yield trial


# ---------------------------------------------------------------- what is on disk


def damage(lab: Lab) -> Iterator[Trial]:
    """The newest state damaged, then all of them."""
    interrupted = _interrupted(lab)
    for name, spoil in DAMAGES.items():
        trial, out = Trial(f"newest checkpoint: {name}"), lab.folder / "damaged"
        shutil.copytree(interrupted, out)
        spoil(checkpoints(out, NETWORKS[0]) / str(saved_steps(out)[NETWORKS[0]][-1]))
        _, error = lab.finish(out)
        trial.count(result(out) == lab.expected and "is damaged" in error, error)
        trial.seen = "noticed, said, the one before it used; same parameters"
        shutil.rmtree(out)
        yield trial


def damage_all(lab: Lab) -> Iterator[Trial]:
    """Every state damaged, in every way."""
    interrupted, trial, out = _interrupted(lab), Trial("every checkpoint damaged"), lab.folder / "damaged"
    for spoil in DAMAGES.values():
        shutil.copytree(interrupted, out)
        folder = checkpoints(out, NETWORKS[0])
        for step in saved_steps(out)[NETWORKS[0]]:
            spoil(folder / str(step))
        before = _contents(folder)
        status, error = lab.finish(out)
        trial.count(status == 2 and "every checkpoint" in error and before == _contents(folder), error)
        shutil.rmtree(out)
    trial.seen = "refused with exit status 2, nothing changed"
    yield trial


def leftovers(lab: Lab) -> Iterator[Trial]:
    """What a crash leaves on a file system that forgets renames: half a summary, a state under its first name."""
    trial, out = Trial("renames forgotten: a summary and a state half written"), lab.folder / "leftovers"
    shutil.copytree(_interrupted(lab), out)
    (out / ".partial-summary.json-crash").write_text('{"params_sha')
    newest = checkpoints(out, NETWORKS[0]) / str(saved_steps(out)[NETWORKS[0]][-1])
    newest.rename(newest.with_name(f"{newest.name}.orbax-checkpoint-tmp"))
    same = lab.ends_as_undisturbed(out)
    trial.count(same and not is_saving(out) and not list(out.glob(".partial-*")))
    trial.seen = "neither was taken for whole, both gone; same parameters"
    yield trial


def _interrupted(lab: Lab) -> Path:
    """A run killed when its first network had two states."""
    out = lab.folder / "interrupted"
    if not out.exists():
        process = lab.start(out)
        wait_until(process, lambda: len(saved_steps(out)[NETWORKS[0]]) > 1)
        end_with(process, signal.SIGKILL)
    return out


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- the disk


def full_disk(lab: Lab) -> Iterator[Trial]:
    """A disk that fills while a run trains: it has room again later, or not before the end."""
    for stays in (False, True):
        trial = Trial("disk full " + ("to the end" if stays else "for a while"))
        with _small_disk(lab.folder / "disk") as (disk, problem):
            if problem:
                trial.seen = f"not tried: {problem}"
            else:
                _fill(lab, disk, stays, trial)
        yield trial


def _fill(lab: Lab, disk: Path, stays: bool, trial: Trial) -> None:
    out, filler, told = disk / "run", disk / "filler", lab.folder / "told"
    awaited = ("cannot be saved", "metrics.jsonl cannot be written")

    def is_told_on_a_full_disk() -> bool:
        _write_until_full(filler)  # again and again: a state that is given up leaves room
        return not stays and all(words in told.read_text() for words in awaited)

    with told.open("w") as file:
        process = lab.start(out, stderr=file)
    wait_until(process, lambda: has_a_state(out))
    before = saved_steps(out)
    wait_until(process, is_told_on_a_full_disk)
    filler.unlink()
    status, said = process.wait(), told.read_text()
    if stays:
        ended = status == 1 and "No space left on device" in said.splitlines()[-1] and _has_kept(before, out)
    else:
        saved_again = _has_kept(saved_steps(lab.folder / "whole"), out)
        ended = status == 0 and "metrics.jsonl is written again" in said and saved_again
    whole = lab.ends_as_undisturbed(out) and metric_lines(out) == metric_lines(lab.folder / "whole")
    trial.count(ended and all(words in said for words in awaited) and whole, said)
    trial.seen = "said, training went on; " + ("exit status 1, then the same command ended" if stays else "saved again")
    trial.seen += " with the same parameters and every line of the metrics"


def _write_until_full(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            pass


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Mount a disk in memory; yields it, and why that did not work."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    try:
        yield folder, mounted.stderr.strip() if mounted.returncode else ""
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", str(folder)], check=True)


def read_only(lab: Lab) -> Iterator[Trial]:
    """A directory in which nothing can be written any more, and again later."""
    trial, out = Trial("directory read-only under the run"), lab.folder / "read-only"
    process = lab.start(out)
    wait_until(process, lambda: has_a_state(out))
    problem = _set_writable(out, False)
    if problem:
        end_with(process, signal.SIGKILL)
        trial.seen = f"not tried: {problem}"
    else:
        _, said = process.communicate()
        _set_writable(out, True)
        told = process.returncode == 1 and "cannot be saved" in said and "error: " in said.splitlines()[-1]
        trial.count(told and lab.ends_as_undisturbed(out), said)
        trial.seen = "said, training went on; exit status 1, then the same command ended with the same parameters"
    yield trial


def _set_writable(folder: Path, writable: bool) -> str:
    """Let nobody, or again somebody, write in a folder; return why that did not work."""
    sign = "+" if writable else "-"
    command = ["chmod", "-R", f"u{sign}w"] if os.geteuid() else ["chattr", "-R", f"{'-' if writable else '+'}i"]
    for _ in range(10):  # files come and go while it looks
        changed = subprocess.run([*command, str(folder)], capture_output=True, text=True)
        if not changed.returncode:
            return ""
    return changed.stderr.strip()


def vanished(lab: Lab) -> Iterator[Trial]:
    """The directory taken away under a run, and put back later."""
    trial, out, aside = Trial("directory vanished under the run"), lab.folder / "run", lab.folder / "aside"
    process = lab.start(out)
    wait_until(process, lambda: has_a_state(out))
    out.rename(aside)
    _, said = process.communicate()
    told = process.returncode == 1 and f"{out} has vanished" in said
    shutil.rmtree(out, ignore_errors=True)  # what the save in progress made
    aside.rename(out)
    trial.count(told and lab.ends_as_undisturbed(out), said)
    trial.seen = "stopped with exit status 1 and one message; put back, it went on to the same parameters"
    yield trial


# ---------------------------------------------------------------- the numbers


def not_finite(lab: Lab) -> Iterator[Trial]:
    """A learning rate that ends in infinities."""
    trial, out = Trial("loss not finite"), lab.folder / "not-finite"
    for _ in range(2):
        status, error = lab.finish(out, "--lr", "1e30")
        trial.count(status == 1 and "ends in a loss or parameters that are not finite" in error, error)
    trial.seen = "stopped with exit status 1, the step and the last good state named; the same again"
    yield trial
    trial = Trial("loss not finite, --on-nan rollback")
    status, error = lab.finish(lab.folder / "rolled-back", "--lr", "1e30", "--on-nan", "rollback")
    left_out = error.count("left out the batch of step")
    trial.count(left_out > 0 and status == 1 and "no step of epoch 2 ends in finite numbers" in error, error)
    trial.seen = f"{left_out} batches left out and named; stopped where an epoch had no other"
    yield trial
