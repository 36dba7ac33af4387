"""Lectures' statements about convolution, evaluated: formulas, channels, layouts, and what moving an image does."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal

from cnnjax import data, geometry, ops
from cnnjax.lab.claims import Claim, check, erratum
from cnnjax.lab.worked import computed, convolve, correlate, distance, parse, s0_sum, s2_sum, show

SHIFT = (5, 9)  # pixels down and to the right
ROUNDING = 1e-5  # of float32 sums, relative to the largest of them


class Example(NamedTuple):
    """An image and a kernel of a lecture, and the result that its text prints, if it does."""

    id: str
    lecture: str
    image: np.ndarray
    kernel: np.ndarray
    result: np.ndarray | None = None


EXAMPLES = (
    # The image is the one of the animation that S0 shows (Stanford's UFLDL tutorial); its text has the kernel.
    Example("B1", "S0", parse("11100/01110/00111/00110/01100"), parse("101/010/101")),
    Example(
        "B6", "S3", parse("33210/00131/31223/20022/20001"), parse("012/220/012"), parse("12 12 17/10 17 19/9 6 14")
    ),
)


# ---------------------------------------------------------------- moving an image


class Layer(NamedTuple):
    """What moving an image does to a layer's response.

    Attributes:
        responses: to the image, and to the moved image.
        error: how far the second is from the first, moved; relative to its largest value.
        inputs: how many pixels the derivative of one output is not zero at.
        params: weights.
    """

    responses: tuple[np.ndarray, np.ndarray]
    error: float
    inputs: int
    params: int


def small_photograph(side: int = 32) -> np.ndarray:
    """Return a flower in grey, (side, side) in [0, 1], with its mean taken off: what a layer sees."""
    small = data.photograph("flower", side).mean(-1, dtype=np.float32) / 255
    return small - small.mean()


def move_an_image(seed: int) -> dict[str, Layer]:
    """Measure a convolution and a fully connected layer of as many outputs on an image and the image moved around."""
    random, image = np.random.default_rng(seed), small_photograph()
    kernel = random.standard_normal((3, 3, 1, 1), np.float32)
    matrix = random.standard_normal((image.size, image.size), np.float32) / np.sqrt(image.size)
    pair = jnp.asarray(np.stack([image, np.roll(image, SHIFT, (0, 1))])[..., None])
    layers = {
        "convolution": (lambda x, k: ops.conv2d(x, k, padding=1, padding_mode="circular"), kernel),
        "fully connected": (lambda x, w: (x.reshape(2, -1) @ w).reshape(x.shape), matrix),
    }
    return {name: _measure(layer, pair, weights) for name, (layer, weights) in layers.items()}


def _measure(layer: Callable[..., jax.Array], pair: jax.Array, weights: np.ndarray) -> Layer:
    @jax.jit
    def response_and_inputs(pair: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, derivative = jax.vjp(lambda x: layer(x, weights), pair)
        (of_one_output,) = derivative(jnp.zeros_like(y).at[0, 7, 7].set(1))
        return y[..., 0], jnp.count_nonzero(of_one_output)

    y, inputs = response_and_inputs(pair, jnp.asarray(weights))
    still, after = np.asarray(y)
    return Layer((still, after), distance(after, np.roll(still, SHIFT, (0, 1))), int(inputs), weights.size)


# ---------------------------------------------------------------- claims


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims B1, B2, B6 to B10 and B13, all computed here."""
    random = np.random.default_rng(0)
    return [
        *_examples(),
        *_both_directions(random),
        *_volumes(random),
        *_many_channels(random),
        *_pointwise(random),
        *_moved(),
    ]


def _examples() -> list[Claim]:
    checked = []
    for id, lecture, image, kernel, result in EXAMPLES:
        ours, terms = correlate(image, kernel), s0_sum(image, kernel)
        checked.append(
            check(
                id,
                f"{lecture}: {image.shape[0]}x{image.shape[1]} image {show(image)}, kernel {show(kernel)}; "
                "the same as the formula evaluated term by term",
                "3x3 result" if result is None else show(result),
                show(ours),
                "exact",
                ours.shape == (3, 3)
                and bool((ours == (terms if result is None else result)).all() and (ours == terms).all()),
            )
        )
    return checked


