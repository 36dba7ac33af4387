"""Several processes of one run, on one machine or many: how they find each other, agree, and end together.

They exchange messages through JAX's coordination service, which process 0 hosts: strings by key, with bounded waits,
while the devices compute. Every process calls `exchange`, and the functions built on it, at the same places. In a run
of one process each of these functions does nothing.
"""

import itertools
import json
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import jax
from jax.errors import JaxRuntimeError

from cnnjax import compat
from cnnjax.errors import RunError, UserError
from cnnjax.runs.signals import Interrupted

T = TypeVar("T")

HEARTBEAT_SECONDS = 20  # a process that gives no sign for so long is dead
WAIT_SECONDS = 3600  # for other work of a process, such as reading data or drawing
PARTING_SECONDS = 10  # for the other processes to end too
POLL_SECONDS = 1
ENDED = "cnnjax/ended/"
LOST = re.compile("gloo|nccl|closed by peer|reset by peer|coordination|heartbeat|unavailable", re.IGNORECASE)
GO_ON = "the same command resumes from the last saved state"
_numbers = itertools.count()


def count() -> int:
    """Return how many processes the run has; unlike `jax.process_count` this does not start a backend."""
    processes: int = compat.coordination().num_processes
    return processes


def index() -> int:
    """Return the number of this process."""
    own: int = compat.coordination().process_id
    return own


def is_first() -> bool:
    """Return whether this is the process that writes and shows."""
    return index() == 0


def label() -> str:
    """Return what a message of this process begins with."""
    return "" if is_first() else f"[process {index()}] "


def _client() -> Any:
    return compat.coordination().client


# ---------------------------------------------------------------- beginning


