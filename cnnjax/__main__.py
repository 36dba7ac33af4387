"""The command line of the package, without this repository's experiments: `cnnjax`, or `python -m cnnjax`."""

import signal

from cnnjax.lab import heap


def main() -> None:
    """Run the command that the program was started with, and exit with its status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries are imported prints no stack trace
    heap.keep_freed_memory()
    from cnnjax.lab import app, terminal

    terminal.exit_with(app.main())


if __name__ == "__main__":
    main()
