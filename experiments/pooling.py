"""Pooling: worked examples, what survives on which background, invariance to small shifts, switches, lost detail.

Lectures S0, S1, S2 and S3 on pooling layers (claims D1 to D7): maxima, minima, means and L2 norms of windows, without
parameters, the depth unchanged; what they keep of light and of dark objects; how little max pooling changes under small
translations; where the gradient of a maximum goes; and what large windows destroy.

    python launch.py pooling
    python launch.py pooling --photograph flower --seed 3

Takes a few seconds. Expect one statement of S0 the wrong way round: max pooling keeps light objects on a dark
background, and loses dark ones on a light background, which min pooling keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure

from cnnjax import data, nn, ops, train, viz
from cnnjax.data import shapes
from cnnjax.errors import UserError, unknown_name
from cnnjax.viz import Lines, Picture
from experiments import Claim, check

D1_INPUT = np.array([[1, 3, 6, 2], [9, 5, 6, 5], [9, 1, 1, 2], [0, 2, 8, 2]])
D2_INPUT = np.array([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])
D1_DECK, D2_DECK = [[9, 6], [9, 8]], [[3, 3, 3], [3, 3, 3], [3, 2, 3]]  # S1 and S2
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


@dataclass(frozen=True)
class Config:
    """Pool numbers, drawings and a photograph."""

    photograph: Annotated[str, tyro.conf.arg(help=f"{' or '.join(data.PHOTOGRAPHS)}, scikit-learn's.")] = "china"
    seed: Annotated[int, tyro.conf.arg(help="Decides the drawings, the noise and the numbers.")] = 0

    def __post_init__(self) -> None:
        if self.photograph not in data.PHOTOGRAPHS:
            raise unknown_name("photograph", self.photograph, data.PHOTOGRAPHS)
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must be from 0 to {2**31 - 1}, got {self.seed}")


def load(config: Config) -> np.ndarray:
    """Return the photograph in grey, (128 + 4, 128 + 4) in [0, 1]: room to move."""
    pixels = data.photograph(config.photograph, PHOTOGRAPH + SHIFTED)
    return (pixels.mean(-1) / 255).astype(np.float32)


def run(config: Config, image: np.ndarray, run: train.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Measure, draw the figures, and return the summary."""
    moved, lost = translation(image), detail(image)
    viz.save(_draw_worked(), run.figures / "worked-examples.png")
    viz.save(_draw_backgrounds(config.seed, image), run.figures / "backgrounds.png")
    viz.save(_draw_translation(moved), run.figures / "translation.png")
    viz.save(_draw_switches(config.seed, image), run.figures / "switches.png")
    viz.save(_draw_detail(image, lost), run.figures / "window-size.png")
    return {
        "contrast_left": contrast(config.seed),
        "noise_variance_left": noise_variance(config.seed),
        "unchanged": {name: values["unchanged"].tolist() for name, values in moved.items()},
        "relative_change": {name: values["change"].tolist() for name, values in moved.items()},
        "error_by_window": {name: [error for _, error in pictures] for name, pictures in lost.items()},
    }


# ---------------------------------------------------------------- what is measured


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


# ---------------------------------------------------------------- figures


def _numbers(values: np.ndarray, title: str, **options: Any) -> Picture:
    return Picture(np.asarray(values), title, **{"colours": "Blues", "numbers": ".3g", **options})


def _draw_worked() -> Figure:
    first, second = worked_examples()
    rows = {
        "Max pooling, 2x2 windows, stride 2: windows do not overlap (S1)": [
            _numbers(D1_INPUT, "input", limits=(0, 12)),
            _numbers(first, "max pooling", limits=(0, 12)),
            _numbers(uses(6, 2, 2), "uses of each pixel", colours="Oranges", limits=(0, 12)),
        ],
        "Max pooling, 3x3 windows, stride 1: windows overlap (S2)": [
            _numbers(D2_INPUT, "input", limits=(0, 5)),
            _numbers(second, "max pooling", limits=(0, 5)),
            _numbers(uses(7, 3, 2), "uses of each pixel,\n3x3 windows, stride 2", colours="Oranges", limits=(0, 12)),
        ],
    }
    return viz.picture_rows(rows, size=2.2)


def _draw_backgrounds(seed: int, image: np.ndarray) -> Figure:
    lines, noise = drawings(seed)
    left, share = contrast(seed), "{:.0%} of the contrast left".format
    rows: dict[str, list[Picture]] = {}
    for name, (line, ground) in BACKGROUNDS.items():
        picture = np.where(lines[0], line, ground) + noise[0]
        titles = {pooling: f"{pooling}\n{share(left[name][pooling])}" for pooling in POOLS}
        rows[f"Lines {name}, 2x2 windows"] = _pooled(picture, 2, titles)
    rows["A photograph, 4x4 windows"] = _pooled(image[:PHOTOGRAPH, :PHOTOGRAPH], 4, {name: name for name in POOLS})
    return viz.picture_rows(rows)


def _pooled(picture: np.ndarray, window: int, titles: dict[str, str]) -> list[Picture]:
    x = jnp.asarray(picture, jnp.float32)[None, ..., None]
    pooled = jax.jit(lambda x: {name: pool(x, window) for name, pool in POOLS.items()})(x)
    pooled["L2"] = pooled["L2"] / window
    pictures = [Picture(np.asarray(pooled[name])[0, ..., 0], titles[name], limits=(0, 1)) for name in POOLS]
    return [Picture(picture, "before", limits=(0, 1)), *pictures]


