"""The clock of steps stands still while JAX compiles."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cnnjax import data, nn, tasks, train
from cnnjax.runs import compilation


def test_what_is_traced_within_a_trace_counts_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(compilation, "_spans", [])
    monkeypatch.setattr(compilation, "_total", 0.0)
    monkeypatch.setattr(compilation.time, "monotonic", lambda: 1e9 + now[0])
    for end, duration in [(5, 1), (8, 2), (9, 6), (12, 3)]:  # the first two are within the third
        now[0] = end
        compilation._note("/jax/core/compile/jaxpr_trace_duration", duration)
    compilation._note("/jax/checkpoint/write_duration", 100.0)
    assert compilation.seconds() == pytest.approx(6 + 3)


def test_a_new_program_takes_time_and_a_known_one_none():
    program, before = jax.jit(lambda x: jax.jit(jnp.sin)(x) * 3 + 0.125), compilation.seconds()
    program(jnp.ones(3))
    first = compilation.seconds()
    program(jnp.ones(3))
    assert before < first == compilation.seconds()


def test_an_epoch_s_seconds_are_without_compilation(monkeypatch, one_device):
    compiled = [0.0]
    monkeypatch.setattr(compilation, "seconds", lambda: compiled[0])

    class Compiles(train.Callback):
        def on_step(self, step, state):
            compiled[0] += 1000.0 * (step == 1)

    class Tiny(nn.Module):
        def __init__(self, rngs):
            self.head = nn.Linear(3, 10, rngs=rngs)

        def __call__(self, x):
            return self.head(x.mean((1, 2)))

    digits, task, model = data.load("digits"), tasks.Classification(), Tiny(nnx.Rngs(0))
    recipe = train.Recipe(epochs=2, batch_size=64, optimizer="sgd")
    seconds = train.fit(
        model, task, recipe, digits.train.first(128), None, parallel=one_device, callbacks=[Compiles()]
    ).history["train/seconds"]
    assert -1000 < seconds[0] < -900  # the wall clock's, less what is said to be compilation
    assert seconds[1] > 0
