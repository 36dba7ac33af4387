"""Pooling: worked examples, what survives on which background, invariance to small shifts, switches, lost detail.

Lectures S0, S1, S2 and S3 (claims D1 to D7): maxima, minima, means and L2 norms of windows have no parameters and keep
the depth. Shown are what they keep of light and of dark objects, how little max pooling changes under small
translations, where the gradient of a maximum goes, and what large windows destroy.

    python launch.py pooling
    python launch.py pooling --photograph flower --seed 3

Takes less than half a minute. Expect one statement of S0 to be the wrong way round: max pooling keeps light objects on
a dark background and loses dark objects on a light one, which min pooling keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import data, nn, ops, runs, train, viz
from cnnjax.data import shapes
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check, check_error, check_or_correct
from cnnjax.lab.worked import nhwc, show, switches
from cnnjax.options import Checked, Seed

D1_INPUT = np.array([[1, 3, 6, 2], [9, 5, 6, 5], [9, 1, 1, 2], [0, 2, 8, 2]])
D2_INPUT = np.array([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])
D1_LECTURE, D2_LECTURE = np.array([[9, 6], [9, 8]]), np.array([[3, 3, 3], [3, 3, 3], [3, 2, 3]])  # S1 and S2
POOLS: dict[str, Callable[..., jax.Array]] = {
    "max": ops.max_pool2d,
    "min": ops.min_pool2d,
    "average": ops.avg_pool2d,
    "L2": ops.lp_pool2d,
}
EVERY = "every n-th pixel"
BACKGROUNDS = {"light on dark": (0.9, 0.1), "dark on light": (0.1, 0.9)}  # values of drawn lines, and around them
SIDE, DRAWINGS, NOISE = 64, 16, 0.05
PHOTOGRAPH = 128  # its side in pixels
SHIFTED = 4  # window and stride of the pooling whose input moves
SHIFTS = np.arange(SHIFTED + 1)
WINDOWS = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Config(Checked):
    """Pool numbers, drawings and a photograph."""

    photograph: data.Photograph = "china"
    """One of scikit-learn's."""
    seed: Seed = 0
    """Decides the drawings, the noise and the numbers."""


def load(config: Config) -> np.ndarray:
    """Return the photograph in grey, (128 + 4, 128 + 4) in [0, 1]: it can be moved by 4 pixels."""
    return (data.photograph(config.photograph, PHOTOGRAPH + SHIFTED).mean(-1) / 255).astype(np.float32)


