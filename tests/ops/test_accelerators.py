"""What a GPU runs, lowered for one and computed here: its values and gradients are those of the direct sums.

A program that `jax.export` lowers for another platform has that platform's forms: `lax`'s own convolution and its
transposes, `reduce_window`, the centred variance, a scatter. As none of them is a call into a library, XLA compiles it
for a CPU just as well.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cnnjax import ops
from cnnjax.ops import conv_primitives
from tests.ops import cases, reference, reference_pools
from tests.ops.operations import batch_norm_of_moments, computed, reference_batch_norm_of_moments

STEP = 1e-30  # of a complex step
UNALIGNED = {"stride": (2, 1), "padding": ((2, 0), (1, 3)), "dilation": (1, 2)}
SPACED = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "output_padding": (1, 0), "groups": 2}
CEILING = {
    "stride": 2,
    "padding": 1,
    "ceil_mode": True,
}  # the last windows reach beyond the padding, by none and by one
# Of an operation its reference, the shapes of its arrays, and options that leave no two sides or axes alike.
CALLS = {
    "convolution": (ops.conv2d, reference.conv2d, {"x": (2, 6, 7, 3), "kernel": (3, 2, 3, 4)}, UNALIGNED),
    "convolution in groups": (
        ops.conv2d,
        reference.conv2d,
        {"x": (2, 5, 4, 4), "kernel": (2, 3, 2, 6)},
        {"groups": 2, "padding": ((0, 1), (2, 0))},
    ),
    "depthwise convolution": (
        ops.depthwise_conv2d,
        reference.depthwise_conv2d,
        {"x": (2, 6, 5, 3), "kernel": (3, 2, 1, 6)},
        {"stride": (1, 2), "padding": 1},
    ),
    "transposed convolution": (
        ops.conv_transpose2d,
        reference.conv_transpose2d,
        {"x": (2, 4, 5, 4), "kernel": (3, 2, 4, 3)},
        SPACED,
    ),
    "maximum": (ops.max_pool2d, reference_pools.max_pool2d, {"x": (2, 6, 7, 3)}, {"window": (3, 2), **CEILING}),
    "minimum": (ops.min_pool2d, reference_pools.min_pool2d, {"x": (2, 6, 7, 3)}, {"window": (3, 2), **CEILING}),
    "average": (ops.avg_pool2d, reference_pools.avg_pool2d, {"x": (2, 6, 7, 3)}, {"window": (3, 2), **CEILING}),
    "average of pixels alone": (
        ops.avg_pool2d,
        reference_pools.avg_pool2d,
        {"x": (2, 6, 7, 3)},
        {"window": (4, 3), "stride": (3, 2), "padding": (2, 1), "count_include_pad": False},
    ),
    "p-norm": (ops.lp_pool2d, reference_pools.lp_pool2d, {"x": (2, 5, 6, 3)}, {"window": (2, 3), "p": 3.0}),
    "maximum with its place": (
        ops.max_pool2d_with_indices,
        reference_pools.max_pool2d_with_indices,
        {"x": (2, 6, 7, 3)},
        {"window": (3, 2), "stride": 2, "padding": 1},
    ),
    "unpooling": (
        ops.max_unpool2d,
        reference_pools.max_unpool2d,
        {"y": (2, 3, 4, 3), "indices": (2, 3, 4, 3)},
        {"output_size": (6, 9)},
    ),
    "unpooling of cells": (
        ops.max_unpool2d,
        reference_pools.max_unpool2d,
        {"y": (2, 3, 4, 3), "indices": (2, 3, 4, 3)},
        {"output_size": (6, 8)},
    ),
    "moments": (ops.moments, reference.moments, {"x": (3, 4, 5, 2)}, {}),
    "batch normalisation": (
        batch_norm_of_moments,
        reference_batch_norm_of_moments,
        {"x": (3, 4, 5, 2), "scale": (2,), "bias": (2,)},
        {"eps": 1e-3},
    ),
    "group normalisation": (
        ops.group_norm,
        reference.group_norm,
        {"x": (2, 3, 4, 6), "scale": (6,), "bias": (6,)},
        {"groups": 3, "eps": 1e-3},
    ),
    "bilinear": (ops.upsample_bilinear, reference.upsample_bilinear, {"x": (2, 3, 4, 2)}, {"scale": (2, 3)}),
    "bilinear with corners": (
        ops.upsample_bilinear,
        reference.upsample_bilinear,
        {"x": (2, 3, 4, 2)},
        {"scale": (3, 2), "align_corners": True},
    ),
}


def arrays_of(shapes, options):
    rng = np.random.default_rng(0)
    place = {"output_size": options.get("output_size")}
    whole = {name: cases.indices(rng, name, shape, place) for name, shape in shapes.items() if name == "indices"}
    floats = {name: np.float32(rng.standard_normal(shape)) for name, shape in shapes.items() if name not in whole}
    return floats, whole


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("platform", ["cuda"])
@pytest.mark.parametrize("name", CALLS)
def test_what_an_accelerator_runs_has_the_values_and_gradients_of_the_direct_sums(name, platform):
    operation, direct, shapes, options = CALLS[name]
    floats, whole = arrays_of(shapes, options)
    wide = {name: array.astype(float) for name, array in floats.items()}
    expected = as_tuple(direct(**wide, **whole, **options))
    rng = np.random.default_rng(1)
    cotangents = [np.float32(rng.standard_normal(y.shape)) for y in expected if y.dtype == float]

    def call(floats, whole, cotangents):
        outputs, pull = jax.vjp(lambda floats: as_tuple(operation(**floats, **whole, **options)), floats)
        given = iter(cotangents)
        floating = [jnp.issubdtype(y.dtype, jnp.floating) for y in outputs]
        seeds = [
            next(given) if f else np.zeros(y.shape, jax.dtypes.float0) for f, y in zip(floating, outputs, strict=True)
        ]
        return outputs, pull(tuple(seeds))[0]

    lowered = export.export(
        jax.jit(call), platforms=[platform], disabled_checks=[export.DisabledSafetyCheck.platform()]
    )(floats, whole, cotangents)
    outputs, gradients = computed(lowered.call, floats, whole, cotangents)
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for argument, gradient in gradients.items():
        direction = rng.standard_normal(gradient.shape)
        moved = as_tuple(direct(**wide | {argument: wide[argument] + 1j * STEP * direction}, **whole, **options))
        slopes = [y.imag / STEP for y in moved if np.iscomplexobj(y)]
        slope = sum((dy * g).sum() for dy, g in zip(slopes, cotangents, strict=True))
        assert (np.asarray(gradient, float) * direction).sum() == pytest.approx(slope, rel=1e-4, abs=1e-4), argument


def test_a_program_for_an_accelerator_has_none_of_the_cpu_s_forms():
    """Else the comparison above would be of those."""
    x, kernel = jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 4))

    def pooled(x, kernel):
        return ops.max_pool2d(ops.conv2d(x, kernel, padding=1), 2)

    text = export.export(jax.jit(pooled), platforms=["cuda"])(x, kernel).mlir_module()
    assert text.count("stablehlo.convolution") == text.count("stablehlo.reduce_window") == 1
    assert "stablehlo.slice" not in text


# ---------------------------------------------------------------- vmap

GROUPS, MAPPED = 2, 3
PARAMS = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 1), "groups": GROUPS}
PRIMITIVES = {  # the shapes of both operands, and the size that the result cannot tell
    "forward": ((2, 5, 4, 4), (3, 2, 2, 6), {}),
    "input gradient": ((2, 2, 5, 6), (3, 2, 2, 6), {"input_size": (5, 4)}),
    "kernel gradient": ((2, 5, 4, 4), (2, 2, 5, 6), {"kernel_size": (3, 2)}),
}


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (4, None), (None, 3), (2, 1)], ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_of_convolutions_in_groups_vmap_is_a_loop_whichever_operands_it_maps(name, axes):
    """Two channels and three outputs a group: dealt to the wrong one, they would give other sums of the same shape."""
    left, right, size = PRIMITIVES[name]
    primitive = {
        "forward": conv_primitives.forward_p,
        "input gradient": conv_primitives.input_gradient_p,
        "kernel gradient": conv_primitives.kernel_gradient_p,
    }[name]
    rng = np.random.default_rng(0)
    shapes = [
        shape if axis is None else (*shape[:axis], MAPPED, *shape[axis:])
        for shape, axis in zip((left, right), axes, strict=True)
    ]
    operands = [np.float32(rng.standard_normal(shape)) for shape in shapes]

    def call(a, b):
        return primitive.bind(a, b, **PARAMS, **size)

    def both(*operands):
        members = [
            [a if axis is None else a.take(k, axis) for a, axis in zip(operands, axes, strict=True)]
            for k in range(MAPPED)
        ]
        return jax.vmap(call, axes)(*operands), jnp.stack([call(*member) for member in members])

    mapped, looped = computed(both, *map(jnp.asarray, operands))
    np.testing.assert_allclose(mapped, looped, rtol=1e-4, atol=1e-4)
