"""Random numbers are JAX's own, whatever the shape that they are cut to, and the same when traced."""

import jax
import numpy as np
import pytest
from jax.nn import initializers as reference

from cnnjax.nn import initializers

PAIRS = {
    "glorot_uniform": (initializers.variance_scaling(1.0, "fan_avg", "uniform"), reference.glorot_uniform()),
    "he_normal": (initializers.variance_scaling(2.0, "fan_in", "truncated normal"), reference.he_normal()),
    "normal, fan_out": (
        initializers.variance_scaling(2.0, "fan_out", "normal"),
        reference.variance_scaling(2.0, "fan_out", "normal"),
    ),
    "normal": (initializers.normal(0.01), reference.normal(0.01)),
}
SHAPES = [(3, 3, 5, 7), (10, 20), (1, 1, 64, 64), (1100, 1000)]  # the last one is not padded


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("ours", "jax_s"), PAIRS.values(), ids=PAIRS)
def test_numbers_are_those_of_jax(ours, jax_s, shape, x64):
    key = jax.random.key(3)
    with jax.enable_x64(x64):
        values, expected = ours(key, shape), jax_s(key, shape)
        traced = jax.jit(ours, static_argnums=1)(key, shape)
    assert values.dtype == expected.dtype == traced.dtype
    rounding = 4 * np.finfo(values.dtype).eps
    np.testing.assert_allclose(values, expected, rtol=rounding)
    np.testing.assert_allclose(values, traced, rtol=rounding)


def test_a_few_sizes_are_compiled_for_many_shapes(monkeypatch):
    sizes = set()
    draw = initializers._draw
    monkeypatch.setattr(initializers, "_draw", lambda key, kind, size: sizes.add(size) or draw(key, kind, size))
    for channels in range(33, 65):
        initializers.SCHEMES["he_normal"].kernel(jax.random.key(0), (1, 1, channels, 64))
    assert sizes == {4096}
