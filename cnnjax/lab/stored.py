"""Runs as they lie in their directories: finished or not, of any experiment."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import workspace
from cnnjax.runs import read_history, read_json
from cnnjax.runs.metrics import read_rows

SWEEP = "sweep "  # how the experiment of a sweep's directory begins


@dataclass(frozen=True)
class Stored:
    """A run in its directory.

    Attributes:
        path: the directory.
        config: all its options, and "experiment".
        summary: what it found; empty while it is unfinished.
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        return str(self.config.get("experiment", ""))

    @cached_property
    def curves(self) -> dict[str, dict[str, list[float]]]:
        """The curves of every training by its name ("" for the only one): "train/loss", ..., with a value an epoch."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return {}
        tags = dict.fromkeys(row["name"].rpartition("/")[0] for row in read_rows(file))
        return {tag: read_history(file, tag) for tag in tags}

    @property
    def state(self) -> str:
        """In words, how far it is."""
        if self.summary:
            return "finished"
        done = max((len(curve) for curves in self.curves.values() for curve in curves.values()), default=0)
        of = f" of {self.config['epochs']}" if "epochs" in self.config else ""
        begun = "unfinished" if self.experiment else "from Python"
        return f"{begun}, epoch {done}{of}" if done else begun


def read(path: Path) -> Stored:
    """Return the run in a directory.

    Raises:
        UserError: it is no run's directory, or its files are damaged.
    """
    config = read_json(path / "config.json")
    if config is None:
        raise UserError(f"{path} is no run (it has no config.json): expected the directory of one")
    return Stored(path, config, read_json(path / "summary.json") or {})


def find(name: str) -> Stored:
    """Return a run.

    Args:
        name: its directory, or the name of one in results/runs, or of a published experiment.

    Raises:
        UserError: there is no such run; the nearest name is suggested.
    """
    place = workspace.find()
    for path in (Path(name), place.runs / name, place.results / name):
        if (path / "config.json").is_file():
            return read(path)
    if Path(name).exists():
        return read(Path(name))  # which says that it is none
    known = [path.parent.name for folder in (place.runs, place.results) for path in folder.glob("*/config.json")]
    if Path(name).parent == Path() and known:
        raise unknown_name("run", name, known)
    raise UserError(f"there is no run {name}: expected its directory, or its name in {place.runs}")


def all_in(folder: Path) -> list[Path]:
    """Return the directories of all runs in a folder, those of sweeps and of their cells too; the newest first."""
    found = [file.parent for pattern in ("*", "*/*") for file in folder.glob(f"{pattern}/config.json")]
    return sorted(found, key=lambda path: (-changed(path), path))


def changed(path: Path) -> float:
    """When a run ended, or began if it has not ended."""
    summary = path / "summary.json"
    return (summary if summary.exists() else path / "config.json").stat().st_mtime