def _both_directions(random: np.random.Generator) -> list[Claim]:
    image, kernel = random.standard_normal((7, 6), np.float32), random.standard_normal((3, 5), np.float32)
    whole, centred = s2_sum(image, kernel, centred=False), s2_sum(image, kernel, centred=True)
    v1, v2 = np.array(kernel.shape) // 2
    inside = convolve(image, kernel)
    flipped = distance(correlate(image, kernel[::-1, ::-1]), whole[2 * v1 : -2 * v1, 2 * v2 : -2 * v2])
    size = (image.shape[0] - 2 * v1, image.shape[1] - 2 * v2)
    rows = (
        (
            "the sum from 0 to M-1 is convolve2d with full padding",
            distance(convolve(image, kernel, padding="FULL"), whole),
        ),
        ("the centred sum is convolve2d with half padding", distance(convolve(image, kernel, padding="HALF"), centred)),
        ("inside the image it is cross-correlation with the kernel flipped", flipped),
    )
    return [
        check("B2", f"S2: true convolution; {text}", "equal", f"{error:.0e} apart", f"{ROUNDING:g}", error <= ROUNDING)
        for text, error in rows
    ] + [
        check(
            "B2",
            f"S2: unpadded, a {kernel.shape[0]}x{kernel.shape[1]} kernel leaves (N1-2v1)x(N2-2v2) of a 7x6 image, "
            "the middle of the centred sum",
            f"{size[0]}x{size[1]}",
            f"{inside.shape[0]}x{inside.shape[1]}",
            f"{ROUNDING:g}",
            inside.shape == size and distance(inside, centred[v1:-v1, v2:-v2]) <= ROUNDING,
        )
    ]


def _volumes(random: np.random.Generator) -> list[Claim]:
    image = random.standard_normal((1, 32, 32, 3), np.float32)
    kernels = random.standard_normal((5, 5, 3, 6), np.float32)
    y = computed(ops.conv2d, image, kernels)
    try:
        computed(ops.conv2d, image, kernels[:, :, :2])
        refused = "accepted"
    except ValueError:
        refused = "refused"
    first = np.sum([s0_sum(image[0, ..., r], kernels[..., r, 0]) for r in range(3)], axis=0)
    other = computed(ops.conv2d, image.transpose(0, 3, 1, 2), kernels.transpose(3, 2, 0, 1), layout="NCHW")
    apart = distance(other.transpose(0, 2, 3, 1), y)
    return [
        check(
            "B7",
            "a 5x5x3 filter on 32x32x3 gives one map, each number a sum over all three channels; six give six",
            "28x28x1, 28x28x6",
            f"{'x'.join(map(str, y[..., :1].shape[1:]))}, {'x'.join(map(str, y.shape[1:]))}",
            f"shapes exact, values {ROUNDING:g}",
            first.shape == (28, 28) and y.shape == (1, 28, 28, 6) and distance(y[0, ..., 0], first) <= ROUNDING,
        ),
        check(
            "B7",
            "filters always extend the full depth of the input: a 5x5x2 filter on 32x32x3",
            "no such filter",
            refused,
            "exact",
            refused == "refused",
        ),
        check(
            "B8",
            "kernels are 4-D (Cout, Cin, FH, FW), images NCHW or NHWC: both layouts give the same numbers",
            "(6, 3, 5, 5); same",
            f"{kernels.transpose(3, 2, 0, 1).shape}; {apart:.0e} apart",
            f"{ROUNDING:g}",
            apart <= ROUNDING and other.shape == (1, 6, 28, 28),
        ),
    ]


