"""What a person sees while a network trains: a live bar on a terminal, elsewhere a plain line per epoch."""

import contextlib
import sys
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

REFRESH_SECONDS = 0.5


def number(value: float) -> str:
    """Return a figure with four digits, in full: "12340", not "1.234e+04"."""
    text = f"{value:.4g}"
    return f"{Decimal(text):f}" if "e" in text else text


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
    return Live(console, title, epochs, steps, first_step) if console.is_terminal else Plain(title, epochs)


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

    def __init__(self, title: str, epochs: int):
        self.title, self.epochs = title, epochs

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Print the epoch's values."""
        text = "  ".join(f"{name} {number(value)}" for name, value in values.items())
        with contextlib.suppress(OSError):  # a full disk, or a reader that left: training continues
            print(f"{self.title}  epoch {epoch}/{self.epochs}  {text}", file=sys.stderr, flush=True)


class Live:
    """A bar over all steps of a training with its epoch, means so far, speed and time left."""

    def __init__(self, console: "Console", title: str, epochs: int, steps: int, first_step: int):
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self.title, self.epochs, self.steps = title, epochs, steps
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task(title, total=epochs * steps, completed=first_step, status="compiling")
        self._progress.start()
        self._shown = 0.0

    def due(self) -> bool:
        """Return whether the last update is long enough ago."""
        return time.monotonic() - self._shown >= REFRESH_SECONDS

    def update(self, epoch: int, step: int, means: Mapping[str, float], images_per_second: float) -> None:
        """Move the bar."""
        self._shown = time.monotonic()
        values = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        status = f"epoch {epoch}/{self.epochs}  step {step}/{self.steps}  {values}  {images_per_second:,.0f} images/s"
        self._progress.update(self._task, completed=(epoch - 1) * self.steps + step, status=status)

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """Print the epoch's values above the bar."""
        text = "  ".join(f"{name} {number(value)}" for name, value in values.items())
        self._progress.console.print(f"{self.title}  epoch {epoch}/{self.epochs}  {text}", highlight=False)
        self._progress.update(self._task, completed=epoch * self.steps)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
