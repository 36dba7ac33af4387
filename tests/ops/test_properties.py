"""Every operation against direct sums in double precision, its gradients against their complex step, and both torch's.

`pytest --long tests/ops/test_properties.py` makes 5,000 random calls of each. torch is compared where it is installed.
Most of a call's time would be its compilation: every program is called with several draws of values, and where these
may repeat they do so in every other draw.
"""

from importlib.util import find_spec

import jax
import numpy as np
import pytest
from hypothesis import given, note, settings

from cnnjax import ops
from tests.ops import cases
from tests.ops.operations import OPERATIONS, PRECISION, by_name, values_and_gradients

if find_spec("torch"):
    from tests.ops import reference_torch
else:
    reference_torch = None

STEP = 1e-30


def leaves(outputs):
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    floating = [output for output in outputs if not np.issubdtype(output.dtype, np.integer)]
    return floating, [output for output in outputs if np.issubdtype(output.dtype, np.integer)]


def derivative(function, arrays, options, name, direction):
    moved = arrays | {name: arrays[name] + 1j * STEP * direction}
    return [value.imag / STEP for value in leaves(function(**moved, **options))[0]]


def check_sums(operation, case, expected, whole, cotangents, ours):
    """Assert that our values, integers and gradients are those of the direct sums."""
    arrays, options, tolerance = case.arrays, case.options, PRECISION[case.dtype]
    at = arrays if operation.signed else {name: np.abs(a) if name in case.floats else a for name, a in arrays.items()}
    magnitude = operation.magnitude or operation.reference
    values, integers, gradients = ours
    for mine, theirs in zip(integers, whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs, bound in zip(values, expected, leaves(magnitude(**at, **options))[0], strict=True):
        if operation.exact:
            np.testing.assert_array_equal(mine, theirs)
        else:
            excess = np.abs(mine - theirs) - tolerance * np.abs(bound)
            assert (excess <= 0).all(), f"values are off by {np.abs(mine - theirs).max()}, {(excess > 0).sum()} of them"

    rng = case.rng("direction")
    for name in case.floats:
        direction = rng.standard_normal(arrays[name].shape)
        moved = derivative(operation.reference, arrays, options, name, direction)
        largest = derivative(magnitude, at, options, name, np.abs(direction))
        mine = (gradients[name].astype(float) * direction).sum()
        theirs = sum((g.astype(float) * dy).sum() for g, dy in zip(cotangents, moved, strict=True))
        bound = sum((np.abs(g).astype(float) * np.abs(dy)).sum() for g, dy in zip(cotangents, largest, strict=True))
        assert np.abs(mine - theirs) <= tolerance * bound, (
            f"the gradient of {name}: {mine} is not {theirs} +- {tolerance * bound}"
        )


def random_cotangents(operation, case, expected):
    rng = case.rng("cotangents")
    dtype = np.float32 if operation.at_least_float32 and case.dtype == "bfloat16" else cases.DTYPES[case.dtype]
    return [rng.standard_normal(value.shape).astype(dtype) for value in expected]


@pytest.mark.parity
@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
def test_values_and_gradients_are_those_of_the_direct_sums_and_of_torch(operation, pytestconfig):
    # Of a compiled program; convolutions have the most forms, which their shapes choose.
    calls = 5 if pytestconfig.getoption("long") else 2 if "conv" in operation.name else 4

    def holds(case):
        program = None
        for values in map(case.redraw, range(calls)):
            note(f"of the values number {values.number}")
            expected, whole = leaves(operation.reference(**values.arrays, **values.options))
            if operation.sizes and (size := operation.sizes(**values.arrays, **values.options)):
                channels_first = values.options.get("layout") == "NCHW"
                assert (expected[0].shape[2:] if channels_first else expected[0].shape[1:3]) == size
            cotangents = random_cotangents(operation, values, expected)
            program = program or values_and_gradients(operation.compute, values, cotangents)
            ours = program(values, cotangents)
            check_sums(operation, values, expected, whole, cotangents, ours)
            if reference_torch and reference_torch.takes(operation, values):
                reference_torch.check(operation, values, cotangents, ours)

    # Of its name Hypothesis makes its seed: every operation has shapes of its own.
    holds.__name__ = operation.name.replace(" ", "_")
    settings(max_examples=settings.default.max_examples // calls)(given(operation.cases)(holds))()
    jax.clear_caches()  # what a thousand programs leave behind are gigabytes


def test_every_operation_is_tested():
    of_boxes = {"box_iou", "generalized_box_iou", "nms", "roi_align"}  # tests/ops/test_boxes.py
    assert set(ops.__all__) - of_boxes <= set(map(by_name, OPERATIONS))
