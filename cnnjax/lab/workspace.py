"""Where the lab works: a checkout of this repository, or the folder in which `cnnjax` is called."""

import sys
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[2]


class Workspace(NamedTuple):
    """A folder with `results/`, and how commands are started there.

    Attributes:
        root: the folder.
        launcher: program and first arguments of a process that runs a command.
        command: what a person types before a command, as reports print it.
        experiments: folders whose files are experiments.
    """

    root: Path
    launcher: tuple[str, ...]
    command: str
    experiments: tuple[Path, ...] = ()

    @property
    def typed(self) -> str:
        """What this process was started with, which its messages and its help repeat."""
        started = Path(sys.argv[0]) if sys.argv else Path()
        if started.name == "__main__.py" and started.parent.name == "cnnjax":
            return "python -m cnnjax"
        return "cnnjax" if started.stem.removesuffix("-script") == "cnnjax" else self.command

    @property
    def results(self) -> Path:
        """Published runs, benchmarks and the site."""
        return self.root / "results"

    @property
    def runs(self) -> Path:
        """Runs that are not published; ignored by git."""
        return self.results / "runs"


def find() -> Workspace:
    """Return the checkout that contains this package, or the current folder."""
    launch = CHECKOUT / "launch.py"
    if launch.is_file() and (CHECKOUT / "experiments").is_dir():
        python = (sys.executable, str(launch))
        return Workspace(CHECKOUT, python, "python launch.py", (CHECKOUT / "experiments",))
    return Workspace(Path.cwd(), (sys.executable, "-m", "cnnjax"), "cnnjax")
