"""Checkerboard artifacts: where transposed convolutions overlap unevenly, and the spectra of decoders' outputs.

Lecture S0, "Transposed CNN: Problem" (claim F3): the windows that a transposed convolution adds overlap unevenly unless
the stride divides the kernel's size, as for 2x2 and 4x4 with a stride of 2. Shown are maps of the overlap, and the mean
squares and spectra of the outputs of decoders with random weights and of decoders trained briefly to enlarge images,
beside decoders that resize first and then convolve.

    python launch.py checkerboard

Takes half a minute on one core, most of it training. Expect even overlap wherever the stride divides the kernel.
Trained decoders with 2x2 and 4x4 kernels have less power at the stride's frequency than with 3x3, though more than the
images. With random weights they do not: overlap is even on average over kernels, not for one. Resizing first leaves
almost no power there.

Source: Odena, Dumoulin & Olah, "Deconvolution and checkerboard artifacts" (2016).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

from cnnjax import ops, runs, train, viz
from cnnjax.data import shapes
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check, not_run, stored
from cnnjax.options import Checked, Seed
from cnnjax.viz import Lines, Picture

KERNELS, STRIDES = (2, 3, 4, 5, 6), (2, 3)
ONES = 8  # side of the input whose windows are counted
CHANNELS, STAGES, DRAWS, NOISE = 4, 3, 32, 8  # of the random decoders, whose input is 8x8 normal numbers
BORDER = 8  # pixels at an output's border that are ignored
HIDDEN, IMAGES, UNSEEN, BATCH, STEPS, LR = 16, 256, 64, 16, 120, 0.01  # of the trained decoders
SEEDS = 3  # of the weights and the order of images; figures show the first
REDUCED = 0.75  # largest share of the 3x3 kernels' power that counts as reduced
Upsample = Callable[[jax.Array, jax.Array], jax.Array]


def _transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Enlarge twice by a transposed convolution with a stride of 2."""
    size = kernel.shape[0]
    return ops.conv_transpose2d(x, kernel, stride=2, padding=(size - 1) // 2, output_padding=size % 2)


def _resized(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return ops.conv2d(ops.upsample_nearest(x, 2), kernel, padding="HALF")


# how a stage enlarges, and its kernel's size
DECODERS: dict[str, tuple[Upsample, int]] = {
    "transposed 2x2": (_transposed, 2),
    "transposed 3x3": (_transposed, 3),
    "transposed 4x4": (_transposed, 4),
    "resize, then 3x3": (_resized, 3),
}
EVEN = ("transposed 2x2", "transposed 4x4")


@dataclass(frozen=True)
class Config(Checked):
    """Count overlaps, and look for the stride's frequency in decoders' outputs."""

    seed: Seed = 0
    """First of three for weights and noise, and of the images."""


def load(config: Config) -> np.ndarray:
    """Return generated images (320, 32, 32, 3) from -0.5 to 0.5: those for training, then those for evaluation."""
    return shapes.generate(IMAGES + UNSEEN, size=32, seed=config.seed).images.astype(np.float32) / 255 - 0.5


def run(config: Config, images: np.ndarray, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Count overlaps, evaluate random and trained decoders, draw the figures, and return the summary."""
    maps = overlaps()
    drawn = {name: [random_outputs(name, seed) for seed in _seeds(config)] for name in DECODERS}
    trained = {name: [trained_outputs(name, images, seed) for seed in _seeds(config)] for name in DECODERS}
    originals = images[IMAGES:]
    first_drawn, first_trained = ({name: outputs[0] for name, outputs in all.items()} for all in (drawn, trained))
    viz.save(_draw_overlaps(maps), run.figures / "overlap.png")
    viz.save(_draw_random(first_drawn), run.figures / "random-decoders.png")
    viz.save(_draw_trained(originals, first_trained), run.figures / "trained-decoders.png")
    viz.save(_draw_spectra(first_drawn, {"original": originals, **first_trained}), run.figures / "spectra.png")
    return {
        "overlap_is_even": {f"{k}x{k}/{s}": is_even(count, k) for (k, s), count in maps.items()},
        "random": {name: _means(outputs, unevenness=unevenness) for name, outputs in drawn.items()},
        "trained": {
            name: _means(outputs, error=lambda y: np.sqrt(np.square(y - originals).mean()))
            for name, outputs in {"original": [originals], **trained}.items()
        },
    }


def _seeds(config: Config) -> range:
    return range(config.seed, config.seed + SEEDS)


def _means(outputs: Sequence[np.ndarray], **measures: Callable[[np.ndarray], float]) -> dict[str, float]:
    """Return the mean over seeds of each measure."""
    measures = {"peak": peak, "share": share, **measures}
    return {name: float(np.mean([measure(y) for y in outputs])) for name, measure in measures.items()}


# ---------------------------------------------------------------- overlap


def overlaps() -> dict[tuple[int, int], np.ndarray]:
    """Return by (kernel, stride) how many windows contain each output pixel: the output for ones with weights of 1."""
    x = jnp.ones((1, ONES, ONES, 1))
    pairs = [(kernel, stride) for stride in STRIDES for kernel in KERNELS]
    found = jax.jit(lambda x: [ops.conv_transpose2d(x, jnp.ones((k, k, 1, 1)), stride=s) for k, s in pairs])(x)
    return {pair: np.rint(np.asarray(y)[0, ..., 0]).astype(int) for pair, y in zip(pairs, found, strict=True)}


def is_even(count: np.ndarray, kernel: int) -> bool:
    """Return whether all pixels farther than a kernel from the border lie in equally many windows."""
    inside = count[kernel:-kernel, kernel:-kernel]
    return bool((inside == inside[0, 0]).all())


# ---------------------------------------------------------------- decoders


def random_outputs(name: str, seed: int) -> np.ndarray:
    """Return the outputs of decoders with He normal weights for normal noise: three stages with ReLU, 8x8 to 64x64.

    Returns:
        (32 draws of weights and noise, height, width, 4 channels), without the border.
    """
    _, size = DECODERS[name]
    rng = np.random.default_rng(seed)
    outputs = []
    for _ in range(DRAWS):
        noise = rng.normal(size=(1, NOISE, NOISE, CHANNELS)).astype(np.float32)
        kernels = [_he_normal(rng, (size, size, CHANNELS, CHANNELS)) for _ in range(STAGES)]
        outputs.append(np.asarray(_decode(name, noise, kernels)))
    return np.stack(outputs)


@partial(jax.jit, static_argnums=0)
def _decode(name: str, x: jax.Array, kernels: Sequence[jax.Array]) -> jax.Array:
    enlarge, _ = DECODERS[name]
    for number, kernel in enumerate(kernels):
        x = enlarge(nnx.relu(x) if number else x, kernel)
    return x[0, BORDER:-BORDER, BORDER:-BORDER]


def _he_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)


def trained_outputs(name: str, images: np.ndarray, seed: int) -> np.ndarray:
    """Train two stages with ReLU between to enlarge images that were shrunk to a quarter of their size.

    120 steps of Adam on the mean square error of 16 images, with a cosine schedule.

    Returns:
        (64, 32, 32, 3): the enlarged images that it was not trained on.
    """
    enlarge, size = DECODERS[name]
    optimizer = optax.adam(optax.cosine_decay_schedule(LR, STEPS))
    rng = np.random.default_rng(seed)
    kernels = [(size, size, 3, HIDDEN), (size, size, HIDDEN, 3)]
    params = [(jnp.asarray(_he_normal(rng, shape)), jnp.zeros(shape[3])) for shape in kernels]

    def decode(params: Any, x: jax.Array) -> jax.Array:
        (first, first_bias), (second, second_bias) = params
        return enlarge(nnx.relu(enlarge(x, first) + first_bias), second) + second_bias

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.square(decode(params, ops.avg_pool2d(x, 4)) - x).mean()

    @partial(jax.jit, donate_argnums=(0,))
    def step(state: Any, x: jax.Array) -> Any:
        params, optimizer_state = state
        updates, optimizer_state = optimizer.update(jax.grad(loss)(params, x), optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state

    state = params, optimizer.init(params)
    for _ in range(STEPS):
        state = step(state, images[rng.choice(IMAGES, BATCH, replace=False)])
    unseen = jnp.asarray(images[IMAGES:])
    return np.asarray(jax.jit(lambda params, x: decode(params, ops.avg_pool2d(x, 4)))(state[0], unseen))


def spectrum(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies from 0 to 1/2 a pixel, and the mean power of images (n, h, w, c) along the width, of sum 1.

    The mean of each image is subtracted, and a Hann window keeps its borders out of the spectrum.
    """
    size = outputs.shape[2]
    flat = outputs - outputs.mean((1, 2), keepdims=True)
    windowed = flat * np.hanning(outputs.shape[1])[:, None, None] * np.hanning(size)[:, None]
    power = np.square(np.abs(np.fft.rfft(windowed, axis=2))).mean((0, 1, 3))
    return np.fft.rfftfreq(size), power / power.sum()


def peak(outputs: np.ndarray) -> float:
    """Return the power at a period of 2 pixels, the stride's, over the median power of periods from 2.1 to 4."""
    frequencies, power = spectrum(outputs)
    near = (frequencies > 0.27) & (frequencies < 0.47)
    return float(power[-1] / np.median(power[near]))


def share(outputs: np.ndarray) -> float:
    """Return the share of the power at a period of 2 pixels, the stride's."""
    return float(spectrum(outputs)[1][-1])


def unevenness(outputs: np.ndarray) -> float:
    """Return the deviation over the mean of the four phases' mean squares: 0 if all pixels are alike on average."""
    squares = np.square(outputs).mean((0, 3))
    phases = np.array([squares[row::2, column::2].mean() for row in (0, 1) for column in (0, 1)])
    return float(phases.std() / phases.mean())


# ---------------------------------------------------------------- figures


def _draw_overlaps(maps: dict[tuple[int, int], np.ndarray]) -> Figure:
    rows: dict[str, list[Picture]] = {}
    for (kernel, stride), count in maps.items():
        start = (count.shape[0] - 9) // 2
        title = f"kernel {kernel}: {'even' if is_even(count, kernel) else 'uneven'}"
        middle = count[start : start + 9, start : start + 9]
        limits = (0, 1.5 * middle.max())
        rows.setdefault(f"Windows that reach a pixel, stride {stride}", []).append(
            Picture(middle, title, "Oranges", limits, numbers="d")
        )
    return viz.picture_rows(rows, size=2)


def _draw_random(drawn: dict[str, np.ndarray]) -> Figure:
    rows = {}
    for name, outputs in drawn.items():
        squares = np.square(outputs).mean((0, 3))
        examples = [Picture(output[:32, :32, 0], f"weights {number}") for number, output in enumerate(outputs[:4], 1)]
        mean = Picture(
            squares[:16, :16] / squares.mean(), f"mean square,\nunevenness {unevenness(outputs):.2f}", limits=(0, 2)
        )
        rows[f"{name}: random weights, peak {peak(outputs):.1f}"] = [*examples, mean]
    return viz.picture_rows(rows, size=1.6)


def _draw_trained(originals: np.ndarray, trained: dict[str, np.ndarray]) -> Figure:
    def pictures(images: np.ndarray) -> list[Picture]:
        return [Picture(np.clip(image + 0.5, 0, 1)) for image in images[:6]]

    rows = {"originals": pictures(originals)}
    rows |= {
        f"{name}: {share(outputs):.2%} of the power at the stride's frequency": pictures(outputs)
        for name, outputs in trained.items()
    }
    return viz.picture_rows(rows, size=1.4)


def _draw_spectra(drawn: dict[str, np.ndarray], trained: dict[str, np.ndarray]) -> Figure:
    labels, scales = ("frequency (1 / pixels)", "share of the power"), ("linear", "log")
    return viz.line_plots(
        [
            Lines(title, labels, {name: spectrum(outputs) for name, outputs in row.items()}, scales)
            for title, row in (("random weights", drawn), ("trained to enlarge four times", trained))
        ]
    )


def table(summary: dict[str, Any]) -> str:
    """Return Markdown tables of the overlap, and of what the outputs have at the stride's frequency."""
    overlap = [(name, "even" if even else "uneven") for name, even in summary["overlap_is_even"].items()]
    digits = {"share": ".2g", "peak": ".2f", "unevenness": ".3f", "error": ".4f"}
    random, trained = (
        [(name, *(format(row[key], digits[key]) for key in ("share", "peak", last))) for name, row in rows.items()]
        for rows, last in ((summary["random"], "unevenness"), (summary["trained"], "error"))
    )
    measures = ("share of power at the stride's frequency", "peak over near ones")
    tables = (
        (("kernel / stride", "overlap"), overlap),
        (("random weights", *measures, "unevenness"), random),
        (("trained", *measures, "root mean square error"), trained),
    )
    return "\n\n".join(markdown.table(head, rows) for head, rows in tables)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claim F3: overlap and random decoders are computed here, trained ones are read from a finished run."""
    drawn = {name: [random_outputs(name, seed) for seed in _seeds(Config())] for name in DECODERS}
    random = {name: _means(outputs, unevenness=unevenness) for name, outputs in drawn.items()}
    trained = {} if summary is None else summary["trained"]
    return [_even_overlap(), _even_squares(random), *stored("checkerboard", _reduced(trained, random))]


def _even_overlap() -> Claim:
    even = {pair: is_even(count, pair[0]) for pair, count in overlaps().items()}
    listed = {
        word: ", ".join(f"{k}x{k}/{s}" for (k, s), found in even.items() if found == wanted)
        for word, wanted in (("even", True), ("uneven", False))
    }
    return check(
        "F3",
        "windows of a transposed convolution overlap unevenly unless the stride divides the kernel's size",
        "even: 2x2 or 4x4 with stride 2",
        "; ".join(f"{word}: {pairs}" for word, pairs in listed.items()),
        all(found == (kernel % stride == 0) for (kernel, stride), found in even.items()),
        "exact, away from the border",
    )


def _even_squares(random: Mapping[str, Mapping[str, float]]) -> Claim:
    found = {name: row["unevenness"] for name, row in random.items()}
    return check(
        "F3",
        "averaged over random weights, pixels differ where overlap is uneven, and are alike where the stride divides",
        "uneven overlap is the main cause",
        "deviation / mean of the phases' mean squares: " + ", ".join(f"{name} {x:.2f}" for name, x in found.items()),
        found["transposed 3x3"] > 0.3 and max(found[name] for name in EVEN) < 0.15 and found["resize, then 3x3"] < 0.02,
        "3x3 above 0.3, 2x2 and 4x4 below 0.15, resized below 0.02",
    )


def _reduced(trained: Mapping[str, Mapping[str, float]], random: Mapping[str, Mapping[str, float]]) -> Claim:
    """Decided by the share of the power; the peak over near frequencies, which smooth outputs raise, is only shown."""
    statement = "checkerboards, as power of trained decoders at the stride's frequency: 2x2 and 4x4 fix or reduce them"
    statement += "; with random weights only resizing first does"
    if not trained:
        return not_run("F3", statement, "needs a finished run")
    drawn = ", ".join(f"{name} {row['share']:.2g}" for name, row in random.items())
    return check(
        "F3",
        statement,
        "fixed or reduced by 2x2 or 4x4 with stride 2",
        "share of the power (and its peak over near frequencies): "
        + ", ".join(f"{name} {row['share']:.2g} ({row['peak']:.1f})" for name, row in trained.items())
        + f"; with random weights {drawn}",
        _shares_of_uneven(trained, EVEN) <= REDUCED
        and min(_shares_of_uneven(random, (name,)) for name in EVEN) > REDUCED
        and _shares_of_uneven(random, ("resize, then 3x3",)) < 0.5,
        f"reduced: at most {REDUCED:g} of 3x3's share, means of {SEEDS} seeds",
    )


def _shares_of_uneven(measured: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> float:
    """The largest share of some decoders, over that of 3x3 kernels."""
    return max(measured[name]["share"] for name in names) / measured["transposed 3x3"]["share"]