def _draw_translation(moved: dict[str, dict[str, np.ndarray]]) -> Figure:
    plots = [
        Lines(
            title,
            ("pixels that the photograph moves", unit),
            {name: (SHIFTS, values[key]) for name, values in moved.items()},
            markers=True,
        )
        for key, title, unit in (
            ("unchanged", f"values that stay the same, {SHIFTED}x{SHIFTED}/{SHIFTED}", "share"),
            ("change", f"change of the values, {SHIFTED}x{SHIFTED}/{SHIFTED}", "root mean square / deviation"),
        )
    ]
    return viz.line_plots(plots)


def _draw_switches(seed: int, image: np.ndarray) -> Figure:
    values, gradients = _example(seed)
    small, pooled = (
        switches(values, gradients),
        np.maximum.reduceat(np.maximum.reduceat(values, [0, 2, 4]), [0, 2, 4], 1),
    )
    signed: dict[str, Any] = {"colours": "RdBu", "limits": (-6, 6)}
    crop = image[30:78, 10:58]
    large = switches(crop, np.ones((12, 12)), window=4)
    rows = {
        "The gradient of a maximum goes to the winner, of a mean to all": [
            _numbers(values, "input, winners framed", marked=small["winners"], limits=(0, 20)),
            _numbers(pooled, "max pooling", limits=(0, 20)),
            _numbers(gradients, "gradient of the output", **signed),
            _numbers(small["max"], "gradient of the input, max", **signed),
            _numbers(small["average"], "the same, average", **signed),
        ],
        "Switches on a photograph, 4x4 windows, all gradients 1": [
            Picture(crop, "input", limits=(0, 1)),
            Picture(large["winners"] * crop, "its switches, with their values", limits=(0, 1)),
            Picture(large["max"], "gradient, max", colours="Blues", limits=(0, 1)),
            Picture(large["min"], "gradient, min", colours="Blues", limits=(0, 1)),
            Picture(large["average"], "gradient, average", colours="Blues", limits=(0, 1)),
        ],
    }
    return viz.picture_rows(rows, size=2.1)


def _example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers 0 to 9 (6, 6), and gradients -4 to 4 (3, 3) without zeros."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 10, (6, 6)), rng.integers(1, 5, (3, 3)) * rng.choice([-1, 1], (3, 3))


def _draw_detail(image: np.ndarray, lost: dict[str, list[tuple[np.ndarray, float]]]) -> Figure:
    rows = {}
    for name, pictures in lost.items():
        shown = [
            Picture(picture, f"{window}x{window}\nerror {error:.0%}", limits=(0, 1))
            for window, (picture, error) in zip(WINDOWS, pictures, strict=True)
        ]
        title = f"{name.capitalize()} pooling, enlarged again: mean square error over the photograph's variance"
        rows[title] = [Picture(image[:PHOTOGRAPH, :PHOTOGRAPH], "original", limits=(0, 1)), *shown]
    return viz.picture_rows(rows)


# ---------------------------------------------------------------- what comes out


def table(summary: dict[str, Any]) -> str:
    """Return as Markdown tables what each pooling keeps, how far it changes under a shift, and what windows lose."""
    kept, noise = summary["contrast_left"], summary["noise_variance_left"]
    lines = [
        "| pooling, 2x2 | contrast left, light on dark | dark on light | variance of noise left |",
        "| --- " * 4 + "|",
    ]
    for name in POOLS:
        lines.append(
            f"| {name} | "
            + " | ".join(f"{kept[ground][name]:.0%}" for ground in BACKGROUNDS)
            + f" | {noise[name]:.2f} |"
        )
    lines += [
        "",
        f"| pooling, {SHIFTED}x{SHIFTED} | values unchanged by a shift of 1 pixel | their change / deviation |",
        "| --- " * 3 + "|",
    ]
    for name, values in summary["unchanged"].items():
        lines.append(f"| {name} | {values[1]:.0%} | {summary['relative_change'][name][1]:.2f} |")
    lines += [
        "",
        "| error / variance | " + " | ".join(f"{w}x{w}" for w in WINDOWS) + " |",
        "| --- " * (1 + len(WINDOWS)) + "|",
    ]
    for name, shares in summary["error_by_window"].items():
        lines.append(f"| {name} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    return "\n".join(lines)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims D1 to D7, all measured here, with the default options."""
    image = load(Config())
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
        check(id, f"max pooling, {how}", _grid(deck), _grid(ours), "exact", np.array_equal(ours, deck))
        for (id, how, deck), ours in zip(cases, worked_examples(), strict=True)
    ]


def _grid(values: Any) -> str:
    return " / ".join(" ".join(f"{value:g}" for value in row) for row in values)


def _kinds() -> list[Claim]:
    left, noise = contrast(0), noise_variance(0)
    light, dark = (left[name] for name in BACKGROUNDS)
    right_way_round = dark["max"] > light["max"] and light["min"] > dark["min"]
    reverse = light["max"] > 0.8 and dark["min"] > 0.8 and dark["max"] < 0.2 and light["min"] < 0.2
    correction = (
        "erratum: deck says max for dark objects on white; right is max for light on dark, min for dark on light"
    )
    return [
        Claim(
            "D3",
            "which pooling keeps an object: max on a white background, min on a dark one",
            "max: dark on white; min: light on dark",
            f"contrast left of thin lines: light on dark max {light['max']:.0%}, min {light['min']:.0%}; dark on light "
            f"max {dark['max']:.0%}, min {dark['min']:.0%}",
            "kept: over 80 %; lost: under 20 %",
            "holds" if right_way_round else correction if reverse else "fails",
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
