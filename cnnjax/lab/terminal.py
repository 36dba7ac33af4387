"""What the command line prints besides results, and how the program ends."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, TextIO


def say(text: str) -> None:
    """Print to standard error; if that fails, as on a full disk, only the exit status reports the error."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def print_markdown(text: str) -> None:
    """Print Markdown; where a table is wide, its cells are wrapped between words, which Rich would shorten."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.markdown import Markdown, TableElement
    from rich.table import Table

    class Whole(TableElement):
        def __rich_console__(self, *where: Any) -> Iterator[Table]:
            for table in super().__rich_console__(*where):
                assert isinstance(table, Table)
                for column in table.columns:
                    words = (word for cell in (column.header, *column.cells) for word in str(cell).split())
                    column.min_width, column.overflow = max(map(cell_len, words), default=0), "fold"
                yield table

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "table_open": Whole}

    Console().print(Page(text))


def problem(error: OSError) -> str:
    """Return an error in words, with the file that it is about."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def in_words(error: Exception) -> str:
    """An error as this process reports it, with flags for the options that it names once some are parsed."""
    processes, options = (sys.modules.get(f"cnnjax.{name}") for name in ("runs.processes", "lab.options"))
    message = options.with_flags(str(error), options.parsed) if options else error
    return f"{processes.label() if processes else ''}error: {message}"


def give_up_unwritable(stream: TextIO) -> None:
    """Drop the buffer of a stream that cannot be written; Python would try again as it ends, and exit with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_with(status: int) -> None:
    """End the process with this exit status, even if signals come or threads are left."""
    for signum in (signal.SIGTERM, signal.SIGINT):  # a signal while Python ends would change the exit status
        signal.signal(signum, signal.SIG_IGN)
    checkpoints, processes = (sys.modules.get(f"cnnjax.{name}") for name in ("train.checkpoints", "runs.processes"))
    if (checkpoints and checkpoints.are_saves_stuck()) or (processes and processes.have_joined()):
        os._exit(status)  # Python would wait for them
    sys.exit(status)
