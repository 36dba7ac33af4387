"""What a convolution computes: worked examples, both its directions, channels, layouts, and what moving an image does.

Lectures S0, S1, S2 and S3 (claims B1, B2, B6 to B10 and B13). The formulas are evaluated term by term as they are
printed, and compared with what `ops` computes. In two places lecture S2 prints a formula that is not what it means.

    python launch.py convolution                                            # S3's image and kernel, step by step
    python launch.py convolution --image "11100/01110/00111/00110/01100" --kernel "101/010/101"     # S0's
    python launch.py convolution --image "0 0 0 0 0/0 0 1 0 0/0 0 0 0 0" --kernel "1 2 3/4 5 6/7 8 9"

Takes about ten seconds. Expect the window step by step, a kernel that appears flipped or not, the sum over channels,
and a convolution whose response moves with the image, exactly, where that of a fully connected layer does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy import signal

from cnnjax import data, ops, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import ROUNDING, Claim, check, check_error, erratum
from cnnjax.lab.worked import computed, convolve, correlate, distance, equation, parse, s0_sum, s2_sum, show
from cnnjax.options import Checked, Seed
from cnnjax.viz import Grid

LARGEST = 12  # rows or columns of an image whose cells can still be read
STEPS = 9  # positions of the window that are drawn
SHIFT = (5, 9)  # pixels down and to the right


EXAMPLES = (  # claim, lecture, image, kernel, and the result if the lecture prints it
    # S0 shows the image in an animation (of Stanford's UFLDL tutorial), and has the kernel in its text.
    ("B1", "S0", parse("11100/01110/00111/00110/01100"), parse("101/010/101"), None),
    ("B6", "S3", parse("33210/00131/31223/20022/20001"), parse("012/220/012"), parse("12 12 17/10 17 19/9 6 14")),
)


@dataclass(frozen=True)
class Config(Checked):
    """Show what a convolution computes."""

    image: str = "33210/00131/31223/20022/20001"
    """Image whose convolution is drawn step by step: rows with slashes."""
    kernel: str = "012/220/012"
    """Its kernel, as '101/010/101' or '1 0 -1 / 1 0 -1'."""
    seed: Seed = 0
    """Decides the random images, kernels and weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        image, kernel = parse(self.image, "`image`"), parse(self.kernel, "`kernel`")
        if max(image.shape) > LARGEST or any(np.greater(kernel.shape, image.shape)):
            sizes = f"`image` is {image.shape[0]}x{image.shape[1]} and `kernel` {kernel.shape[0]}x{kernel.shape[1]}"
            raise UserError(f"{sizes}: expected an image of at most {LARGEST}x{LARGEST}, and a kernel that fits in it")


def load(config: Config) -> tuple[np.ndarray, ...]:
    """Return the image and the kernel to draw."""
    return parse(config.image), parse(config.kernel)


