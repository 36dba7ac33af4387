"""What a person sees while a network trains: a live bar on a terminal, elsewhere a plain line per epoch."""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from cnnjax.runs import compilation

if TYPE_CHECKING:
    from rich.console import Console

REFRESH_SECONDS = 0.5
LONG = 0.5  # seconds of compilation that are worth a line
COLUMNS = 80  # of a line where no terminal says how many it has
OTHERS = {"images_per_second": "{:,.0f} images/s", "lr": ""}  # figures that a line has where there is room


def number(value: float) -> str:
    """Return a figure with four digits, in full: "12340", not "1.234e+04"."""
    text = f"{value:.4g}"
    return f"{Decimal(text):f}" if "e" in text else text


def duration(seconds: float) -> str:
    """Return a time as a person says it: "0:07", "12:30", "3:04:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(start: str, values: Mapping[str, float], last: Sequence[str] = (), width: int = COLUMNS) -> str:
    """Return a line about an epoch that has as much of this as fits into the width, the most important first.

    Args:
        start: the line's beginning.
        values: figures by name; one of the validation, "val_NAME", stands beside that of the training.
        last: what to say after the figures of training and validation, and before the speed and the learning rate.
        width: of the line in letters.
    """
    parts = [start]
    for name, value in values.items():
        if name in OTHERS or (name.startswith("val_") and name.removeprefix("val_") in values):
            continue
        beside = f", val {short(values[f'val_{name}'])}" if f"val_{name}" in values else ""
        parts.append(f"{name.replace('_', ' ')} {short(value)}{beside}")
    others = [text.format(values[name]) for name, text in OTHERS.items() if name in values and name != "lr"]
    others += [f"lr {number(values['lr'])}"] if "lr" in values else []
    text = parts[0]
    for part in [*parts[1:], *last, *others]:
        if len(text) + 2 + len(part) <= width:
            text += f"  {part}"
    return text


def short(value: float) -> str:
    """Return a figure with three decimals, or three digits where it is small."""
    return f"{value:.3f}" if 0.1 <= abs(value) < 1000 or value == 0 else number(float(f"{value:.3g}"))


class Clock:
    """The time left of a training, and how long it has compiled.

    Args:
        steps: of the whole training.
        first: steps that were done before.
    """

    def __init__(self, steps: int, first: int):
        self._steps, self._first = steps, first
        self._began, self._compiled = time.monotonic(), compilation.seconds()
        self._said = False

    def left(self, step: int) -> float | None:
        """Return the seconds left after a step, as those before it took, with validation but without compilation."""
        done = step - self._first
        if done <= 0:
            return None
        spent = time.monotonic() - self._began - (compilation.seconds() - self._compiled)
        return max(spent, 0.0) / done * (self._steps - step)

    def lines(self, title: str, epoch: str, step: int, values: Mapping[str, float], width: int) -> list[str]:
        """Return what to say at the end of an epoch: after the first one also how long the compilation took."""
        left, compiled = self.left(step), compilation.seconds() - self._compiled
        said = [f"{duration(left)} left"] if left and step < self._steps else []
        first = [f"{title}  compiled in {compiled:.0f} s"] if not self._said and compiled >= LONG else []
        self._said = True
        return [*first, line(f"{title}  {epoch}", values, said, width)]


class Display(Protocol):
    """How the loop reports its progress."""

    def due(self) -> bool:
        """Return whether an update would be shown now; only then does the loop wait for the device."""
        ...

    def update(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Show where an epoch stands."""
        ...

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Show what an epoch ended with."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def display(title: str, epochs: int, steps: int, first_step: int = 0) -> Display:
    """Return the display for standard error: live on a terminal, plain lines otherwise."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    return (
        Live(console, title, epochs, steps, first_step)
        if console.is_terminal
        else Plain(title, epochs, steps, first_step)
    )


class Silent:
    """Shows nothing, as of several processes all but the first."""

    def due(self) -> bool:
        """Return False: nothing is shown within an epoch."""
        return False

    def update(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Show nothing."""

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to undo."""


class Plain(Silent):
    """A line per epoch."""

    def __init__(self, title: str, epochs: int, steps: int = 1, first_step: int = 0):
        self.title, self.epochs, self.steps = title, epochs, steps
        self._clock = Clock(epochs * steps, first_step)

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Print the epoch's values."""
        where = self.title, f"epoch {epoch}/{self.epochs}", epoch * self.steps
        with contextlib.suppress(OSError):  # a full disk, or a reader that left: training continues
            print(*self._clock.lines(*where, values, COLUMNS), sep="\n", file=sys.stderr, flush=True)


class Live:
    """A bar over all steps of a training with its epoch, means so far, speed and time left."""

    def __init__(self, console: "Console", title: str, epochs: int, steps: int, first_step: int):
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.table import Column

        self.title, self.epochs, self.steps = title, epochs, steps
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task(title, total=epochs * steps, completed=first_step, status="compiling")
        self._progress.start()
        self._shown, self._clock = 0.0, Clock(epochs * steps, first_step)

    def due(self) -> bool:
        """Return whether the last update is long enough ago."""
        return time.monotonic() - self._shown >= REFRESH_SECONDS

    def update(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Move the bar."""
        self._shown = time.monotonic()
        done = (epoch - 1) * self.steps + step
        left = self._clock.left(done)
        values = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        status = f"{duration(left)} left  " if left is not None else ""
        status += f"epoch {epoch}/{self.epochs}  step {step}/{self.steps}  {values}  {images_per_second:,.0f} images/s"
        self._progress.update(self._task, completed=done, status=status)

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Print the epoch's values above the bar."""
        console, where = self._progress.console, (self.title, f"epoch {epoch}/{self.epochs}", epoch * self.steps)
        for text in self._clock.lines(*where, values, console.width):
            console.print(text, highlight=False, markup=False)
        self._progress.update(self._task, completed=epoch * self.steps)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
