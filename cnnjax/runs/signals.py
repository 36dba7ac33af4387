"""SIGTERM and Ctrl-C: finish the step, save, and report it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)
ONE_REQUEST = 1.0  # seconds in which signals are one request: some senders signal a process, and then its group


class Interrupted(SystemExit):
    """A signal asked the run to stop: where nobody catches this, Python ends with 128 + the signal's number, no trace.

    Args:
        signum: number of the signal.
        saved: whether the training up to then is on disk.
    """

    def __init__(self, signum: int, saved: bool = True):
        super().__init__(128 + signum)
        self.signum, self.saved = signum, saved


def interrupted(signum: int, saved: bool, how: str) -> Interrupted:
    """Return the exception that ends a training, and say how to go on unless the command around it says that itself.

    Args:
        signum: number of the signal.
        saved: whether the training up to then is on disk.
        how: what is saved, and how to resume from there.
    """
    if not _commands:
        with suppress(OSError):  # the process ends anyway
            print(f"\nstopped; {how}", file=sys.stderr, flush=True)
    return Interrupted(signum, saved)


class StopRequest:
    """Set by the first signal; the second stops at once."""

    signum: int | None = None
    since = 0.0


_commands: list[None] = []  # one for each `raised_signals` block around: the command says how to resume
_raised = StopRequest()  # Python swallows what is raised in callbacks, such as those of garbage collection


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Hold SIGTERM and SIGINT back inside the `with` block, in the main thread; elsewhere leave them alone."""
    request = StopRequest()
    request.signum, request.since = _raised.signum, _raised.since

    def note(signum: int, frame: FrameType | None) -> None:
        if request.signum is None:
            request.signum, request.since = signum, time.monotonic()
        elif time.monotonic() - request.since > ONE_REQUEST:
            raise Interrupted(signum)

    with _handlers(note):
        yield request


@contextmanager
def raised_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Interrupted` inside the `with` block; the second ends the process at once."""

    def stop(signum: int, frame: FrameType | None) -> None:
        _raised.signum, _raised.since = signum, time.monotonic()
        raise Interrupted(signum)

    _raised.signum = None
    _commands.append(None)
    try:
        with _handlers(stop), _watched():
            yield
    finally:
        _raised.signum = None
        _commands.pop()


@contextmanager
def _watched() -> Iterator[None]:
    """Let a thread see signals at once: Python's own handlers wait for a compilation or an epoch to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(read,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        watcher.join()
        os.close(read)


def _watch(signals: int) -> None:
    first = None
    while (signum := os.read(signals, 1)) != b"":
        if signum[0] not in STOPPING:
            continue
        if first is None:
            first = time.monotonic()
            _say("stopping, and saving what is done; a second signal stops at once")
        elif time.monotonic() - first > ONE_REQUEST:
            _say("stopped at once; the same command resumes from the last saved state")
            os._exit(128 + signum[0])


def _say(text: str) -> None:
    with suppress(OSError):  # the process ends anyway
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())


@contextmanager
def _handlers(handler: object) -> Iterator[None]:
    try:
        before = {signum: signal.signal(signum, handler) for signum in STOPPING}  # type: ignore[arg-type]
    except ValueError:  # only the main thread may handle signals
        yield
        return
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)
