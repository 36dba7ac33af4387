"""How long JAX has compiled in this process, which is no time of steps."""

import threading
import time

from jax import monitoring

_EVENTS = "/jax/core/compile/"  # tracing, lowering, and XLA's compilation, each with its seconds
_lock = threading.Lock()
_spans: list[tuple[float, float]] = []  # (start, end) of all that has ended; none within another
_total = 0.0


def seconds() -> float:
    """Return the seconds that tracing and compilation have taken so far, since this module was imported."""
    with _lock:
        return _total


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    """Add what has ended now; what happened within it, such as tracing of inner functions, counts once."""
    global _total
    if not event.startswith(_EVENTS):
        return
    end = time.monotonic()
    start = end - duration_secs
    with _lock:
        while _spans and _spans[-1][0] >= start:
            inner = _spans.pop()
            _total -= inner[1] - inner[0]
        _spans.append((start, end))
        _total += duration_secs
        del _spans[:-1000]  # those before are within nothing that goes on


monitoring.register_event_duration_secs_listener(_note)
