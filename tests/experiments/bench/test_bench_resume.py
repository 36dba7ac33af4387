"""What `bench resume` measures is really written, and what it is asked for is checked."""

import pytest

from experiments.bench import resume as bench_resume
from tests.lab.test_launch import call


def test_every_turn_saves_a_state_of_its_own(tmp_path):
    results = bench_resume.measure_saving("digits", 2, tmp_path)
    for name in ("epoch_ms", "epoch_with_save_ms", "save_alone_ms", "save_blocks_ms", "slower_percent"):
        assert len(results[name]) == 2, name
    steps = bench_resume.Training("digits").steps
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [3 * steps, 4 * steps]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "--epochs must be an integer of at least 1, got 0"),
        (["--starts", "-1"], "--starts must be an integer of at least 1, got -1"),
        (["--data", "shape"], "unknown data set 'shape': did you mean"),
    ],
)
def test_a_mistake_is_named(arguments, said, capsys):
    status, _, error = call(capsys, "bench", "resume", *arguments)
    assert status == 2
    assert said in error
