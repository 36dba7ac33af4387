"""Learning-rate schedules by name, from Optax's parts."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import optax

Schedule = Literal["constant", "step", "exponential", "cosine", "one-cycle"]


class Span(NamedTuple):
    """What a schedule is made for: `updates` of the parameters after the warm-up, from the learning rate `lr` on."""

    lr: float
    updates: int
    decay_rate: float
    decay_updates: int


class ScheduleKind(NamedTuple):
    """A schedule, and which fields of `Optimization` are options of it."""

    make: Callable[[Span], optax.Schedule]
    options: tuple[str, ...]


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
    "cosine": ScheduleKind(lambda span: optax.cosine_decay_schedule(span.lr, span.updates), ("warmup_epochs",)),
    # lr / 25 to lr in 30 % of the training, then to lr / 250,000, both along cosines, as torch's OneCycleLR.
    # Smith & Topin, "Super-convergence" (2018).
    "one-cycle": ScheduleKind(lambda span: optax.cosine_onecycle_schedule(span.updates, span.lr), ()),
}
