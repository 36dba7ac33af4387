"""Random calls that are valid: arrays and options for every operation, as Hypothesis strategies.

Hypothesis draws the precision, whether values repeat, and a seed; NumPy makes the rest from the seed. Were every option
drawn by itself, two thirds of the cases would be what Hypothesis makes by copying one option's value to another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from tests.ops import reference

USES = ["plan", "values", "cotangents", "direction", "compiler"]
DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}
BATCHES = [1, 2, 3, 8, 9]  # from 8 images on, kernel gradients take another form
CHANNELS = [1, 2, 3, 4, 6, 8, 17, 32]
# Windows and strides are few, because what XLA compiles grows with the taps and with the square of the stride.
WINDOWS = [(3, 3), (1, 1), (2, 2), (3, 2), (1, 4), (2, 1), (5, 1), (3, 3), (1, 1), (2, 2), (3, 1), (4, 5)]
STRIDES = [1, 2, (1, 1), (2, 1), 1, (1, 2), (1, 3), 3]


@dataclass
class Case:
    """One call. Floating arrays hold values of `dtype`, widened to float64 for the references."""

    arrays: dict[str, np.ndarray]
    options: dict[str, Any]
    dtype: str
    seed: int
    number: int  # of the values, of which a call may be given several
    redraw: Callable[[int], "Case"]  # the same call with the values of another number

    def _repr_pretty_(self, printer, cycle):
        """What Hypothesis reports of a failure: shapes instead of numbers."""
        given = (
            {name: array.shape for name, array in self.arrays.items()}
            | self.options
            | {"seed": self.seed, "number": self.number}
        )
        printer.text(f"{self.dtype}: {', '.join(f'{name}={value!r}' for name, value in given.items())}")

    def rng(self, use):
        return stream(use, self.seed, self.number)

    @property
    def floats(self):
        return [name for name, array in self.arrays.items() if array.dtype == float]


def stream(use, seed, number=0):
    """Random numbers of their own for every use of a seed: one that shares them would choose by the same draws."""
    return np.random.default_rng((USES.index(use) + 1, seed, number))


def cases(plan, fill=None):
    """Cases whose shapes and options are `plan(rng)`, with arrays of values `fill(rng, name, shape, options)`.

    Where it gives none they are normal, or, in every other number, small integers, so that ties and zeros are common.
    """

    def make(dtype, repeat, seed, number=0):
        shapes, options = plan(stream("plan", seed))
        rng = stream("values", seed, number)
        arrays = {}
        for name, shape in shapes.items():
            values = fill(rng, name, shape, options) if fill else None
            if values is None:
                values = rng.integers(-2, 3, shape) if repeat ^ number % 2 else rng.standard_normal(shape)
            arrays[name] = values if name == "indices" else values.astype(DTYPES[dtype]).astype(float)
        return Case(arrays, options, dtype, seed, number, lambda number: make(dtype, repeat, seed, number))

    dtypes = st.sampled_from(["float32", "bfloat16", "float32", "float64"])
    return st.builds(make, dtypes, st.booleans(), st.integers(0, 2**32 - 1))


def pick(rng, choices):
    return choices[rng.integers(len(choices))]


def integer_or_pair(rng, minimum, maximum):
    first, second = map(int, rng.integers(minimum, maximum + 1, 2))
    return pick(rng, [first, (first, second)])


def fitting_size(rng, fits):
    """One of the eight smallest sizes that fit."""
    return pick(rng, [size for size in range(1, 40) if fits(size)][:8])


# ---------------------------------------------------------------- convolutions


def padding_of_any_form(rng):
    a, b, c, d = map(int, rng.integers(0, 4, 4))
    return pick(rng, [a, a, (a, b), ((a, b), (c, d)), ((a, b), (c, d)), "SAME", "VALID", "HALF", "FULL"])


def sliding(rng):
    """A window, the options of how it slides, and a size of image that it fits."""
    window = pick(rng, WINDOWS)
    options = {
        "stride": pick(rng, STRIDES),
        "padding": padding_of_any_form(rng),
        "dilation": pick(rng, [1, 1, 2, (1, 2), (3, 1)]),
        "padding_mode": pick(rng, ["zeros"] * 5 + ["reflect", "replicate", "circular"]),
    }
    placement = [options[name] for name in ("padding", "stride", "dilation")]
    spare = {"reflect": 1, "circular": 0}.get(
        options["padding_mode"], -np.inf
    )  # pixels an image has beyond its padding

    def fits(size, axis):
        added = reference.both_sides(placement[0], (size, size), window, *placement[1:])[axis]
        extent = reference.pair(options["dilation"])[axis] * (window[axis] - 1) + 1
        return size + sum(added) >= extent and size >= max(added) + spare

    size = tuple(fitting_size(rng, lambda size, axis=axis: fits(size, axis)) for axis in range(2))
    return window, options, size


def groups_depth_and_outs(rng):
    """How many groups, and how many channels of each go in and out; up to 16 channels, groups are merged."""
    dense = [(1, 1, 1), (1, 3, 4), (1, 8, 2), (1, 4, 17), (1, 33, 3), (1, 2, 5)]
    grouped = [(2, 1, 1), (2, 2, 3), (3, 1, 2), (3, 4, 1), (4, 2, 2)]
    wide = [(8, 4, 1), (12, 3, 2), (20, 2, 1), (3, 9, 2), (2, 17, 2), (17, 1, 1), (32, 1, 2)]
    return pick(rng, pick(rng, [dense, dense, grouped, grouped, wide]))


def convolution(rng):
    window, options, size = sliding(rng)
    groups, depth, outs = groups_depth_and_outs(rng)
    x, kernel = (pick(rng, BATCHES), *size, groups * depth), (*window, depth, groups * outs)
    options |= {"groups": groups, "layout": pick(rng, ["NHWC"] * 4 + ["NCHW"])}
    if options["layout"] == "NCHW":
        x, kernel = (x[0], x[3], *size), (*kernel[:1:-1], *window)
    return {"x": x, "kernel": kernel} | pick(rng, [{}, {"bias": (groups * outs,)}]), options


def depthwise_convolution(rng):
    window, options, size = sliding(rng)
    channels, multiplier = pick(rng, CHANNELS), pick(rng, [1, 1, 2, 3])
    x, kernel = (pick(rng, BATCHES), *size, channels), (*window, 1, channels * multiplier)
    return {"x": x, "kernel": kernel} | pick(rng, [{}, {"bias": (channels * multiplier,)}]), options


def separable_convolution(rng):
    window, options, size = sliding(rng)
    channels, multiplier, outs = pick(rng, CHANNELS), pick(rng, [1, 2]), pick(rng, [1, 3, 6])
    shapes = {
        "x": (pick(rng, BATCHES), *size, channels),
        "depthwise": (*window, 1, channels * multiplier),
        "pointwise": (1, 1, channels * multiplier, outs),
    }
    return shapes | pick(rng, [{}, {"bias": (outs,)}]), options


def transposed_convolution(rng):
    window, stride, dilation = pick(rng, WINDOWS), pick(rng, STRIDES), integer_or_pair(rng, 1, 2)
    padding, (groups, depth, outs) = integer_or_pair(rng, 0, 3), groups_depth_and_outs(rng)
    steps = zip(reference.pair(stride), reference.pair(dilation), strict=True)
    extra = tuple(int(rng.integers(max(step))) for step in steps)
    axes = zip(window, *map(reference.pair, (stride, dilation, padding)), extra, strict=True)
    size = [
        fitting_size(rng, lambda size, k=k, s=s, d=d, p=p, e=e: (size - 1) * s + d * (k - 1) + 1 + e > 2 * p)
        for k, s, d, p, e in axes
    ]
    shapes = {"x": (pick(rng, BATCHES), *size, groups * depth), "kernel": (*window, groups * depth, outs)}
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options["output_padding"] = extra[0] if extra[0] == extra[1] else extra
    return shapes | pick(rng, [{}, {"bias": (groups * outs,)}]), options


# ---------------------------------------------------------------- pooling, unpooling and enlarging


def pooling(padding=True, dilation=False, ceil_mode=False, **more):
    """The plan of a pooling that has these options; `more` are lists of values to choose from."""

    def plan(rng):
        window = pick(rng, [2, 2, 3, (2, 3), (2, 1), 2, (1, 2), 1, (3, 1), (1, 4), 3, 4, (5, 2)])
        options = {"window": window, "stride": pick(rng, [None, None, 1, 2, (2, 1), 3, (1, 4)])}
        dilations = reference.pair(pick(rng, [1, 1, 2, 3, (1, 2)]) if dilation else 1)
        extents = [d * (k - 1) + 1 for k, d in zip(reference.pair(window), dilations, strict=True)]
        paddings = tuple(int(rng.integers(extent // 2 + 1)) * padding * pick(rng, [0, 1]) for extent in extents)
        ceiling = {"ceil_mode": pick(rng, [False, True])} if ceil_mode else {}
        strides = reference.pair(window if options["stride"] is None else options["stride"])
        beyond = [stride - 1 if ceiling.get("ceil_mode") else 0 for stride in strides]
        axes = zip(extents, paddings, beyond, strict=True)
        size = [fitting_size(rng, lambda size, e=e, room=2 * p + b: size + room >= e) for e, p, b in axes]
        options |= {"padding": paddings} if padding else {}
        options |= {"dilation": dilations} if dilation else {}
        options |= ceiling
        options |= {name: pick(rng, values) for name, values in more.items()}
        return {"x": (pick(rng, BATCHES), *size, pick(rng, CHANNELS))}, options

    return plan


def image(rng):
    return (pick(rng, BATCHES), *map(int, rng.integers(1, 10, 2)), pick(rng, CHANNELS))


def images(**options):
    """The plan of an operation whose options, functions of rng, do not depend on the image."""
    return lambda rng: ({"x": image(rng)}, {name: choose(rng) for name, choose in options.items()})


def scales(rng):
    return integer_or_pair(rng, 1, 4)


def shuffle(rng):
    x, scale = image(rng), integer_or_pair(rng, 1, 3)
    return {"x": (*x[:3], pick(rng, [1, 2, 4]) * int(np.prod(reference.pair(scale))))}, {"scale": scale}


def unpooling(rng):
    y, (s, t) = image(rng), pick(rng, [(2, 2), (1, 1), (3, 1), (2, 3)])
    more = pick(rng, [(0, 0), (0, 0), (1, 0), (1, 2)])  # pixels beyond whole cells
    output_size = tuple(int(axis) for axis in (y[1] * s + more[0], y[2] * t + more[1]))
    return {"y": y, "indices": y}, {"output_size": output_size}


def indices(rng, name, shape, options):
    """Indices that do not repeat: each in its own cell, anywhere, or some of them outside of the plane."""
    if name != "indices":
        return None
    (n, h, w, c), size = shape, options["output_size"]
    where = pick(rng, ["own cell", "anywhere", "some outside"])
    if where == "own cell":
        s, t = size[0] // h, size[1] // w
        rows = np.arange(h)[:, None, None] * s + rng.integers(s, size=shape)
        return (rows * size[1] + np.arange(w)[:, None] * t + rng.integers(t, size=shape)).astype(np.int32)
    low, high = (0, size[0] * size[1]) if where == "anywhere" else (-2, size[0] * size[1] + 3)
    planes = np.broadcast_to(np.arange(low, high, dtype=np.int32), (n, c, high - low))
    return rng.permuted(planes, axis=2)[..., : h * w].reshape(n, c, h, w).transpose(0, 2, 3, 1)


# ---------------------------------------------------------------- normalisation


def normalisation(*vectors):
    def plan(rng):
        x = image(rng)
        return {"x": x} | dict.fromkeys(vectors, x[3:]), {"eps": pick(rng, [1e-5, 1e-3, 1.0])} if vectors else {}

    return plan


def about_means(rng, name, shape, options):
    """Images whose channels have means of their own; variances that are positive."""
    values = rng.standard_normal(shape)
    if name == "x":
        return values * 2 + rng.integers(-3, 4, shape[-1])
    return values**2 + 0.1 if name == "var" else values


def response(rng):
    choices = {"size": [1, 2, 3, 4, 5, 7], "alpha": [1e-4, 0.1, 0.5], "beta": [0.75, 0.5, 1.0], "k": [2.0, 1.0, 0.5]}
    return {"x": image(rng)}, {name: pick(rng, values) for name, values in choices.items()}
