"""Bad calls: one argument of a valid random call is spoiled, and a ValueError has to name it and what it was.

Each is made eagerly and under `jit`. Then calls whose arguments are anything. `pytest --long` makes many more.
"""

import re
import warnings

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import ops
from tests.ops import reference
from tests.ops.cases import DTYPES, pick
from tests.ops.operations import PUBLIC, QUICK, by_name

IMAGES = {"x": "image", "y": "image", "kernel": "kernel", "depthwise": "kernel", "pointwise": "kernel"}
SPATIAL = ("stride", "padding", "dilation", "window", "scale", "output_size", "output_padding")
MAY_BE_ZERO = ("padding", "output_padding")
POOLS = ("max_pool2d", "min_pool2d", "avg_pool2d", "lp_pool2d", "max_pool2d_with_indices")
WITHOUT_A_NUMBER = ["two", None, [1], (1, 2, 3), {}, 1j]
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
NO_IMAGES = [None, "image", {}, [[1.0], [2.0, 3.0]], object()]
HUGE = 10**9  # as both axes of a padding or scale, more than any memory


def wrong_arrays(name, array, layout):
    """(value, what the message has to mention) for an array argument."""
    if name == "indices":
        for value in (array.astype(np.float32), array > 0):
            yield value, [str(value.dtype)]
        yield array[..., :-1], [str(array[..., :-1].shape)]
        yield array[0], [str(array[0].shape)]
        return
    if name in IMAGES:
        for value in (array[0], array[None], array[0, 0, 0, 0]):
            yield value, [str(np.shape(value))]
        for dtype in (np.int32, np.bool_, np.uint8):
            with np.errstate(invalid="ignore"):  # negative numbers as uint8
                value = array.astype(dtype)
            yield value, [np.dtype(dtype).name]
        for value in NO_IMAGES:
            yield value, [type(value).__name__]
    else:
        for value in (np.append(array, array[:1]), array[None], array[0]):
            yield value, [str(np.shape(value))]
    yield array.astype(np.complex64), ["complex64"]
    if IMAGES.get(name) == "kernel":
        more = np.concatenate([array, array, array], 1 if layout == "NCHW" else 2)
        yield more, [str(more.shape), "kernel takes"]
    if IMAGES.get(name) == "image":
        for axis in (1, 2, 3):
            empty = np.take(array, [], axis)
            yield empty, [str(empty.shape)]


def wrong_options(operation, name, value, case):
    """(value, what the message has to mention) for any other argument."""
    if name in SPATIAL:
        wrong = [-1, 1.5, (1, -2), (2, 1.5), (1, 2, 3), (1,), "two", 1j, float("nan"), [], (2, "two"), 10**30]
        wrong += [] if name in MAY_BE_ZERO else [0, (0, 1), np.int64(0)]
        wrong += [] if operation.name in POOLS and name == "stride" else [None]
        wrong += [((1, 1), (1, 1))] if name != "padding" or operation.name in (*POOLS, "conv_transpose2d") else []
        wrong += [HUGE] if name in ("scale", "output_size") else []
    elif name in ("groups", "size"):
        wrong = [0, -1, 1.5, "two", None, (2,), 10**30]
    elif name in ("p", "eps"):
        wrong = [0, -1.0, *WITHOUT_A_NUMBER, *NOT_FINITE]
    elif name in ("alpha", "beta", "k"):
        wrong = [*WITHOUT_A_NUMBER, *NOT_FINITE]
    elif name in ("padding_mode", "layout"):
        wrong = ["mirror", None, 3, ["zeros"], ""]
    else:
        wrong = []  # what is true or false may be anything
    yield from ((value, mentions(value)) for value in wrong)
    yield from unfit_options(operation, name, case)


def unfit_options(operation, name, case):
    """What is wrong only for these arrays and the other options."""
    options, x = case.options, next(iter(case.arrays.values()))
    if name == "groups":
        for wrong in (x.shape[1 if options.get("layout") == "NCHW" else 3] + 1, HUGE):
            yield wrong, mentions(wrong)
    if name == "window" and not (options.get("ceil_mode") and options["stride"] is None):  # else one window, cut short
        yield HUGE, mentions(HUGE)
    if name == "dilation" and operation.name in POOLS and reference.pair(options["window"])[0] > 1:
        yield (HUGE, 1), mentions(HUGE)
    if name == "scale" and operation.name == "pixel_shuffle":
        yield x.shape[3] + 1, mentions(x.shape[3] + 1)
    if name == "output_padding":
        most = map(max, reference.pair(options["stride"]), reference.pair(options["dilation"]))
        yield from ((wrong, mentions(wrong)) for wrong in [tuple(most), HUGE])
    if name == "padding" and (operation.name in POOLS or operation.name == "conv_transpose2d"):
        yield HUGE, mentions(HUGE)
    elif name == "padding":
        yield from (
            (wrong, mentions(wrong)) for wrong in ["SOME", "", ((1, 2), (3,)), ((1, 2),), ((0, -1), (0, 0)), HUGE]
        )
        limit = {"reflect": 0, "circular": 1}.get(options["padding_mode"])
        if limit is not None:
            size = x.shape[2 if options.get("layout") == "NCHW" else 1]
            yield ((0, size + limit), (0, 0)), [str(size + limit)]


