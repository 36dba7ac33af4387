"""Learning-rate schedules by name, from Optax's parts."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

Schedule = Literal["constant", "step", "exponential", "cosine", "one-cycle"]


class Span(NamedTuple):
    """What a schedule is made for: `updates` of the parameters after the warm-up, from the learning rate `lr` on."""

    lr: float
    updates: int
    decay_rate: float
    decay_updates: int


class ScheduleKind(NamedTuple):
    """A schedule, which fields of `Optimization` are options of it, and whether it is stretched over all epochs."""

    make: Callable[[Span], optax.Schedule]
    options: tuple[str, ...]
    stretched: bool = False


def one_cycle(lr: float, updates: int) -> optax.Schedule:
    """Return torch's `OneCycleLR` with its defaults: lr / 25 to lr in 30 % of the updates, then down to lr / 250,000.

    Both along half a cosine. Counted from 0, the peak is at `0.3 updates - 1` and the last update is at the minimum, so
    that a training of three updates or fewer has no rise. After the last one the minimum remains. torch's also moves
    the momentum, in the other direction; here it stays.

    Args:
        lr: the peak.
        updates: of the parameters in the training, at least 1.

    Source: Smith & Topin, "Super-convergence" (2018).
    """
    peak, last = 0.3 * updates - 1, updates - 1

    def between(start: float, end: float, share: jax.Array) -> jax.Array:
        # Half a cosine as a square: near its ends 1 - cos would leave no digits of the minimum.
        return start + (end - start) * jnp.square(jnp.sin(math.pi / 2 * share))

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.minimum(count, last)
        rise = between(lr / 25, lr, count / peak)
        fall = between(lr / 250_000, lr, (last - count) / (last - peak))
        return jnp.where(count <= peak, rise, fall)

    return schedule


_DECAY = ("decay_rate", "decay_epochs")
SCHEDULES: dict[str, ScheduleKind] = {
    "constant": ScheduleKind(lambda span: optax.constant_schedule(span.lr), ("warmup_epochs",)),
    # lr * decay_rate ** floor(t / decay_epochs): in integers, as a quotient just below a whole number would be late.
    "step": ScheduleKind(
        lambda span: lambda count: span.lr * span.decay_rate ** (count // span.decay_updates),
        ("warmup_epochs", *_DECAY),
    ),
    # lr * decay_rate ** (t / decay_epochs).
    "exponential": ScheduleKind(
        lambda span: optax.exponential_decay(span.lr, span.decay_updates, span.decay_rate), ("warmup_epochs", *_DECAY)
    ),
    # lr / 2 * (1 + cos(pi t / T)). Loshchilov & Hutter, "SGDR" (2017).
    "cosine": ScheduleKind(lambda span: optax.cosine_decay_schedule(span.lr, span.updates), ("warmup_epochs",), True),
    "one-cycle": ScheduleKind(lambda span: one_cycle(span.lr, span.updates), (), True),
}
