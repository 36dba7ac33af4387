"""Pooling: worked examples, what survives on which background, invariance to small shifts, switches, lost detail.

Lectures S0, S1, S2 and S3 on pooling layers (claims D1 to D7): maxima, minima, means and L2 norms of windows, without
parameters, the depth unchanged; what they keep of light and of dark objects; how little max pooling changes under small
translations; where the gradient of a maximum goes; and what large windows destroy.

    python launch.py pooling
    python launch.py pooling --photograph flower --seed 3

Takes less than half a minute. Expect one statement of S0 the wrong way round: max pooling keeps light objects on a dark
background, and loses dark ones on a light background, which min pooling keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from cnnjax import data, runs, train, viz
from cnnjax.errors import unknown_name
from cnnjax.lab.markdown import table as markdown
from cnnjax.options import SEED, check_ranges
from cnnjax.viz import Lines, Picture
from experiments.pooling_claims import (
    BACKGROUNDS,
    D1_INPUT,
    D2_INPUT,
    PHOTOGRAPH,
    POOLS,
    SHIFTED,
    SHIFTS,
    WINDOWS,
    claims,
    contrast,
    detail,
    drawings,
    grey,
    noise_variance,
    switches,
    translation,
    uses,
    worked_examples,
)

__all__ = ["Config", "claims", "load", "run", "table"]


@dataclass(frozen=True)
class Config:
    """Pool numbers, drawings and a photograph."""

    photograph: Annotated[str, tyro.conf.arg(help=f"{' or '.join(data.PHOTOGRAPHS)}, scikit-learn's.")] = "china"
    seed: Annotated[int, tyro.conf.arg(help=f"Decides the drawings, the noise and the numbers; {SEED.text}.")] = 0

    def __post_init__(self) -> None:
        if self.photograph not in data.PHOTOGRAPHS:
            raise unknown_name("photograph", self.photograph, data.PHOTOGRAPHS)
        check_ranges(self, {"seed": SEED})


def load(config: Config) -> np.ndarray:
    """Return the photograph in grey, with room to move."""
    return grey(config.photograph)


def run(config: Config, image: np.ndarray, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
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
    small, pooled = switches(values, gradients), values.reshape(3, 2, 3, 2).max((1, 3))
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
    contrasts = [
        (name, *(f"{kept[ground][name]:.0%}" for ground in BACKGROUNDS), f"{noise[name]:.2f}") for name in POOLS
    ]
    shifts = [
        (name, f"{values[1]:.0%}", f"{summary['relative_change'][name][1]:.2f}")
        for name, values in summary["unchanged"].items()
    ]
    errors = [(name, *(f"{share:.0%}" for share in shares)) for name, shares in summary["error_by_window"].items()]
    tables: list[tuple[Sequence[str], Sequence[Sequence[object]]]] = [
        (("pooling, 2x2", "contrast left, light on dark", "dark on light", "variance of noise left"), contrasts),
        (
            (f"pooling, {SHIFTED}x{SHIFTED}", "values unchanged by a shift of 1 pixel", "their change / deviation"),
            shifts,
        ),
        (("error / variance", *(f"{window}x{window}" for window in WINDOWS)), errors),
    ]
    return "\n\n".join(markdown(head, rows) for head, rows in tables)