def mentions(value):
    """What a message may show of a value: all of it, or the part that is wrong."""
    parts = value if isinstance(value, tuple | list) else ()
    return [repr(value), str(value), *(shown for part in parts for shown in mentions(part))]


def spoil(operation, case):
    """All (argument, arrays, options, mentioned) with one argument of a case replaced by one that is always wrong."""
    given = {name: a.astype(DTYPES[case.dtype]) if name in case.floats else a for name, a in case.arrays.items()}
    for name, array in given.items():
        for value, mentioned in wrong_arrays(name, array, case.options.get("layout")):
            yield name, given | {name: value}, case.options, mentioned
    for name, value in case.options.items():
        for wrong, mentioned in wrong_options(operation, name, value, case):
            yield name, given, case.options | {name: wrong}, mentioned


def complaint(compute, arrays, options, jit):
    """The message of the ValueError that a call raises."""
    traced = {name: a for name, a in arrays.items() if isinstance(a, np.ndarray | np.generic)} if jit else {}
    known = {name: value for name, value in (arrays | options).items() if name not in traced}
    call = (jax.jit if jit else lambda function: function)(lambda traced: compute(**traced, **known))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the message
        call(traced)
    return str(caught.value)


@pytest.mark.parametrize("operation", PUBLIC, ids=by_name)
def test_one_wrong_argument_is_named_with_its_value(operation):
    @settings(max_examples=settings.default.max_examples // 2)
    @given(operation.cases, st.integers(0, 2**32 - 1))
    def holds(case, seed):
        wrong = list(spoil(operation, case))
        rng = np.random.default_rng(seed)
        argument = pick(rng, sorted({name for name, *_ in wrong}))
        _, arrays, options, mentioned = pick(rng, [each for each in wrong if each[0] == argument])
        for jit in (False, True):
            message = complaint(operation.compute, arrays, options, jit)
            assert re.search(rf"\b{argument}\b", message), message
            assert any(text in message for text in mentioned), f"{message!r} mentions none of {mentioned}"

    holds()


SIZES = [0, 1, 2, 3, 5]
ANYTHING = [
    *[
        -1,
        0,
        1,
        2,
        3,
        4,
        7,
        10**13,
        2**63,
        True,
        None,
        0.5,
        2.0,
        float("nan"),
        float("inf"),
        "SAME",
        "FULL",
        "",
        "reflect",
    ],
    *[(1, 2), (2, 1), (0, 1), (3, 3), [2, 2], (1,), (1, 2, 3), ((1, 0), (2, 1)), ((1, 2), 3), np.int64(2), np.array(2)],
    *[np.array([1, 2]), np.float32(2), 1j, "NCHW", "circular", b"SAME", {}, {1, 2}, range(2), slice(2), print],
]


def scramble(case, rng):
    """Up to two options that are anything, and now and then arrays of any shape."""
    arrays = {name: a.astype(np.float32) if name in case.floats else a for name, a in case.arrays.items()}
    options = dict(case.options)
    for name in rng.permutation(sorted(options))[: rng.integers(3)]:
        options[str(name)] = pick(rng, ANYTHING)
    for name in arrays:
        if rng.integers(6) == 0:
            shape = [pick(rng, SIZES) for _ in range(pick(rng, [0, 3, 4, 4, 4, 5]))]
            arrays[name] = rng.integers(-3, 4, shape).astype(
                pick(rng, [np.float32, np.float32, np.float16, np.int32, bool])
            )
    return arrays, options


@pytest.mark.parametrize("operation", PUBLIC, ids=by_name)
def test_any_call_gives_a_value_error_or_what_the_reference_gives(operation):
    @settings(max_examples=settings.default.max_examples // 4)
    @given(operation.cases, st.integers(0, 2**32 - 1))
    def holds(case, seed):
        arrays, options = scramble(case, np.random.default_rng(seed))
        try:
            lowered = jax.jit(lambda arrays: operation.compute(**arrays, **options)).lower(arrays)
        except ValueError:
            return
        outputs = jax.tree.leaves(lowered.compile(QUICK)(arrays))
        wide = {name: a.astype(float) if np.issubdtype(a.dtype, np.floating) else a for name, a in arrays.items()}
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # overflows, means of an empty batch
            expected = jax.tree.leaves(operation.reference(**wide, **options))
        assert [output.shape for output in outputs] == [value.shape for value in expected]

    holds()


def test_a_stride_of_any_length_is_one_window():
    x, kernel = np.ones((1, 3, 3, 1), np.float32), np.ones((2, 2, 1, 1), np.float32)
    gradient = jax.grad(lambda x: ops.conv2d(x, kernel, stride=HUGE).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    y = ops.conv_transpose2d(x[:, :1, :1], kernel, stride=HUGE)
    np.testing.assert_array_equal(y, np.ones((1, 2, 2, 1)))
    depthwise = jax.grad(lambda x: ops.depthwise_conv2d(x, kernel.repeat(2, 3), stride=HUGE).sum())(x.repeat(2, 3))
    np.testing.assert_array_equal(depthwise[0, :, :, 1], gradient[0, :, :, 0])
