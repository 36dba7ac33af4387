"""More epochs for a run: the same command with a larger `epochs`, in the directory of the run."""

from typing import Any

from cnnjax import runs, train
from cnnjax.train.lengths import LENGTHS, lengthened


def lengthen(run: runs.Run, config: Any) -> None:
    """Let a run go on, finished or not, that differs from what is asked for in fewer epochs or less patience alone.

    Its summary is deleted, and its config becomes the new one; whatever else differs `Run.check` names.

    Raises:
        UserError: the schedule of the learning rate depends on the number of epochs, or the run is in use.
    """
    there = runs.read_json(run.path / "config.json") if run.path.is_dir() else None  # `Run.check` names a file
    if there is None or not isinstance(config, train.Recipe):
        return
    now = {"experiment": run.experiment, **run.config}
    differing = {name for name in there.keys() | now.keys() if there.get(name) != now.get(name)}
    if not differing or differing - {*LENGTHS} or lengthened(there, config) != now:
        return
    with run.locked():
        (run.path / "summary.json").unlink(missing_ok=True)  # first: with the new config it would pass for its
        runs.write_json(run.path / "config.json", now)