def join(distributed: Sequence[str], seconds: float) -> None:
    """Make this process one of several, before anything else touches JAX's devices.

    Args:
        distributed: empty where SLURM, Open MPI, Kubernetes or a TPU pod says where this process stands; else the
            "HOST:PORT" of process 0, the number of processes, and the index of this one.
        seconds: to wait for the others.

    Raises:
        UserError: there is no cluster, the values do not fit together, or the port is taken.
    """
    address, processes, own = _parse(distributed) if distributed else (None, None, None)
    if own == 0:
        _check_port(str(address))
    who = f"process 0 at {address} does not answer" if own else "not all processes have joined"
    _end_with_message(f"{who} after {seconds:g} seconds: start every process of the run, each once")
    jax.config.update("jax_enable_preemption_service", False)  # signals are ours
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own would wait until the others have joined
    try:
        jax.distributed.initialize(
            address,
            processes,
            own,
            cluster_detection_method="deactivate" if distributed else None,
            initialization_timeout=round(seconds),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=PARTING_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if address is None and "coordinator_address" in str(error):
            raise UserError(
                "`distributed`: no cluster found (SLURM, Open MPI, Kubernetes or a TPU pod): start the processes "
                "with its launcher, such as srun, or give each one `distributed=HOST:PORT PROCESSES INDEX`"
            ) from None
        raise UserError(f"`distributed`: {_one_line(error)}") from None
    finally:
        signal.signal(signal.SIGINT, handler)
    _end_with_message(f"another process of the run died or cannot be reached: {GO_ON}")
    if "JAX_LOCAL_DEVICE_IDS" not in os.environ and exchange(socket.gethostname()).count(socket.gethostname()) == 1:
        for kind in ("cuda", "rocm"):  # JAX leaves a task of SLURM one GPU, also where it has the host to itself
            jax.config.update(f"jax_{kind}_visible_devices", "all")


def _parse(distributed: Sequence[str]) -> tuple[str, int, int]:
    expected = "`distributed` must be HOST:PORT PROCESSES INDEX, such as node1:7654 2 0 in the first of two processes"
    try:
        address, processes, own = distributed[0], *map(int, distributed[1:])
        if not 0 < int(address.rsplit(":", 1)[1]) < 2**16:
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(f"{expected}, got {' '.join(distributed)}") from None
    if not 0 <= own < processes:
        raise UserError(f"`distributed`: INDEX must be 0 to {processes - 1} of {processes} processes, got {own}")
    return address, processes, own


def _check_port(address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"`distributed`: port {port} cannot be used on this machine ({error.strerror}): choose another, the "
                "same for every process"
            ) from None


def _end_with_message(message: str) -> None:
    """From now on print this message, and exit with 1, where JAX would abort."""

    def end() -> None:
        os.write(2, f"{label()}error: {message}. TF_CPP_MIN_LOG_LEVEL=0 shows what JAX says\n".encode())
        os._exit(1)

    compat.replace_abort(end)


def check_same(what: Mapping[str, Any]) -> None:
    """Raise a UserError in every process that names what differs between them."""
    first, *others = exchange(dict(what))
    differences = [
        f"{name}: {first.get(name)!r} in process 0, {other.get(name)!r} in process {number}"
        for number, other in enumerate(others, 1)
        for name in sorted(first.keys() | other.keys())
        if first.get(name) != other.get(name)
    ]
    if differences:
        raise UserError(
            f"the processes do not agree ({'; '.join(differences)}): start all with the same options, versions and data"
        )


# ---------------------------------------------------------------- meanwhile


def exchange(value: Any) -> list[Any]:
    """Return the values of all processes, as JSON holds them, in order.

    Inside `together`, an error that ended another process ends this one.

    Raises:
        RunError: a process does not answer.
    """
    if count() == 1:
        return [value]
    client, number = _client(), next(_numbers)
    client.key_value_set(f"cnnjax/{number}/{index()}", json.dumps(value))
    values = [json.loads(_wait_for(f"cnnjax/{number}/{other}", other)) for other in range(count())]
    if number:
        client.key_value_delete(f"cnnjax/{number - 1}/{index()}")  # every process has read it
    return values


def from_first(function: Callable[[], T]) -> T:
    """Return in every process the value of the function in process 0, the only one that calls it, as JSON holds it."""
    value: T = exchange(function() if is_first() else None)[0]
    return value


def _wait_for(key: str, other: int) -> str:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            return str(_client().blocking_key_value_get(key, 1000 * POLL_SECONDS))
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        if _end_of_another() is not None:
            raise _LostError(f"process {other} has ended: {GO_ON}")
    raise RunError(f"process {other} does nothing for {WAIT_SECONDS} seconds: stop it; {GO_ON}")


class Wishes:
    """What one process asks all to do after the same step: stop, or save.

    Asking costs an exchange, so it happens about once in `seconds`, after a number of steps that process 0 chooses.
    """

    def __init__(self, seconds: float = 1.0):
        self.signum: int | None = None
        self._seconds, self._every, self._left, self._asked = seconds, 1, 1, time.monotonic()

    def ask(self, signum: int | None, save: bool, now: bool = False) -> bool:
        """Return whether all save; once a signal came in any process, `signum` is set in all.

        Args:
            signum: of a signal that this process got.
            save: whether a state is due to be saved; process 0's counts.
            now: ask in any case.
        """
        if count() == 1:
            self.signum = signum
            return save
        self._left -= 1
        if self._left > 0 and not now:
            return False
        passed, self._asked = time.monotonic() - self._asked, time.monotonic()
        done = self._every - self._left
        self._every = max(1, min(2 * self._every, int(done * self._seconds / max(passed, 1e-9))))
        wishes = exchange([signum, save, self._every])
        self.signum = next((wish[0] for wish in wishes if wish[0] is not None), None)
        self._left = self._every = wishes[0][2]
        return bool(wishes[0][1])


# ---------------------------------------------------------------- ending


@contextmanager
def together() -> Iterator[None]:
    """Let an error that ends the block in one process end it in all, with the same message and exit status."""
    if count() == 1:
        yield
        return
    own, patience = None, float(WAIT_SECONDS)
    try:
        yield
    except BaseException as error:
        own = _explained(error)
        patience = 0 if isinstance(own, _LostError) else PARTING_SECONDS
    theirs = _part(own, patience)
    if own is None or (isinstance(own, _LostError) and theirs is not None):
        own = theirs
    if own is not None:
        raise own from None


def have_joined() -> bool:
    """Return whether this process has joined others: JAX would wait for them as it ends."""
    return jax.distributed.is_initialized()


class _LostError(RunError):
    """Another process is gone; its own message, if there is one, says why."""


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, (UserError, RunError, Interrupted)):
        return error
    if isinstance(error, JaxRuntimeError) and LOST.search(str(error)):
        return _LostError(f"another process of the run died or cannot be reached ({_one_line(error)}): {GO_ON}")
    traceback.print_exception(error)
    return RunError(f"{type(error).__name__}: {_one_line(error)}")


def _part(own: BaseException | None, patience: float) -> BaseException | None:
    """Tell the others how this process ends, give them time to end, and return the first error of another process.

    Where all end, they end together: JAX aborts processes that process 0 leaves behind.
    """
    client = _client()
    kind = next(
        (name for name, error in ERRORS.items() if isinstance(own, error) and not isinstance(own, _LostError)), ""
    )
    text = own.signum if isinstance(own, Interrupted) else str(own)
    theirs = None
    with suppress(JaxRuntimeError):  # process 0 is gone, and its messages with it
        client.key_value_set(f"{ENDED}{index()}", json.dumps([kind, text]))
        deadline = time.monotonic() + patience
        while len(client.key_value_dir_get(ENDED)) < count() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 10)
        theirs = _end_of_another()
        if len(client.key_value_dir_get(ENDED)) == count():
            jax.distributed.shutdown()
    return theirs


def _end_of_another() -> BaseException | None:
    for key, value in sorted(_client().key_value_dir_get(ENDED)):
        other, (kind, text) = int(key.removeprefix(ENDED)), json.loads(value)
        if kind and other != index():
            return Interrupted(text) if kind == "Interrupted" else ERRORS[kind](f"process {other}: {text}")
    return None


ERRORS: dict[str, Any] = {"UserError": UserError, "RunError": RunError, "Interrupted": Interrupted}


def _one_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