def run(config: Config, image: np.ndarray, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Measure, draw the figures, and return the summary."""
    from experiments import pooling_figures  # which draws what this file computes

    moved, lost = translation(image), detail(image)
    for name, figure in pooling_figures.draw(config.seed, image, moved, lost).items():
        viz.save(figure, run.figures / f"{name}.png")
    return {
        "contrast_left": contrast(config.seed),
        "noise_variance_left": noise_variance(config.seed),
        "unchanged": {name: values["unchanged"].tolist() for name, values in moved.items()},
        "relative_change": {name: values["change"].tolist() for name, values in moved.items()},
        "error_by_window": {name: [error for _, error in pictures] for name, pictures in lost.items()},
    }


def worked_examples() -> tuple[np.ndarray, np.ndarray]:
    """Return max pooling of S1's numbers by 2x2 windows with stride 2, and of S2's by 3x3 windows with stride 1."""
    pooled = ops.max_pool2d(nhwc(D1_INPUT), 2), ops.max_pool2d(nhwc(D2_INPUT), 3, stride=1)
    return np.asarray(pooled[0])[0, ..., 0], np.asarray(pooled[1])[0, ..., 0]


def drawings(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lines one pixel wide around generated shapes, bool (16, 64, 64), and noise of the same shape."""
    masks = np.pad(shapes.generate(DRAWINGS, size=SIDE, seed=seed).masks, ((0, 0), (1, 1), (1, 1)))
    neighbours = [np.roll(masks, step, axis) for axis in (1, 2) for step in (-1, 1)]
    lines = (masks & ~np.logical_and.reduce(neighbours))[:, 1:-1, 1:-1]
    return lines, np.random.default_rng(seed).normal(0, NOISE, lines.shape).astype(np.float32)


def contrast(seed: int, window: int = 2) -> dict[str, dict[str, float]]:
    """Return by background and pooling which share of the lines' contrast is left.

    The contrast is the mean over windows that a line touches minus the mean over all others, relative to that before
    pooling. The L2 norm is divided by the window, which makes it a root mean square.
    """
    lines, noise = drawings(seed)

    @jax.jit
    def measure(lines: jax.Array, noise: jax.Array) -> dict[str, dict[str, jax.Array]]:
        touched = ops.max_pool2d(lines, window)
        left: dict[str, dict[str, jax.Array]] = {}
        for name, (line, ground) in BACKGROUNDS.items():
            images = jnp.where(lines > 0, line, ground) + noise
            for pooling, pool in POOLS.items():
                pooled = pool(images, window) / (window if pooling == "L2" else 1)
                inside, outside = (jnp.average(pooled, weights=weight) for weight in (touched, 1 - touched))
                left.setdefault(name, {})[pooling] = (inside - outside) / (line - ground)
        return left

    measured = measure(jnp.asarray(lines, jnp.float32)[..., None], jnp.asarray(noise)[..., None])
    return jax.tree.map(float, measured)


def noise_variance(seed: int, window: int = 2) -> dict[str, float]:
    """Return by pooling the share of the variance of normal noise that is left; a mean leaves 1/window^2."""
    noise = jnp.asarray(np.random.default_rng(seed).normal(size=(1, 512, 512, 1)), jnp.float32)
    return {name: float(pool(noise, window).var() / noise.var()) for name, pool in POOLS.items()}


def translation(image: np.ndarray, window: int = SHIFTED) -> dict[str, dict[str, np.ndarray]]:
    """Return how pooled values change as the photograph moves to the right by 0 to `window` pixels.

    Returns:
        By pooling: "unchanged", the share of values that stay exactly the same, and "change", the root mean square
        change over the standard deviation of the pooled values.
    """
    size = image.shape[0] - window
    moved = jnp.stack([image[:size, window - shift : window - shift + size] for shift in SHIFTS])[..., None]
    pools = {name: POOLS[name] for name in ("max", "average", "L2")}

    @jax.jit
    def measure(x: jax.Array) -> dict[str, dict[str, jax.Array]]:
        pooled = {name: pool(x, window) for name, pool in pools.items()} | {EVERY: x[:, ::window, ::window]}
        return {
            name: {
                "unchanged": (y == y[:1]).mean((1, 2, 3)),
                "change": jnp.sqrt(jnp.square(y - y[:1]).mean((1, 2, 3))) / y[0].std(),
            }
            for name, y in pooled.items()
        }

    measured = jax.tree.map(np.asarray, measure(moved))
    return {name: measured[name] for name in (*pools, EVERY)}


def uses(size: int, window: int, stride: int) -> np.ndarray:
    """Return how many windows contain each pixel: the gradient of the windows' sums."""
    x = jnp.zeros((1, size, size, 1))
    sums = jax.jit(jax.grad(lambda x: window**2 * ops.avg_pool2d(x, window, stride=stride).sum()))
    return np.rint(np.asarray(sums(x))[0, ..., 0]).astype(int)


def detail(image: np.ndarray) -> dict[str, list[tuple[np.ndarray, float]]]:
    """Pool the photograph by each of `WINDOWS` and enlarge it again by repeating pixels.

    Returns:
        By pooling and window: the picture, and its mean square error over the photograph's variance.
    """
    original = image[:PHOTOGRAPH, :PHOTOGRAPH]

    @jax.jit
    def back(x: jax.Array) -> dict[str, list[jax.Array]]:
        enlarged: dict[str, list[jax.Array]] = {"average": [], "max": []}
        for name, pictures in enlarged.items():
            pooled = x
            for window in WINDOWS:  # windows of windows, each twice as large as the last
                pooled = POOLS[name](pooled, 2)
                pictures.append(ops.upsample_nearest(pooled, window)[0, ..., 0])
        return enlarged

    pictures = jax.tree.map(np.asarray, back(nhwc(original)))
    return {
        name: [(picture, float(np.square(picture - original).mean() / original.var())) for picture in row]
        for name, row in pictures.items()
    }


def table(summary: dict[str, Any]) -> str:
    """Return Markdown tables of what each pooling keeps, how it changes under a shift, and what windows lose."""
    kept, noise = summary["contrast_left"], summary["noise_variance_left"]
    contrasts = [
        (name, *(f"{kept[ground][name]:.0%}" for ground in BACKGROUNDS), f"{noise[name]:.2f}") for name in POOLS
    ]
    shifts = [
        (name, f"{values[1]:.0%}", f"{summary['relative_change'][name][1]:.2f}")
        for name, values in summary["unchanged"].items()
    ]
    errors = [(name, *(f"{share:.0%}" for share in shares)) for name, shares in summary["error_by_window"].items()]
    kinds = ("pooling, 2x2", "contrast left, light on dark", "dark on light", "variance of noise left")
    moves = (f"pooling, {SHIFTED}x{SHIFTED}", "values unchanged by a shift of 1 pixel", "their change / deviation")
    sizes = ("error / variance", *(f"{window}x{window}" for window in WINDOWS))
    tables = ((kinds, contrasts), (moves, shifts), (sizes, errors))
    return "\n\n".join(markdown.table(head, rows) for head, rows in tables)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims D1 to D7, all measured here with the default options, D4 and D7 on both photographs."""
    images: dict[str, np.ndarray] = {name: load(Config(photograph=name)) for name in data.PHOTOGRAPHS}
    return [*_worked(), *_kinds(), *_invariance(images), *_structure(), _winner_only(), *_windows(images)]


def _worked() -> list[Claim]:
    first, second = worked_examples()
    cases = (("D1", "2x2 windows, stride 2", D1_LECTURE, first), ("D2", "3x3 windows, stride 1", D2_LECTURE, second))
    return [
        check(id, f"max pooling, {how}", show(x), show(ours), np.array_equal(ours, x)) for id, how, x, ours in cases
    ]


def _kinds() -> list[Claim]:
    left, noise = contrast(0), noise_variance(0)
    light, dark = (left[name] for name in BACKGROUNDS)
    kept, lost = (light["max"], dark["min"]), (dark["max"], light["min"])
    return [
        check_or_correct(
            "D3",
            "S0: max pooling keeps dark objects on a white background, min pooling light objects on a dark one",
            "max: dark on white; min: light on dark",
            f"contrast left of thin lines: light on dark max {light['max']:.0%}, min {light['min']:.0%}; dark on light "
            f"max {dark['max']:.0%}, min {dark['min']:.0%}",
            "kept: over 80 %; lost: under 20 %",
            holds=dark["max"] > light["max"] and light["min"] > dark["min"],
            confirmed=min(kept) > 0.8 and max(lost) < 0.2,
            correction="the lecture says max for dark on white; right is max for light on dark, min for dark on light",
        ),
        check(
            "D3",
            "average pooling smoothes",
            "smoothes the picture",
            f"2x2 means leave {noise['average']:.3f} of the variance of noise, maxima {noise['max']:.3f}",
            abs(noise["average"] - 0.25) <= 0.01 and noise["average"] < noise["max"],
            "1/4 to 0.01, and less than max",
        ),
    ]


def _invariance(images: dict[str, np.ndarray]) -> list[Claim]:
    """D4, after a shift of 1 pixel, on photographs and on noise.

    In noise a window of n x n keeps its maximum if the largest of the n(n + 1) pixels that it sees before or after the
    shift is one of the n(n - 1) that it sees both times: with probability (n - 1) / (n + 1).
    """
    noise = np.random.default_rng(0).normal(size=images["china"].shape).astype(np.float32)
    moved = {name: translation(image) for name, image in (images | {"noise": noise}).items()}
    same, change = (
        {what: {name: float(of[key][1]) for name, of in row.items()} for what, row in moved.items()}
        for key in ("unchanged", "change")
    )
    expected, count = (SHIFTED - 1) / (SHIFTED + 1), (PHOTOGRAPH // SHIFTED) ** 2
    allowed = 3 * np.sqrt(expected * (1 - expected) / count)
    return [
        check(
            "D4",
            f"max pooling is invariant to small translations: {SHIFTED}x{SHIFTED} values that a shift of 1 pixel keeps",
            "invariance to small translations",
            _listed(same, ".0%"),
            abs(same["noise"]["max"] - expected) <= allowed
            and all(same[name]["max"] > 2 * sorted(same[name].values())[-2] for name in images),
            f"noise: {expected:.0%} with max, by theory, to {allowed:.1%}; both photographs: more than twice any other",
        ),
        check(
            "D4",
            "the same as root mean square change over standard deviation; a mean changes even less",
            "max pooling helps",
            _listed({name: change[name] for name in images}, ".2f"),
            all(change[name]["average"] < change[name]["max"] < change[name][EVERY] for name in images),
            "max below every n-th pixel, average below max, on both photographs",
        ),
    ]


def _listed(rows: dict[str, dict[str, float]], digits: str) -> str:
    return "; ".join(
        f"{what}: " + ", ".join(f"{name} {value:{digits}}" for name, value in row.items()) for what, row in rows.items()
    )


def _structure() -> list[Claim]:
    layers = {"max": nn.MaxPool(2), "min": nn.MinPool(2), "average": nn.AvgPool(2), "L2": nn.LPPool(2, 2)}
    params = {name: len(jax.tree.leaves(nnx.state(layer, nnx.Param))) for name, layer in layers.items()}
    values = np.random.default_rng(0).normal(size=(2, 8, 8, 5))
    pooled = jax.jit(lambda x: {name: layer(x) for name, layer in layers.items()})(jnp.asarray(values, jnp.float32))
    depths = {name: y.shape[-1] for name, y in pooled.items()}
    norms = np.sqrt(np.square(values.reshape(2, 4, 2, 4, 2, 5)).sum((2, 4)))
    error = float(np.abs(np.asarray(pooled["L2"]) - norms).max())
    return [
        check(
            "D5",
            "pooling layers have no parameters",
            "no parameters to learn",
            ", ".join(f"{name} {count}" for name, count in params.items()),
            not any(params.values()),
        ),
        check(
            "D5",
            "the depth remains unchanged",
            "unchanged",
            f"{values.shape[-1]} channels: " + ", ".join(f"{name} {depths[name]}" for name in layers),
            set(depths.values()) == {values.shape[-1]},
        ),
        check_error("D5", "L2-norm pooling: the root of the sum of squares of each window", "exists too", error),
    ]


def _winner_only() -> Claim:
    rng = np.random.default_rng(0)
    values, gradients = rng.permutation(256).reshape(16, 16), rng.normal(size=(8, 8)).astype(np.float32)
    reached = switches(values, gradients)
    cells = values.reshape(8, 2, 8, 2).transpose(0, 2, 1, 3).reshape(8, 8, 4)
    expected = np.where(np.arange(4) == cells.argmax(-1, keepdims=True), gradients[..., None], 0)
    by_cell = reached["max"].reshape(8, 2, 8, 2).transpose(0, 2, 1, 3).reshape(8, 8, 4)
    average = np.count_nonzero(reached["average"]) / gradients.size
    return check(
        "D6",
        "the gradient of max pooling goes to the winner only, where the saved index (switch) says",
        "to the input that had the highest value",
        f"{np.count_nonzero(reached['max']) / gradients.size:g} of 4 values of a window, average {average:g} of 4; "
        f"{(reached['winners'] == (reached['max'] != 0)).mean():.0%} at the saved indices",
        np.array_equal(by_cell, expected) and np.array_equal(reached["winners"], reached["max"] != 0),
    )


def _windows(images: dict[str, np.ndarray]) -> list[Claim]:
    traditional, overlapping = uses(12, 2, 2), uses(13, 3, 2)[2:-2, 2:-2]
    lost = {f"{what}, {name}": row for what, image in images.items() for name, row in detail(image).items()}
    errors = {name: [error for _, error in row] for name, row in lost.items()}
    return [
        check(
            "D7",
            "window = stride is traditional pooling, window > stride overlapping pooling, e.g. 3x3/2",
            "overlapping where the window is larger",
            f"windows that use a pixel: 2x2/2 {show(np.unique(traditional))}, 3x3/2 {show(np.unique(overlapping))}",
            bool((traditional == 1).all()) and set(np.unique(overlapping)) == {1, 2, 4},
            "exact: one; and up to four",
        ),
        check(
            "D7",
            f"larger windows are very destructive: error / variance after windows of {', '.join(map(str, WINDOWS))}",
            "very destructive",
            "; ".join(f"{name} " + ", ".join(f"{error:.1%}" for error in row) for name, row in errors.items()),
            all(row == sorted(set(row)) and row[-1] >= 5 * row[0] for row in errors.values()),
            "rises with every window, to at least five times as much, on both photographs",
        ),
    ]
