"""The directory that one run owns: its config, its metrics, and its summary."""

import dataclasses
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from cnnjax.errors import RunError, UserError
from cnnjax.runs.files import PARTIAL, LogFile, delete_partial, read_json, write_json

Config = Mapping[str, Any]
log = logging.getLogger(__name__)
_LOCKED: set[Path] = set()  # by this process


@dataclass(frozen=True)
class Run:
    """A run directory: `config.json`, `metrics.jsonl`, `summary.json`, `report.md`, `figures/`, `checkpoints/`.

    Args:
        path: the directory.
        experiment: name of the experiment.
        config: everything that decides the result.
        profile: whether every training writes a profiler's trace of some of its steps to `profile/`.
        save_every: minutes after which a state is saved within an epoch, besides those at its end.
        writes: whether this process writes the files; of several processes, the first does.
        callbacks: observers of every training in the run.
        tag: names one training of several in the run, "lecture-cnn/seed0"; see `part`.
    """

    path: Path
    experiment: str = ""
    config: Config = field(default_factory=dict)
    profile: bool = False
    save_every: float = math.inf
    writes: bool = True
    callbacks: Sequence[Any] = ()
    tag: str = ""

    def part(self, tag: str) -> "Run":
        """Return the run as one training of several sees it: its metrics and checkpoints have a name of their own."""
        part = replace(self, tag=tag)
        vars(part)["metrics"] = self.metrics  # the same file, with what waits to be written
        return part

    @property
    def figures(self) -> Path:
        """Where pictures go."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """Where states go; never published."""
        return self.path / "checkpoints"

    @cached_property
    def metrics(self) -> LogFile:
        """A JSON line for every epoch, split and value; on disk before the state that follows them."""
        return LogFile(self.path / "metrics.jsonl", durable=True)

    def summary(self) -> dict[str, Any] | None:
        """Return the content of `summary.json`; None while the run is unfinished."""
        return read_json(self.path / "summary.json")

    def check(self) -> None:
        """Raise a UserError if the directory belongs to something else or cannot be written; change nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} (`out`) is a file; expected a directory, existing or to be made")
        if self._holds_files():
            self._check_owner()
        nearest = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {nearest}: choose another directory (`out`)")

    def check_present(self) -> None:
        """Raise a RunError if the directory was removed since `create`: what would be saved there would be lost."""
        if not os.path.exists(self.path / "config.json"):  # False whatever the error
            raise RunError(
                f"{self.path} has vanished, or can no longer be read: nothing can be saved there. If you put it back, "
                "the same command resumes from the newest state in it; otherwise it starts over"
            )

    def _holds_files(self) -> bool:
        return self.path.is_dir() and any(not path.name.startswith(PARTIAL) for path in self.path.iterdir())

    def _check_owner(self) -> None:
        there = read_json(self.path / "config.json")
        if there is None:
            raise UserError(
                f"{self.path} holds files that are not a run's (no config.json): choose an empty directory (`out`)"
            )
        differences = _differences(there, self._identity())
        if differences:
            raise UserError(
                f"{self.path} belongs to another run ({'; '.join(differences)}): choose another directory "
                "(`out`) or the same options, or start over (`overwrite`)"
            )

    def create(self) -> None:
        """Make the directory and write `config.json`, unless they are there."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / "config.json").exists():  # first of all files: it makes the directory a run's
                write_json(self.path / "config.json", self._identity())
            self.figures.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path} ({error.strerror}): choose another directory (`out`)"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the directory inside the block; the system unlocks it however this process ends.

        Raises:
            UserError: another process is in it.
        """
        with ExitStack() as held:
            try:
                self._lock(held.enter_context((self.path / ".lock").open("a+")))
                delete_partial(self.path)
            except OSError as error:
                raise UserError(
                    f"cannot write to {self.path} ({error.strerror}): repair that, or choose another directory (`out`)"
                ) from error
            _LOCKED.add(self.path.absolute())
            held.callback(_LOCKED.discard, self.path.absolute())
            yield

    def check_training(self, identity: Config, lengthened: Callable[[Config], Config] = dict) -> None:
        """Raise a UserError if another training has this part of the run; else note that this one has it.

        Args:
            identity: everything that decides the training's result, as JSON holds it. Of a dictionary in it, what is
                known both there and now must be the same: data in memory is known better than a stream of it.
            lengthened: maps what identified the training to that of the same training with more epochs.
        """
        file = self.path / "trainings" / f"{self.tag or 'training'}.json"
        noted = read_json(file)
        there = None if noted is None else lengthened(noted)
        if there is None and self.writes:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, identity)
        differences = _differences(_flat(there, identity), _flat(identity, there)) if there else []
        if differences:
            raise UserError(
                f"{self.path} holds another training as {file.stem!r} ({'; '.join(differences)}): choose another "
                "directory (`out`), the same arguments, or delete it"
            )
        if there != noted and there is not None and self.writes:
            write_json(file, there)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Check, make and lock the directory inside the block; where this process has it locked, do nothing.

        Raises:
            UserError: the directory belongs to something else, cannot be written, or another process is in it.
        """
        if self.path.absolute() in _LOCKED or not self.writes:
            yield
            return
        self.check()
        self.create()
        with self.locked():
            yield

    def _lock(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{self.path} is in use by {file.read()}: wait for it, stop it, or choose another directory (`out`)"
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): start no second run in it", self.path, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()

    def clear(self) -> None:
        """Delete what a run left in the directory; refuse a directory that is not a run's."""
        if not self._holds_files():
            return
        if read_json(self.path / "config.json") is None:
            raise UserError(
                f"{self.path} holds files that are not a run's (no config.json): `overwrite` does not delete them"
            )
        try:
            with self.locked():
                for path in self.path.iterdir():
                    if path.name != "config.json":  # last, so that a run that is killed here is still known as a run
                        _delete(path)
                shutil.rmtree(self.path)
        except OSError as error:
            raise UserError(f"`overwrite` cannot delete {self.path} ({error.strerror})") from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`; the run is finished from then on."""
        self.check_present()
        write_json(self.path / "summary.json", {"experiment": self.experiment, "config": self.config, **summary})

    def _identity(self) -> dict[str, Any]:
        return {"experiment": self.experiment, **self.config}


def _flat(config: Config, other: Config) -> dict[str, Any]:
    """Return a training's identity as far as another one, perhaps of an earlier version, knows the same of itself."""
    flat = {name: value for name, value in config.items() if name in other and not isinstance(value, Mapping)}
    for name, values in config.items():
        if isinstance(values, Mapping) and isinstance(known := other.get(name), Mapping):
            flat |= {f"{part} of {name}": values[part] for part in sorted(values.keys() & known.keys())}
    return flat


def _differences(there: Config, now: Config) -> list[str]:
    """In words, what is not the same in two configurations."""
    changed = [
        f"{name}: {there.get(name)!r} there, {value!r} now" for name, value in now.items() if there.get(name) != value
    ]
    return changed + [f"{name}: {there[name]!r} there, absent now" for name in there.keys() - now.keys()]


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def config_hash(config: Config) -> str:
    """Return eight digits that identify a config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


def as_config(options: Any) -> dict[str, Any]:
    """Return a dataclass of options as JSON holds it."""
    config: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options)))
    return config
