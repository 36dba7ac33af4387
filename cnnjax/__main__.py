"""`python -m cnnjax`, and the console script `cnnjax`: the command line without this repository's experiments."""

import signal

from cnnjax.lab import heap


def main() -> None:
    """Be the program."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries are read leaves no stack trace
    heap.keep_freed_memory()
    from cnnjax.lab.app import run_as_program

    run_as_program()


if __name__ == "__main__":
    main()
