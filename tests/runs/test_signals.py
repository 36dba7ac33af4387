"""A signal is obeyed though Python may swallow what it raises."""

import signal
import sys

from cnnjax import runs
from cnnjax.runs.signals import deferred_signals


class Swallows:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_came_while_garbage_was_collected_stops_the_next_training(monkeypatch):
    swallowed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: swallowed.append(unraisable.exc_type))
    with runs.raised_signals():
        Swallows()
        assert swallowed == [runs.Interrupted]
        with deferred_signals() as stop:
            assert stop.signum == signal.SIGTERM
    with runs.raised_signals(), deferred_signals() as stop:
        assert stop.signum is None


def test_signals_that_come_together_are_one_request():
    with deferred_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.signum == signal.SIGTERM
