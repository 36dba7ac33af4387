"""What bench scaling times: processes that step together, and end."""

from contextlib import closing

import pytest

from cnnjax.lab import app
from experiments.bench.scaling import PROCESSES, Processes


@pytest.mark.processes
def test_processes_take_steps_together_and_end():
    with closing(Processes("lecture-cnn", PROCESSES)) as processes:
        processes.step()
        processes.step()
    assert [process.returncode for process in processes._all] == [0] * PROCESSES


def test_a_pattern_that_no_network_matches_is_named(capsys):
    assert app.main(["bench", "scaling", "--networks", "nothing*"]) == 2
    assert "no network matches --networks 'nothing*': there are lecture-fcn, lecture-cnn" in capsys.readouterr().err
