"""What a GPU and a TPU are given, as far as a CPU can tell: exported programs beside those of plain `lax`.

Other tests compare the numbers of these forms, which run on a CPU as well.
"""

import re
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export, lax

from cnnjax.ops import conv, conv_primitives, pool, transpose, unpool
from tests.ops.calls import CALLS, arrays_of, cotangent_of, with_gradients

# What costs time or memory. `case` is left out: JAX wraps what depends on the platform in it, with one branch.
COUNTED = [
    *("convolution", "dot_general", "reduce_window", "select_and_scatter", "gather", "scatter", "sort", "while"),
    *("transpose", "reverse", "concatenate", "pad", "slice", "reduce", "custom_call"),
]
PLATFORMS = ["cuda", "rocm", "tpu"]


def counts(compiled, arguments, platform):
    text = export.export(compiled, platforms=[platform])(*arguments).mlir_module()
    found = Counter(re.findall(r"stablehlo\.(\w+)", text))
    return {name: found[name] for name in COUNTED if found[name]}


def plain_transposed(x, kernel, *, output_size, stride, padding, dilation, groups):
    """`lax.conv_transpose`, whose gradients JAX derives."""
    sides = [
        (d * (k - 1) - p, d * (k - 1) - p + size - ((have - 1) * s - 2 * p + d * (k - 1) + 1))
        for d, k, p, size, have, s in zip(
            dilation, kernel.shape[:2], padding, output_size, x.shape[1:3], stride, strict=True
        )
    ]
    n, m, depth, out = kernel.shape
    kernel = jnp.flip(kernel, (0, 1)).reshape(n, m, groups, depth // groups, out)
    kernel = jnp.moveaxis(kernel, 2, 3).reshape(n, m, depth // groups, groups * out)
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        sides,
        lhs_dilation=stride,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def plain_extremes(x, rows, columns, order):
    return pool.reduce_window(x, rows, columns, order.worst, order.keep)


@pytest.fixture
def plain_lax(monkeypatch):
    """Operations as somebody would write them with `lax` alone."""
    monkeypatch.setattr(conv, "convolve", conv_primitives.reference_forward)
    monkeypatch.setattr(transpose, "spread_by_convolution", plain_transposed)
    monkeypatch.setattr(pool, "window_extremes", plain_extremes)
    monkeypatch.setattr(unpool, "window_extremes", plain_extremes)
    monkeypatch.setattr(pool, "window_sums", partial(pool.reduce_window, start=0, operation=lax.add))


BY_LAX = {
    name: call
    for name, call in CALLS.items()
    if name.startswith(("conv", "depthwise", "separable", "transposed", "max ", "min", "average", "lp"))
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", BY_LAX)
def test_an_accelerator_is_given_what_plain_lax_gives_it(name, platform, request):
    """The gradient of a transposed convolution may hold two transposes of its kernel instead of two reversals."""
    call = CALLS[name]
    arguments = (arrays_of(call), cotangent_of(call, arrays_of(call)))
    ours = counts(jax.jit(with_gradients(call)), arguments, platform)
    request.getfixturevalue("plain_lax")
    theirs = counts(jax.jit(with_gradients(call)), arguments, platform)
    if name.startswith("transposed"):
        assert {*ours} - {*theirs} <= {"transpose"}
        assert (
            ours.pop("transpose", 0) + ours.pop("reverse", 0)
            <= theirs.pop("transpose", 0) + theirs.pop("reverse", 0) + 2
        )
    assert ours == theirs
