"""Start an experiment, or look at what experiments produced: `python launch.py --help`."""

import signal

from cnnjax.lab import heap

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries are imported prints no stack trace
    heap.keep_freed_memory()
    from cnnjax.lab.app import main
    from cnnjax.lab.terminal import exit_with

    exit_with(main())