def _many_channels(random: np.random.Generator) -> list[Claim]:
    image = random.standard_normal((8, 8, 3), np.float32)
    kernel = random.standard_normal((3, 3, 3), np.float32)
    flat = computed(ops.conv2d, image[None], kernel[..., None])[0, ..., 0]
    single = computed(ops.depthwise_conv2d, image[None], kernel[:, :, None])[0]
    solid = signal.correlate(image, kernel, "full")[2:-2, 2:-2]
    order = [2, 0, 1]
    solid_permuted = signal.correlate(image[..., order], kernel[..., order], "full")[2:-2, 2:-2]
    permuted = computed(ops.conv2d, image[None][..., order], kernel[:, :, order][..., None])[0, ..., 0]
    # S2 convolves; with the flipped kernel that is what conv2d computes.
    printed = np.stack([s2_sum(image[..., r], kernel[::-1, ::-1, r], centred=True)[1:-1, 1:-1] for r in range(3)], -1)
    a_pixel = printed[0, 0]
    return [
        check(
            "B9",
            "S2: a multichannel 2-D convolution sums the channels' own convolutions",
            "equal",
            f"{distance(single.sum(-1), flat):.0e} apart",
            f"{ROUNDING:g}",
            distance(single.sum(-1), flat) <= ROUNDING,
        ),
        check(
            "B9",
            "S2: it is not a 3-D one, which moves along the channels too: maps from an 8x8x3 image and a 3x3x3 kernel, "
            "and what another order of channels changes",
            "2-D, not 3-D",
            f"2-D: 1 map, changed by {distance(permuted, flat):.0e}; 3-D: {solid.shape[-1]} maps, the middle one "
            f"{distance(flat, solid[..., 2]):.0e} from it, changed by {distance(solid_permuted, solid):.1f}",
            f"{ROUNDING:g}; changed by 0.1 or more",
            max(distance(flat, solid[..., 2]), distance(permuted, flat)) <= ROUNDING
            and solid.shape[-1] == 5
            and distance(solid_permuted, solid) > 0.1,
        ),
        erratum(
            "B9",
            "S2's y(i, j, o) as first printed, at one pixel: r is free on its right side; the next slide has the sum",
            f"{printed.shape[-1]} values, {show(a_pixel, 3)}",
            f"their sum over r, {flat[0, 0]:.3g}",
            f"{ROUNDING:g}",
            distance(printed.sum(-1), flat) <= ROUNDING and bool(np.ptp(a_pixel) > 0.1),
        ),
    ]


def _pointwise(random: np.random.Generator) -> list[Claim]:
    image = random.standard_normal((5, 4, 3), np.float32)
    weights, bias = random.standard_normal((3, 2), np.float32), random.standard_normal(2, np.float32)
    y = computed(ops.conv2d, image[None], weights[None, None], bias)[0]
    error = distance(y, image.astype(float) @ weights + bias)
    # k1 and k2 run from 1 to 1, so the only term is w(1, 1) x(i - 1, j - 1); x is zero outside.
    printed = np.pad(image, ((1, 0), (1, 0), (0, 0)))[:-1, :-1].astype(float) @ weights + bias
    return [
        check(
            "B10",
            "S2: a 1x1 convolution is a linear map of each pixel's channels",
            "b + sum_r w(r, o) x(i, j, r)",
            f"{error:.0e} apart",
            f"{ROUNDING:g}",
            error <= ROUNDING,
        ),
        erratum(
            "B10",
            "S2's general formula on that slide, whose sums run from k=1 to M, with M=1: it moves the image by a pixel",
            "x(i - 1, j - 1)",
            "x(i, j), as in its own special case",
            f"{ROUNDING:g}",
            distance(printed[1:, 1:], y[:-1, :-1]) <= ROUNDING and distance(printed, y) > 0.1,
        ),
    ]


def _moved() -> list[Claim]:
    layers = move_an_image(0)
    convolution, dense = layers["convolution"], layers["fully connected"]
    return [
        check(
            "B13",
            f"S1: parameter sharing: an image moved by {SHIFT} pixels moves a convolution's response along "
            "(equivariance), and not a fully connected layer's",
            "applies at any position",
            f"convolution {convolution.error:.0e} apart, fully connected {dense.error:.1f}",
            f"{ROUNDING:g}; fully connected above 0.5",
            convolution.error <= ROUNDING and dense.error > 0.5,
        ),
        check(
            "B13",
            "S1: local connectivity: pixels of a 32x32 image that one output depends on, and weights of the layer",
            "only its neighborhood",
            f"convolution {convolution.inputs} and {convolution.params}, "
            f"fully connected {dense.inputs:,} and {dense.params:,}",
            "exact",
            convolution.inputs == 9 and dense.params == geometry.dense_params(1024, 1024, bias=False),
        ),
    ]
