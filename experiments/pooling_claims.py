"""Lectures' statements about pooling, evaluated: what windows keep, what a shift changes, where gradients go."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import data, nn, ops
from cnnjax.data import shapes
from cnnjax.lab.claims import Claim, check, holds_or_erratum
from cnnjax.lab.worked import show

D1_INPUT = np.array([[1, 3, 6, 2], [9, 5, 6, 5], [9, 1, 1, 2], [0, 2, 8, 2]])
D2_INPUT = np.array([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])
D1_DECK, D2_DECK = np.array([[9, 6], [9, 8]]), np.array([[3, 3, 3], [3, 3, 3], [3, 2, 3]])  # S1 and S2
POOLS: dict[str, Callable[..., jax.Array]] = {
    "max": ops.max_pool2d,
    "min": ops.min_pool2d,
    "average": ops.avg_pool2d,
    "L2": ops.lp_pool2d,
}
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "max": nn.MaxPool,
    "min": nn.MinPool,
    "average": nn.AvgPool,
    "L2": partial(nn.LPPool, 2),
}
EVERY = "every n-th pixel"
LIGHT, DARK = 0.9, 0.1  # of the drawn lines and their backgrounds
BACKGROUNDS = {"light on dark": (LIGHT, DARK), "dark on light": (DARK, LIGHT)}
SIDE, DRAWINGS, NOISE = 64, 16, 0.05
PHOTOGRAPH = 128  # its side in pixels
SHIFTED = 4  # window and stride of the pooling whose input moves
SHIFTS = np.arange(SHIFTED + 1)
WINDOWS = (2, 4, 8, 16, 32)


def grey(name: str) -> np.ndarray:
    """Return a photograph in grey, (128 + 4, 128 + 4) in [0, 1]: room to move."""
    return (data.photograph(name, PHOTOGRAPH + SHIFTED).mean(-1) / 255).astype(np.float32)


def worked_examples() -> tuple[np.ndarray, np.ndarray]:
    """Return max pooling of S1's numbers by 2x2 windows with stride 2, and of S2's by 3x3 windows with stride 1."""
    first, second = (jnp.asarray(numbers, jnp.float32)[None, ..., None] for numbers in (D1_INPUT, D2_INPUT))
    results = jax.jit(lambda: (ops.max_pool2d(first, 2), ops.max_pool2d(second, 3, stride=1)))()
    return np.asarray(results[0])[0, ..., 0], np.asarray(results[1])[0, ..., 0]


def drawings(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lines one pixel wide around generated shapes, bool (16, 64, 64), and noise of the same shape."""
    masks = np.pad(shapes.generate(DRAWINGS, size=SIDE, seed=seed).masks, ((0, 0), (1, 1), (1, 1)))
    neighbours = [np.roll(masks, step, axis) for axis in (1, 2) for step in (-1, 1)]
    lines = (masks & ~np.logical_and.reduce(neighbours))[:, 1:-1, 1:-1]
    return lines, np.random.default_rng(seed).normal(0, NOISE, lines.shape).astype(np.float32)


def contrast(seed: int, window: int = 2) -> dict[str, dict[str, float]]:
    """Return by background and pooling which share of the lines' contrast is left.

    The difference of the mean over windows that a line touches and the mean over all others, divided by the one before
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
    """Return by pooling the variance that is left of normal noise; of independent numbers a mean has 1/window^2."""
    noise = jnp.asarray(np.random.default_rng(seed).normal(size=(1, 512, 512, 1)), jnp.float32)
    measured = jax.jit(lambda x: {name: pool(x, window).var() / x.var() for name, pool in POOLS.items()})(noise)
    return {name: float(value) for name, value in measured.items()}


def translation(image: np.ndarray, window: int = SHIFTED) -> dict[str, dict[str, np.ndarray]]:
    """Return how far pooled values change as the photograph moves to the right by 0 to `window` pixels.

    Returns:
        By pooling: "unchanged", the share of values that are the same to the bit, and "change", the root mean square
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

    measured = measure(moved)
    return {name: jax.tree.map(np.asarray, measured[name]) for name in (*pools, EVERY)}


