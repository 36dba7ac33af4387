"""What a run writes down as it goes: `metrics.jsonl` and TensorBoard event files."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.train.run import write_text

MOST_WEIGHTS = 10_000


class Recorder:
    """Appends the metrics of one training to the run's file, and to TensorBoard.

    Args:
        path: the run's `metrics.jsonl`.
        tag: which training of the run, the first part of every name: "lecture-cnn/seed0".
        step: the step that training goes on from; lines of this training past it, left by a killed process, go.
    """

    def __init__(self, path: Path, tag: str, step: int):
        from tensorboardX import SummaryWriter

        self.path, self.tag = path, tag
        if path.exists():
            kept = [row for row in read_rows(path) if not (row["name"].startswith(f"{tag}/") and row["step"] > step)]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board = SummaryWriter(str(path.parent / "tensorboard" / tag), purge_step=step + 1)

    def write(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """Append a line for every value."""
        lines = [
            {"step": step, "epoch": epoch, "split": split, "name": f"{self.tag}/{name}", "value": value}
            for name, value in values.items()
        ]
        with self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def write_pictures(self, step: int, images: np.ndarray) -> None:
        """Show images (batch, height, width, channels), bytes or floats in [0, 1], in TensorBoard."""
        self._board.add_images("examples", images, step, dataformats="NHWC")

    def write_weights(self, step: int, params: Any) -> None:
        """Show a histogram of every parameter array in TensorBoard, of at most `MOST_WEIGHTS` values evenly apart."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            values = np.asarray(leaf).ravel()
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            self._board.add_histogram(name, values[:: -(-values.size // MOST_WEIGHTS)], step)

    def close(self) -> None:
        """Flush the event file."""
        self._board.close()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a `metrics.jsonl`; a last line that a killed process left half-written is passed over."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def read_history(path: Path, tag: str) -> dict[str, list[float]]:
    """Return the curves of one training: "train/loss", "validation/accuracy", ... with a value an epoch."""
    history: dict[str, list[float]] = {}
    for row in read_rows(path):
        if row["name"].startswith(f"{tag}/"):
            history.setdefault(f"{row['split']}/{row['name'][len(tag) + 1 :]}", []).append(row["value"])
    return history