def run(config: Config, drawn: tuple[np.ndarray, ...], run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the figures, and return what was computed and measured."""
    moved = move_an_image(config.seed)
    examples = [equation(image, kernel, f"{lecture}: image") for _, lecture, image, kernel, _ in EXAMPLES]
    viz.save(viz.number_grids(examples), run.figures / "worked-examples.png")
    viz.save(viz.number_grids(_steps(*drawn)), run.figures / "step-by-step.png")
    viz.save(viz.number_grids(_directions()), run.figures / "correlation-and-convolution.png")
    viz.save(viz.number_grids(_channels()), run.figures / "channels.png")
    viz.save(_draw_moved(moved), run.figures / "moved-image.png")
    return {
        "examples": {lecture: correlate(image, kernel).tolist() for _, lecture, image, kernel, _ in EXAMPLES},
        "drawn": correlate(*drawn).tolist(),
        "moved": {name: layer.error for name, layer in moved.items()},
        "inputs_of_an_output": {name: layer.inputs for name, layer in moved.items()},
        "parameters": {name: layer.params for name, layer in moved.items()},
    }


# ---------------------------------------------------------------- moving an image


class Layer(NamedTuple):
    """What moving an image does to a layer's response."""

    responses: tuple[np.ndarray, np.ndarray]  # to the image, and to the moved image
    error: float  # between the second response and the first one, moved; relative to its largest value
    inputs: int  # how many pixels one output depends on: where its derivative is not zero
    params: int  # weights


def small_photograph(side: int = 32) -> np.ndarray:
    """Return a flower in grey, (side, side), with values in [0, 1] whose mean is subtracted."""
    small = data.photograph("flower", side).mean(-1, dtype=np.float32) / 255
    return small - small.mean()


def move_an_image(seed: int) -> dict[str, Layer]:
    """Measure a convolution and a fully connected layer of the same size on an image and the image moved circularly."""
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


# ---------------------------------------------------------------- figures


def _draw_moved(moved: dict[str, Layer]) -> Figure:
    image, titles, pictures = small_photograph(), [], []
    for name, layer in moved.items():
        still, after = layer.responses
        pictures += [image, still, np.roll(image, SHIFT, (0, 1)), after, after - np.roll(still, SHIFT, (0, 1))]
        titles += ["image", name, "moved image", name, f"not moved along: {layer.error:.0%}"]
    return viz.image_grid(np.stack(pictures), titles, 5)


def _steps(image: np.ndarray, kernel: np.ndarray) -> list[list[Grid]]:
    """The window on the image and the result so far, three steps in a row."""
    result = correlate(image, kernel)
    limits = (float(result.min()), float(result.max()))
    steps = []
    for count, (row, column) in enumerate(list(np.ndindex(result.shape))[:STEPS], 1):
        so_far = np.where(np.arange(result.size).reshape(result.shape) < count, result, np.nan)
        steps += [
            Grid(image, f"step {count}", boxes=[(row, column, *kernel.shape)]),
            Grid(so_far, "result", "→", boxes=[(row, column, 1, 1)], limits=limits),
        ]
    return [[Grid(kernel, "kernel")]] + [steps[start : start + 6] for start in range(0, len(steps), 6)]


def _directions() -> list[list[Grid]]:
    """One bright pixel: convolution puts the kernel there, cross-correlation the kernel rotated by 180 degrees."""
    point, kernel = np.zeros((5, 5), np.float32), np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    point[2, 2] = 1
    pair = Grid(point, "image"), Grid(kernel, "kernel", "*")
    operations = {"cross-correlation (conv2d)": correlate, "convolution (convolve2d)": convolve}
    return [[*pair, Grid(compute(point, kernel, padding=1), name, "=")] for name, compute in operations.items()]


def _channels() -> list[list[Grid]]:
    """Three channels, each with its own slice of the kernel, and their sum."""
    random = np.random.default_rng(3)
    image = random.integers(0, 4, (4, 4, 3)).astype(np.float32)
    kernel = random.integers(-1, 2, (3, 3, 3)).astype(np.float32)
    rows = [equation(image[..., r], kernel[..., r], f"channel {r}: image") for r in range(3)]
    whole = computed(ops.conv2d, image[None], kernel[..., None])[0, ..., 0]
    parts = [Grid(correlate(image[..., r], kernel[..., r]), f"channel {r}", "+" if r else "") for r in range(3)]
    return [*rows, [*parts, Grid(whole, "conv2d", "=")]]


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of the layers: weights, inputs of an output, error after a move."""
    rows = [
        (name, f"{summary['parameters'][name]:,}", summary["inputs_of_an_output"][name], f"{error:.1%}")
        for name, error in summary["moved"].items()
    ]
    pixels, error = "pixels that an output sees", "response that does not move with the image"
    return markdown.table(("layer, 32x32 to 32x32", "weights", pixels, error), rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims B1, B2, B6 to B10 and B13, all computed here."""
    random = np.random.default_rng(0)
    drawn = (part for claim in (_both_directions, _volumes, _many_channels, _pointwise) for part in claim(random))
    return [*_examples(), *drawn, *_moved()]


def _examples() -> list[Claim]:
    return [
        check(
            id,
            f"{lecture}: {image.shape[0]}x{image.shape[1]} image {show(image)}, kernel {show(kernel)}; "
            "the same as the formula evaluated term by term",
            "3x3 result" if result is None else show(result),
            show(ours := correlate(image, kernel)),
            all(np.array_equal(ours, x) for x in (s0_sum(image, kernel), result) if x is not None),
        )
        for id, lecture, image, kernel, result in EXAMPLES
    ]


def _both_directions(random: np.random.Generator) -> list[Claim]:
    image, kernel = random.standard_normal((7, 6), np.float32), random.standard_normal((3, 5), np.float32)
    whole, centred = s2_sum(image, kernel, centred=False), s2_sum(image, kernel, centred=True)
    v1, v2 = np.array(kernel.shape) // 2
    inside = convolve(image, kernel)
    flipped = distance(correlate(image, kernel[::-1, ::-1]), whole[2 * v1 : -2 * v1, 2 * v2 : -2 * v2])
    size = (image.shape[0] - 2 * v1, image.shape[1] - 2 * v2)
    full, half = (convolve(image, kernel, padding=padding) for padding in ("FULL", "HALF"))
    rows = {
        "the sum from 0 to M-1 is convolve2d with full padding": distance(full, whole),
        "the centred sum is convolve2d with half padding": distance(half, centred),
        "inside the image it is cross-correlation with the kernel flipped": flipped,
    }
    return [
        *(check_error("B2", f"S2: true convolution; {text}", "equal", error) for text, error in rows.items()),
        check(
            "B2",
            f"S2: unpadded, a {kernel.shape[0]}x{kernel.shape[1]} kernel leaves (N1-2v1)x(N2-2v2) of a 7x6 image, "
            "the middle of the centred sum",
            f"{size[0]}x{size[1]}",
            f"{inside.shape[0]}x{inside.shape[1]}",
            inside.shape == size and distance(inside, centred[v1:-v1, v2:-v2]) <= ROUNDING,
            f"{ROUNDING:g}",
        ),
    ]


def _volumes(random: np.random.Generator) -> list[Claim]:
    image = random.standard_normal((1, 32, 32, 3), np.float32)
    kernels = random.standard_normal((5, 5, 3, 6), np.float32)
    y, answer = computed(ops.conv2d, image, kernels), "accepted"
    try:
        computed(ops.conv2d, image, kernels[:, :, :2])
    except ValueError:
        answer = "refused"
    first = np.sum([s0_sum(image[0, ..., r], kernels[..., r, 0]) for r in range(3)], axis=0)
    other = computed(ops.conv2d, image.transpose(0, 3, 1, 2), kernels.transpose(3, 2, 0, 1), layout="NCHW")
    patches = np.lib.stride_tricks.sliding_window_view(image[0].astype(float), (5, 5), (0, 1))
    by_hand = np.einsum("hwcab,abco->ohw", patches, kernels.astype(float), optimize=True)
    apart = max(distance(other[0], by_hand), distance(y[0].transpose(2, 0, 1), by_hand))
    return [
        check(
            "B7",
            "a 5x5x3 filter on 32x32x3 gives one map, each number a sum over all three channels; six give six",
            "28x28x1, 28x28x6",
            f"{'x'.join(map(str, y[..., :1].shape[1:]))}, {'x'.join(map(str, y.shape[1:]))}",
            first.shape == (28, 28) and y.shape == (1, 28, 28, 6) and distance(y[0, ..., 0], first) <= ROUNDING,
            f"shapes exact, values {ROUNDING:g}",
        ),
        check(
            "B7",
            "filters always extend the full depth of the input: a 5x5x2 filter on 32x32x3",
            "no such filter",
            answer,
            answer == "refused",
        ),
        check(
            "B8",
            "kernels are 4-D (Cout, Cin, FH, FW), images NCHW or NHWC: (6, 3, 5, 5) in both layouts, and NumPy's sum",
            "4-D arrays",
            f"NCHW {other.shape}, NHWC {y.shape}; {apart:.0e} from NumPy's",
            apart <= ROUNDING and other.shape == (1, 6, 28, 28) and y.shape == (1, 28, 28, 6),
            f"shapes exact, values {ROUNDING:g}",
        ),
    ]


def _many_channels(random: np.random.Generator) -> list[Claim]:
    image = random.standard_normal((8, 8, 3), np.float32)
    kernel = random.standard_normal((3, 3, 3), np.float32)
    flat = computed(ops.conv2d, image[None], kernel[..., None])[0, ..., 0]
    single = computed(ops.depthwise_conv2d, image[None], kernel[:, :, None])[0]
    solid = signal.correlate(image, kernel, "full")[2:-2, 2:-2]
    error, order = distance(single.sum(-1), flat), [2, 0, 1]
    solid_permuted = signal.correlate(image[..., order], kernel[..., order], "full")[2:-2, 2:-2]
    permuted = computed(ops.conv2d, image[None][..., order], kernel[:, :, order][..., None])[0, ..., 0]
    # S2 convolves; with the flipped kernel that is what conv2d computes.
    printed = np.stack([s2_sum(image[..., r], kernel[::-1, ::-1, r], centred=True)[1:-1, 1:-1] for r in range(3)], -1)
    a_pixel = printed[0, 0]
    return [
        check_error("B9", "S2: a multichannel 2-D convolution sums the channels' own convolutions", "equal", error),
        check(
            "B9",
            "S2: it is not a 3-D one, which moves along the channels too: maps from an 8x8x3 image and a 3x3x3 kernel, "
            "and what another order of channels changes",
            "2-D, not 3-D",
            f"2-D: 1 map, changed by {distance(permuted, flat):.0e}; 3-D: {solid.shape[-1]} maps, the middle one "
            f"{distance(flat, solid[..., 2]):.0e} from it, changed by {distance(solid_permuted, solid):.1f}",
            max(distance(flat, solid[..., 2]), distance(permuted, flat)) <= ROUNDING
            and solid.shape[-1] == 5
            and distance(solid_permuted, solid) > 0.1,
            f"{ROUNDING:g}; changed by 0.1 or more",
        ),
        erratum(
            "B9",
            "S2 first prints y(i, j, o) without a sum over the channels r, so that a pixel has a value for each r",
            f"{printed.shape[-1]} values, {show(a_pixel, 3)}",
            f"their sum over r, {flat[0, 0]:.3g}, as on the next slide",
            distance(printed.sum(-1), flat) <= ROUNDING and bool(np.ptp(a_pixel) > 0.1),
            f"{ROUNDING:g}",
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
        check_error("B10", "S2: a 1x1 convolution maps each pixel's channels", "b + sum_r w(r, o) x(i, j, r)", error),
        erratum(
            "B10",
            "S2's sums for an MxM kernel run from k=1 to M, so that a 1x1 convolution (M=1) moves the image by a pixel",
            "x(i - 1, j - 1)",
            "x(i, j), as in S2's own formula for 1x1",
            distance(printed[1:, 1:], y[:-1, :-1]) <= ROUNDING and distance(printed, y) > 0.1,
            f"{ROUNDING:g}",
        ),
    ]


def _moved() -> list[Claim]:
    layers = move_an_image(0)
    convolution, dense = layers["convolution"], layers["fully connected"]
    return [
        check(
            "B13",
            f"S1: parameter sharing: an image moved by {SHIFT} pixels moves a convolution's response along "
            "(equivariance; S1 says invariance, of the filter), and not a fully connected layer's",
            "applies at any position",
            f"convolution {convolution.error:.0e} apart, fully connected {dense.error:.1f}",
            convolution.error <= ROUNDING and dense.error > 0.5,
            f"{ROUNDING:g}; fully connected above 0.5",
        ),
        check(
            "B13",
            "S1: local connectivity: pixels of a 32x32 image that one output depends on, and weights of the layer",
            "only its neighborhood",
            ", ".join(f"{name} {layer.inputs:,} and {layer.params:,}" for name, layer in layers.items()),
            (convolution.inputs, convolution.params, dense.inputs, dense.params) == (9, 9, 32 * 32, (32 * 32) ** 2),
        ),
    ]
