"""A run's directory belongs to one process at a time."""

import os
import signal
import subprocess
import sys

import pytest

from cnnjax import runs
from cnnjax.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from cnnjax import runs
with runs.Run(Path(sys.argv[1]), "test", {}).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    run = runs.Run(tmp_path / "run", "test", {})
    run.create()
    return run


def test_a_second_run_is_refused_while_the_first_lives_and_takes_over_when_it_is_dead(run):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"in use by process {holder.pid} on .*`out`"),
            run.locked(),
        ):
            pass
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            run.clear()
        assert run.path.exists()
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    for _ in range(2):
        with run.locked():
            assert (run.path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    run.clear()
    assert not run.path.exists()
