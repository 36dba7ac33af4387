"""SIGTERM and Ctrl-C: finish the step, save, and say so."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the run to stop.

    Args:
        signum: which one.
    """

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """Set by the first signal; the second stops at once."""

    signum: int | None = None

    def raise_if_set(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.signum is not None:
            raise Interrupted(self.signum)


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Hold SIGTERM and SIGINT back inside the `with` block, in the main thread; elsewhere leave them alone."""
    request = StopRequest()

    def note(signum: int, frame: FrameType | None) -> None:
        if request.signum is not None:
            raise Interrupted(signum)
        request.signum = signum

    with _handlers(note):
        yield request


@contextmanager
def raised_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Interrupted` inside the `with` block."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    with _handlers(stop):
        yield


@contextmanager
def _handlers(handler: object) -> Iterator[None]:
    try:
        before = {signum: signal.signal(signum, handler) for signum in (signal.SIGTERM, signal.SIGINT)}  # type: ignore[arg-type]
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)
