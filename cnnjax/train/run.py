"""The directory that one run owns: its config, its metrics, and what it ends with."""

import dataclasses
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError

Config = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run directory: `config.json`, `metrics.jsonl`, `summary.json`, `report.md`, `figures/`, `checkpoints/`.

    Args:
        path: the directory.
        experiment: name of the experiment.
        config: everything that decides the result.
        profile: whether every training writes a profiler's trace of some of its steps to `profile/`.
        save_every: minutes after which a state is saved within an epoch, besides those at its end.
    """

    path: Path
    experiment: str
    config: Config
    profile: bool = False
    save_every: float = math.inf

    @property
    def figures(self) -> Path:
        """Where pictures go."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """Where states go; never published."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """A JSON line for every epoch, split and value."""
        return self.path / "metrics.jsonl"

    def summary(self) -> dict[str, Any] | None:
        """Return what the finished run ended with; None while it is unfinished."""
        return read_json(self.path / "summary.json")

    def check(self) -> None:
        """Raise a UserError if the directory belongs to something else or cannot be written; change nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file; expected a directory, existing or to be made")
        if self.path.is_dir() and any(self.path.iterdir()):
            self._check_owner()
        nearest = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {nearest}: choose another directory with --out")

    def _check_owner(self) -> None:
        there = read_json(self.path / "config.json")
        if there is None:
            raise UserError(
                f"{self.path} holds files that are not a run's (no config.json): choose an empty directory with --out"
            )
        differences = [
            f"{name}: {there.get(name)!r} there, {value!r} now"
            for name, value in self._identity().items()
            if there.get(name) != value
        ]
        differences += [f"{name}: {there[name]!r} there, absent now" for name in there.keys() - self._identity().keys()]
        if differences:
            raise UserError(
                f"{self.path} belongs to another run ({'; '.join(differences)}): choose another --out, the same "
                "options, or --overwrite"
            )

    def create(self) -> None:
        """Make the directory and write `config.json`, unless they are there."""
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
            if not (self.path / "config.json").exists():
                write_json(self.path / "config.json", self._identity())
        except OSError as error:
            raise UserError(f"cannot write to {self.path} ({error.strerror}): choose another --out") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the directory inside the block; the system ends that however this one ends.

        Raises:
            UserError: another process is in it.
        """
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"{self.path} is in use by {file.read()}: wait for it, stop it, or choose another --out"
                ) from None
            except OSError as error:
                log.warning("%s cannot be locked (%s): start no second run in it", self.path, error.strerror)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield

    def clear(self) -> None:
        """Delete what a run left in the directory; refuse a directory that is not a run's."""
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if read_json(self.path / "config.json") is None:
            raise UserError(f"--overwrite: {self.path} holds files that are not a run's (no config.json); not deleted")
        try:
            with self.locked():
                shutil.rmtree(self.path)
        except OSError as error:
            raise UserError(f"--overwrite: cannot delete {self.path} ({error.strerror})") from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`; the run is finished from then on."""
        write_json(self.path / "summary.json", {"experiment": self.experiment, "config": self.config, **summary})

    def _identity(self) -> dict[str, Any]:
        return {"experiment": self.experiment, **self.config}


def config_hash(config: Config) -> str:
    """Return eight digits that name a config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def as_config(options: Any) -> dict[str, Any]:
    """Return a dataclass of options as JSON holds it."""
    config: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options)))
    return config


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's object; None if there is no such file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it or its directory") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: delete it or its directory")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees all of it or none."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees all of it or none, whatever happens meanwhile."""
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
