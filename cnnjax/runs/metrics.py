"""What a run records while it trains: `metrics.jsonl` and TensorBoard event files."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.errors import RunError
from cnnjax.runs.events import EventFile
from cnnjax.runs.files import LogFile

MOST_WEIGHTS = 10_000


Figures = Mapping[str, Mapping[str, float]]  # by split and name


class Recorder:
    """Appends the metrics of one training to the run's file, and to TensorBoard.

    Args:
        file: the run's `metrics.jsonl`.
        tag: which training of the run, the first part of every name: "lecture-cnn/seed0"; "" for the only one.
        step: the step that training resumes from; lines of this training past it, left by a killed process, are
            deleted.
    """

    def __init__(self, file: LogFile, tag: str, step: int):
        self._file, self._tag = file, tag
        self._begin_after(step)

    def _begin_after(self, step: int) -> None:
        self._step = step
        _forget(self._file, self._tag, step)
        self._board = EventFile(self._file.path.parent / "tensorboard" / self._tag, step)

    def write_epoch(self, step: int, epoch: int, figures: Figures, params: Any) -> None:
        """Append a line for every figure, and a histogram of every parameter array.

        An epoch that was written before replaces what was written from there on: it was run again, because the newest
        state was damaged and the one after it not finite.
        """
        if step <= self._step:
            self._begin_after(step - 1)
        self._step = step
        for split, values in figures.items():
            self.write(step, epoch, split, values)
        self.write_weights(step, params)

    def write(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """Append a line for every value."""
        lines = [
            {"step": step, "epoch": epoch, "split": split, "name": _name(self._tag, name), "value": value}
            for name, value in values.items()
        ]
        self._file.append("".join(json.dumps(line) + "\n" for line in lines).encode())
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def write_pictures(self, step: int, images: np.ndarray) -> None:
        """Show images (batch, height, width, channels), bytes or floats in [0, 1], in TensorBoard."""
        self._board.add_images("examples", images, step)

    def write_weights(self, step: int, params: Any) -> None:
        """Show a histogram of every parameter array in TensorBoard, of at most `MOST_WEIGHTS` evenly spaced values."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            values = np.asarray(leaf).ravel()
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            self._board.add_histogram(name, values[:: -(-values.size // MOST_WEIGHTS)], step)


class InMemory:
    """The metrics of a training that keeps nothing on disk."""

    def __init__(self) -> None:
        self._epochs: dict[int, Figures] = {}

    def write_epoch(self, step: int, epoch: int, figures: Figures, params: Any) -> None:
        """Keep the figures."""
        self._epochs[epoch] = figures

    def history(self) -> dict[str, list[float]]:
        """Return the curves, as `read_history` does."""
        last = self._epochs[max(self._epochs)]
        names = [(split, name) for split, values in last.items() for name in values]
        return {
            f"{split}/{name}": [self._epochs[k][split][name] for k in sorted(self._epochs)] for split, name in names
        }


def _name(tag: str, name: str) -> str:
    return f"{tag}/{name}" if tag else name


def _forget(file: LogFile, tag: str, step: int) -> None:
    """Delete the lines of a training after a step, and a line that a killed process left half-written."""
    kept = [row for row in read_rows(file) if not (row["name"].startswith(_name(tag, "")) and row["step"] > step)]
    content = "".join(json.dumps(row) + "\n" for row in kept).encode()
    if content != file.read() and not file.replace(content):
        file.append(b"\n")  # the same lines will be written again, and readers take the last


def read_rows(file: Path | LogFile) -> Iterator[dict[str, Any]]:
    """Yield the lines of a `metrics.jsonl`; a line that a killed process left half-written is skipped."""
    content = file.read() if isinstance(file, LogFile) else file.read_bytes()
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"step", "epoch", "split", "name", "value"} <= row.keys():
            yield row


def read_history(file: Path | LogFile, tag: str) -> dict[str, list[float]]:
    """Return the curves of one training: "train/loss", "validation/accuracy", ... with a value per epoch.

    The value of an epoch whose lines were lost is nan.

    Raises:
        RunError: there is no line of this training.
    """
    values: dict[str, dict[int, float]] = {}
    for row in read_rows(file):
        if row["name"].startswith(_name(tag, "")):
            values.setdefault(f"{row['split']}/{row['name'].removeprefix(_name(tag, ''))}", {})[row["epoch"]] = row[
                "value"
            ]
    if not values:
        path = file if isinstance(file, Path) else file.path
        raise RunError(f"{path} has no line of {tag}, which is trained: put it back, or start over (`overwrite`)")
    epochs = range(1, 1 + max(max(curve) for curve in values.values()))
    return {name: [curve.get(epoch, math.nan) for epoch in epochs] for name, curve in values.items()}
