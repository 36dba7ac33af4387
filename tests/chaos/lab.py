"""Where runs are broken: the real command line in processes of its own, and what is seen of them from outside."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.own_data import make_folder, make_scenes

ROOT = Path(__file__).parent.parent.parent
EPOCHS = 3
RUN = ["fcn-vs-cnn", "--data", "digits", "--epochs", str(EPOCHS), "--batch-size", "64", "--save-every", "0.01"]
NETWORKS = ("lecture-fcn", "lecture-cnn")
TRAIN = ["train", "--model", "lecture-cnn", "--image-size", "16", "--epochs", str(EPOCHS), "--batch-size", "16"]
SEGMENTATION = ["train", "--task", "segmentation", "--model", "fcn8s_tiny", "--image-size", "32", *TRAIN[-4:]]


@dataclass
class Trial:
    """One way to break a run: how often it was tried, how often nothing was lost, and what was seen."""

    name: str
    seen: str = ""
    tried: int = 0
    passed: int = 0

    def count(self, passed: bool, said: str = "") -> None:
        """Count a try; one that showed a person a stack trace has not passed. What was said then is shown."""
        passed = passed and "Traceback" not in said
        self.tried += 1
        self.passed += passed
        if not passed:
            print(f"{self.name} did not pass; said:\n{said}", file=sys.stderr)


class Lab:
    """Runs a command in its own folder, with a cache of compiled programs that is warm after the first run."""

    def __init__(self, folder: Path, command: Sequence[str] = RUN):
        self.folder, self.command = folder, command
        self.environment = {**os.environ, "CNNJAX_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        self.expected, self.seconds = self._undisturbed()

    def _undisturbed(self) -> tuple[str | None, float]:
        for out in (self.folder / "compiles", self.folder / "whole"):
            started = time.monotonic()
            status, error = self.finish(out)
            if status:
                raise SystemExit(f"the undisturbed run failed: {error}")
        return result(out), time.monotonic() - started

    def of_train(self) -> "Lab":
        """Return a lab for `train` on a folder of images; its runs also have to end with the same weights."""
        return self._of("train", TRAIN, make_folder(self.folder / "images", (("train", 60), ("test", 10))))

    def of_segmentation(self) -> "Lab":
        """Return a lab for `train --task segmentation` on a folder of images and masks; otherwise as `of_train`."""
        splits = {"train": range(120), "test": range(120, 130)}
        return self._of("segmentation", SEGMENTATION, make_scenes(self.folder / "scenes", splits))

    def _of(self, name: str, command: Sequence[str], images: Path) -> "Lab":
        (self.folder / name).mkdir()
        return Lab(self.folder / name, [*command, "--save-every", "0.01", "--data", str(images)])

    def start(self, out: Path, *more: str, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "launch.py"), *self.command, *more, "--out", str(out)]
        return subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, text=True, env=self.environment)

    def finish(self, out: Path, *more: str) -> tuple[int, str]:
        process = self.start(out, *more)
        _, error = process.communicate()
        return process.returncode, error

    def ends_as_undisturbed(self, out: Path) -> bool:
        """Run the command to its end; return whether its parameters are those of the undisturbed run."""
        status, error = self.finish(out)
        return status == 0 and "Traceback" not in error and result(out) == self.expected


def result(out: Path) -> str | None:
    """Return the fingerprint of a finished run's parameters, and of its weights; None if it is not finished."""
    summary, weights = out / "summary.json", out / "weights.safetensors"
    if not summary.exists():
        return None
    written = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
    return f"{json.loads(summary.read_text())['params_sha256']} {written}"


def checkpoints(out: Path, network: str) -> Path:
    return out / "checkpoints" / network / "seed0"


def saved_steps(out: Path) -> dict[str, list[int]]:
    """Return the steps of every network's complete states; a run of `train` has one network."""
    folders = {name: checkpoints(out, name) for name in NETWORKS} | {"train": out / "checkpoints"}
    return {
        name: sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())
        for name, folder in folders.items()
    }


def has_a_state(out: Path) -> bool:
    return any(saved_steps(out).values())


def is_saving(out: Path) -> bool:
    return any(any(out.glob(f"checkpoints/{depth}*.orbax-checkpoint-tmp*")) for depth in ("*/*/", ""))


def metric_lines(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Return when the condition holds or the process has ended."""
    while process.poll() is None and not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)


def end_with(process: subprocess.Popen[str], signum: int) -> tuple[int, str]:
    """Send a signal; return the status and what was said."""
    process.send_signal(signum)
    _, error = process.communicate()
    return process.returncode, error
