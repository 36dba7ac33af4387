"""States on disk through Orbax: written in the background, each with its checksum, complete or not there."""

import contextlib
import hashlib
import inspect
import json
import logging
import math
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cnnjax.errors import UserError
from cnnjax.runs import processes
from cnnjax.runs.hardware import describe_versions
from cnnjax.runs.signals import Interrupted
from cnnjax.train.state import TrainState, count_steps, tree_sha256

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

NEWEST_KEPT = 2  # one to go back to where the other is damaged
SET_ASIDE = "damaged"  # the folder for those
SHOWN = 3  # differences that a message names
log = logging.getLogger(__name__)


class Checkpoints:
    """The newest states of one training, and the best.

    A state that cannot be saved is reported, and training continues. A state that was damaged after it was saved is
    noticed by its checksum and set aside, and the state before it is restored.

    Of several processes, which all have the same state, the first writes, and decides alone what to do when a disk is
    full and which state is whole. All of them read, from a directory that all of them see.

    Args:
        folder: its own directory; made if need be.
        every: minutes after which a state is due to be saved within an epoch.
        check: called before a state is saved; raises an error where saving would be in vain.
    """

    def __init__(self, folder: Path, every: float = math.inf, check: Callable[[], None] = lambda: None):
        for name in ("absl", "asyncio"):  # lines for every save, stack traces for one that fails: `_report` has a line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._folder, self._check = folder.absolute(), check
        self._opened: CheckpointManager | None = self._open()
        self._seconds, self._saved = 60 * every, time.monotonic()
        self._failed = False

    def due(self) -> bool:
        """Return whether the last state was saved long enough ago."""
        return time.monotonic() - self._saved >= self._seconds

    @property
    def _manager(self) -> "CheckpointManager":
        """After a failure a new one, opened when the next state is saved or restored."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> "CheckpointManager":
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        class Manager(ocp.CheckpointManager):
            """Reads every state's score as it opens, and treats an unreadable score as missing."""

            def metrics(self, step: int) -> dict[str, float] | None:
                try:
                    return {"score": float(super().metrics(step)["score"]), "step": step}
                except Exception:  # none was given, or the file is damaged in some way
                    return None

        self._folder.mkdir(parents=True, exist_ok=True)
        best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        kept = AnyPreservationPolicy([LatestN(NEWEST_KEPT), best])
        own = processes.index()  # each process has a manager of its own: none waits for another's
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            best_fn=_score,  # without it no score reaches the disk, and a resumed run forgets the best
            cleanup_tmp_directories=processes.is_first(),
            read_only=not processes.is_first(),
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own}),
        )
        return Manager(self._folder, options=options)

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Begin to save, in the first process; the state may be overwritten at once.

        Args:
            state: as one device has it.
            score: the higher the better; the best is kept.
        """
        import orbax.checkpoint as ocp

        step, self._saved = count_steps(state), time.monotonic()
        self._check()
        if not processes.is_first():
            return
        try:
            if step == self._manager.latest_step():
                return
            self._failed = False
            about = {"sha256": tree_sha256(state), "arrays": _describe(state), "versions": describe_versions()}
            about["own_sha256"] = _sha256(about)
            if processes.count() > 1:
                state = jax.tree.map(np.array, state)  # Orbax takes what is one process's for a part of a whole
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
            metrics = None if score is None else {"score": float(score), "step": step}
            self._manager.save(step, args=items, metrics=metrics)
        except Exception as error:  # a run of a week does not end because of a disk
            self._report(f"the state of step {step}, or the one before it, cannot be saved", error)

    def _report(self, what: str, error: Exception) -> None:
        log.warning("%s in %s (%s): training continues, older states are intact", what, self._folder, _one_line(error))
        self._failed = True
        opened, self._opened = self._opened, None
        if opened is not None:
            with contextlib.suppress(Exception):  # it fails for the same reason
                opened.close()

    def newest(self) -> int | None:
        """Return the step of the newest state; None if there is none yet."""
        return processes.from_first(self._manager.latest_step)

    def restore(self, like: TrainState) -> TrainState | None:
        """Return the newest state that is whole, with the placement of `like`; None if there is none yet.

        Raises:
            UserError: it is of another network or optimiser, or there are states and each is damaged.
        """
        if processes.is_first():
            state = self._newest_whole(like)
            processes.exchange(None if state is None else count_steps(state))
            return state
        (step, *_) = processes.exchange(None)
        return None if step is None else self._read(step, like)

    def restore_best(self, like: TrainState) -> TrainState | None:
        """Return the first state with the highest score; None if none has one, or if it is damaged, which is reported.

        Raises:
            UserError: it is of another network or optimiser.
        """
        self.wait()
        step = processes.from_first(lambda: self._manager.best_step())
        try:
            return None if step is None else self._read(step, like)
        except UserError:
            raise
        except Exception as error:  # as in `_newest_whole`
            log.warning("the best state, %s, is damaged (%s)", self._folder / str(step), _one_line(error))
            return None

    def _newest_whole(self, like: TrainState) -> TrainState | None:
        self.wait()
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self._read(step, like)
            except UserError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
                damaged[step] = _one_line(error)
            else:
                self._set_aside(damaged, step)
                return state
        if damaged:
            found = "; ".join(f"step {step}: {error}" for step, error in damaged.items())
            raise UserError(
                f"every checkpoint in {self._folder} is damaged ({found}): nothing was changed; put back a copy, or "
                "start over (`overwrite`)"
            )
        return None

    def _read(self, step: int, like: TrainState) -> TrainState:
        import orbax.checkpoint as ocp

        about: Any = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        if _sha256(about) != about["own_sha256"]:  # or a damaged description would be another network's
            raise ValueError("the checksum of its description is wrong")
        differences = list(_differences(about["arrays"], _describe(like)))
        if differences:
            more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
            named = "; ".join([*differences[:SHOWN], *more, *_other_versions(about["versions"])])
            raise UserError(
                f"{self._folder / str(step)} is of another network or optimiser ({named}): choose another "
                "directory (`out`), or start over (`overwrite`)"
            )
        abstract: Any = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            state: TrainState = self._manager.restore(step, args=items)["state"]
            if tree_sha256(state) != about["sha256"]:
                raise ValueError("its checksum is wrong")
        except Exception as error:
            for written in _other_versions(about["versions"]):
                error.add_note(written)
            raise
        for written in _other_versions(about["versions"]):
            where = self._folder / str(step)
            log.warning("checkpoint %s was %s: results may differ in their last digits", where, written)
        return state

    def _set_aside(self, damaged: dict[int, str], good: int) -> None:
        for step, error in damaged.items():
            aside = self._folder / SET_ASIDE / str(step)
            log.warning("checkpoint %s is damaged (%s): resuming from step %d", aside, error, good)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)  # an earlier state of this step
            (self._folder / str(step)).rename(aside)
        if damaged:
            self._manager.reload()

    def close(self) -> None:
        """Wait until everything is on disk."""
        self.wait()
        if self._opened is not None:
            self._opened.close()

    def wait(self) -> None:
        """Wait until the last state is on disk, or reported as lost."""
        try:
            if self._opened is not None:
                self._opened.wait_until_finished()
        except Exception as error:
            self._report("the last state cannot be saved", error)

    def have_saved(self) -> bool:
        """Wait until the last save has ended, and return whether its state is on disk."""
        self.wait()
        return not self._failed

    def how_to_resume(self, step: int) -> str:
        """Return what is on disk after a stop at a step, in words."""
        there = f"is saved in {self._folder}" if self.have_saved() else "could not be saved"
        return f"the state after step {step} {there}. The same training in the same run resumes from its newest state"


class Kept:
    """The newest finite state of a training that keeps nothing on disk; stands in the place of `Checkpoints`."""

    def __init__(self) -> None:
        self._state: TrainState | None = None

    def due(self) -> bool:
        """Return False: within an epoch nothing is kept."""
        return False

    def save(self, state: TrainState, score: float | None = None) -> None:
        """Keep a copy, for the state may be overwritten at once."""
        self._state = jax.tree.map(np.array, state)

    def newest(self) -> int | None:
        """Return the step of the state; None if there is none yet."""
        return None if self._state is None else count_steps(self._state)

    def restore(self, like: TrainState) -> TrainState | None:
        """Return the state; None if there is none yet."""
        return self._state

    def have_saved(self) -> bool:
        """Return False: nothing outlives the process."""
        return False

    def how_to_resume(self, step: int) -> str:
        """Return what is lost after a stop at a step, in words."""
        return f"the {step} steps done are lost: give `fit` a run, as in `run=Run(path)`, and it resumes from there"

    def close(self) -> None:
        """Do nothing."""


def hide_late_complaints() -> None:
    """Keep the program from printing what is left of a save or restore that failed and was reported.

    TensorStore calls back into event loops that Orbax has closed meanwhile, and coroutines end that nobody awaits. A
    signal that came while Python collected garbage is not printed either: the next training obeys it.
    """
    shown = sys.unraisablehook
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

    def show(unraisable: Any) -> None:
        error = unraisable.exc_value
        late = inspect.iscoroutine(unraisable.object) or str(error) == "Event loop is closed"
        if not (late or isinstance(error, Interrupted)):
            shown(unraisable)

    sys.unraisablehook = show


def are_saves_stuck() -> bool:
    """Return whether threads of failed saves are left; they would keep the program from ending for minutes."""
    return any(type(thread).__module__.startswith("orbax.") for thread in threading.enumerate())


def _score(metrics: dict[str, float]) -> Any:
    """What states are ordered by, the best last: of equal scores the first state is the best."""
    return metrics["score"], -metrics["step"]


def _sha256(about: dict[str, Any]) -> str:
    rest = {name: value for name, value in about.items() if name != "own_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _describe(state: TrainState) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _differences(there: dict[str, str], here: dict[str, str]) -> Iterator[str]:
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            yield f"{name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"


def _other_versions(there: dict[str, str]) -> Iterator[str]:
    """Describe the versions that wrote a state where they are not those that read it."""
    changed = list(_differences(there, describe_versions()))
    if changed:
        yield f"written with other versions, {', '.join(changed)}"


def _one_line(error: Exception) -> str:
    first = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return "; ".join([first, *getattr(error, "__notes__", ())])
