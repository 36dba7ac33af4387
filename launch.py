"""Start an experiment, or look at what experiments produced: `python launch.py --help`."""

from cnnjax.__main__ import main

if __name__ == "__main__":
    main()