def switches(values: np.ndarray, gradients: np.ndarray, window: int = 2) -> dict[str, np.ndarray]:
    """Return the gradients that reach `values` (H, W) from those of its pooled values, by pooling, and the winners."""
    x, g = (jnp.asarray(array, jnp.float32)[None, ..., None] for array in (values, gradients))
    pools = {name: POOLS[name] for name in ("max", "min", "average")}

    @jax.jit
    def back(x: jax.Array, g: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        reached = {name: jax.vjp(lambda x, pool=pool: pool(x, window), x)[1](g)[0] for name, pool in pools.items()}
        return reached, ops.max_pool2d_with_indices(x, window)[1]

    reached, indices = back(x, g)
    winners = np.zeros(values.size, bool)
    winners[np.asarray(indices).ravel()] = True
    return {name: np.asarray(array)[0, ..., 0] for name, array in reached.items()} | {
        "winners": winners.reshape(values.shape)
    }


def uses(size: int, window: int, stride: int) -> np.ndarray:
    """Return in how many windows each pixel lies: the gradient of the windows' sums."""
    x = jnp.zeros((1, size, size, 1))
    sums = jax.jit(jax.grad(lambda x: window**2 * ops.avg_pool2d(x, window, stride=stride).sum()))
    return np.rint(np.asarray(sums(x))[0, ..., 0]).astype(int)


def detail(image: np.ndarray) -> dict[str, list[tuple[np.ndarray, float]]]:
    """Pool the photograph by each of `WINDOWS` and enlarge it again, each pixel repeated.

    Returns:
        By pooling, for every window: the picture, and its mean square error over the photograph's variance.
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

    pictures = jax.tree.map(np.asarray, back(jnp.asarray(original)[None, ..., None]))
    return {
        name: [(picture, float(np.square(picture - original).mean() / original.var())) for picture in row]
        for name, row in pictures.items()
    }


# ---------------------------------------------------------------- claims


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims D1 to D7, all measured here, with the default options."""
    image = grey("china")
    return [
        *_worked(),
        *_kinds(),
        *_invariance(image),
        *_structure(),
        _winner_only(),
        *_windows(image),
    ]


def _worked() -> list[Claim]:
    cases = (("D1", "2x2 windows, stride 2", D1_DECK), ("D2", "3x3 windows, stride 1", D2_DECK))
    return [
        check(id, f"max pooling, {how}", show(deck), show(ours), "exact", np.array_equal(ours, deck))
        for (id, how, deck), ours in zip(cases, worked_examples(), strict=True)
    ]


def _kinds() -> list[Claim]:
    left, noise = contrast(0), noise_variance(0)
    light, dark = (left[name] for name in BACKGROUNDS)
    right_way_round = dark["max"] > light["max"] and light["min"] > dark["min"]
    reverse = light["max"] > 0.8 and dark["min"] > 0.8 and dark["max"] < 0.2 and light["min"] < 0.2
    correction = "deck says max for dark objects on white; right is max for light on dark, min for dark on light"
    return [
        holds_or_erratum(
            "D3",
            "which pooling keeps an object: max on a white background, min on a dark one",
            "max: dark on white; min: light on dark",
            f"contrast left of thin lines: light on dark max {light['max']:.0%}, min {light['min']:.0%}; dark on light "
            f"max {dark['max']:.0%}, min {dark['min']:.0%}",
            "kept: over 80 %; lost: under 20 %",
            holds=right_way_round,
            confirmed=reverse,
            correction=correction,
        ),
        check(
            "D3",
            "average pooling smoothes",
            "smoothes the picture",
            f"2x2 means leave {noise['average']:.3f} of the variance of noise, maxima {noise['max']:.3f}",
            "1/4 to 0.01, and less than max",
            abs(noise["average"] - 0.25) <= 0.01 and noise["average"] < noise["max"],
        ),
    ]


def _invariance(image: np.ndarray) -> list[Claim]:
    moved = translation(image)
    same, change = ({name: float(values[key][1]) for name, values in moved.items()} for key in ("unchanged", "change"))
    listed = ", ".join
    return [
        check(
            "D4",
            f"max pooling is invariant to small translations: {SHIFTED}x{SHIFTED} values that a shift of 1 pixel keeps",
            "invariance to small translations",
            listed(f"{name} {share:.0%}" for name, share in same.items()),
            "max: most, and at least three times as many as any other",
            same["max"] > 0.5 and all(same["max"] >= 3 * same[name] for name in same if name != "max"),
        ),
        check(
            "D4",
            "the same as root mean square change over standard deviation; a mean changes even less",
            "max pooling helps",
            listed(f"{name} {size:.2f}" for name, size in change.items()),
            "max below every n-th pixel, average below max",
            change["average"] < change["max"] < change[EVERY],
        ),
    ]


def _structure() -> list[Claim]:
    layers = {name: layer(2) for name, layer in LAYERS.items()}
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
            "exact",
            not any(params.values()),
        ),
        check(
            "D5",
            "the depth remains unchanged",
            "unchanged",
            f"{values.shape[-1]} channels: " + ", ".join(f"{name} {depths[name]}" for name in LAYERS),
            "exact",
            set(depths.values()) == {values.shape[-1]},
        ),
        check(
            "D5",
            "L2-norm pooling: the root of the sum of squares of each window",
            "exists too",
            f"at most {error:.0e} from NumPy in float64",
            "1e-5",
            error <= 1e-5,
        ),
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
        "exact",
        np.array_equal(by_cell, expected) and np.array_equal(reached["winners"], reached["max"] != 0),
    )


def _windows(image: np.ndarray) -> list[Claim]:
    traditional, overlapping = uses(12, 2, 2), uses(13, 3, 2)[2:-2, 2:-2]
    errors = {name: [error for _, error in pictures] for name, pictures in detail(image).items()}
    ours = "; ".join(f"{name} " + ", ".join(f"{error:.1%}" for error in row) for name, row in errors.items())
    return [
        check(
            "D7",
            "window = stride is traditional pooling, window > stride overlapping pooling, e.g. 3x3/2",
            "overlapping where the window is larger",
            f"windows that use a pixel: 2x2/2 {_range(traditional)}, 3x3/2 {_range(overlapping)}",
            "exact: one; and up to four",
            bool((traditional == 1).all()) and set(np.unique(overlapping)) == {1, 2, 4},
        ),
        check(
            "D7",
            f"larger windows are very destructive: error / variance after windows of {', '.join(map(str, WINDOWS))}",
            "very destructive",
            ours,
            "rises with every window, to at least five times as much",
            all(row == sorted(set(row)) and row[-1] >= 5 * row[0] for row in errors.values()),
        ),
    ]


def _range(counts: np.ndarray) -> str:
    return ", ".join(map(str, np.unique(counts)))
