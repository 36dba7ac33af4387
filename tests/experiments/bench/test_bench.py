"""What the benchmarks say of the primitives apart from their speed, and that every contender trains."""

import importlib.util

import numpy as np
import pytest

from experiments.bench import timing
from experiments.bench import train as bench_train
from experiments.bench.ops import ROWS, compile_gradients, temporary_memory
from experiments.bench.timing import race

# One row of each kind, the ones that need most; compiling all of them takes a minute.
NEEDIEST = {
    "conv 3x3 batch 1",
    "conv 3x3 in 32 groups",
    "conv depthwise 5x5",
    "transposed 4x4 s2",
    "max pool 3x3 s1",
    "unpool 2x2",
}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[pytest.mark.published] * (row.name not in NEEDIEST))
        for row in ROWS
        if not row.name.startswith("nms")  # whose boxes are constants: of its inputs only the scores are left
    ],
)
def test_a_backward_pass_needs_at_most_three_times_its_inputs_and_outputs(row):
    assert temporary_memory(compile_gradients(row.ours, row.shapes)) <= 3


@pytest.mark.parametrize(("call", "order"), [(0.4, "aaaabbbb"), (1.1, "aabb")])
def test_a_turn_is_a_call_that_does_not_count_and_three_that_do_or_a_long_one(call, order, monkeypatch):
    calls = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: call * len(calls))
    assert race({who: lambda who=who: calls.append(who) for who in "ab"}, 1.0) == pytest.approx(
        dict.fromkeys("ab", 1000.0 * call)
    )
    assert "".join(calls) == order


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(workload, id=workload.name, marks=[pytest.mark.published] * (workload.name == "lecture-fcn"))
        for workload in bench_train.WORKLOADS
    ],
)
@pytest.mark.parametrize("who", bench_train.CONTENDERS)
def test_every_contender_has_the_same_number_of_parameters_and_learns_its_batch(who, workload):
    module, make = bench_train.CONTENDERS[who]
    if not importlib.util.find_spec(module):
        pytest.skip(f"{module} is not installed")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, *workload.image), dtype=np.uint8)
    contender = make(workload, images, np.arange(4, dtype=np.int32))
    assert contender.parameters == {"lecture-fcn": 8_983_434, "lecture-cnn": 2_077_130}[workload.name]
    losses = [contender.step() for _ in range(10)]
    assert losses[-1] < losses[0]
