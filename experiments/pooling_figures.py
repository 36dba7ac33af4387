"""The figures of the experiment `pooling`."""

from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from cnnjax import viz
from cnnjax.lab.worked import nhwc
from cnnjax.viz import Lines, Picture
from experiments.pooling import (
    BACKGROUNDS,
    D1_INPUT,
    D2_INPUT,
    PHOTOGRAPH,
    POOLS,
    SHIFTED,
    SHIFTS,
    WINDOWS,
    contrast,
    drawings,
    switches,
    uses,
    worked_examples,
)


def draw(
    seed: int,
    image: np.ndarray,
    moved: dict[str, dict[str, np.ndarray]],
    lost: dict[str, list[tuple[np.ndarray, float]]],
) -> dict[str, Figure]:
    """Return every figure by its name."""
    return {
        "worked-examples": _worked(),
        "backgrounds": _backgrounds(seed, image),
        "translation": _translation(moved),
        "switches": _switches(seed, image),
        "window-size": _detail(image, lost),
    }


def _numbers(values: np.ndarray, title: str, **options: Any) -> Picture:
    return Picture(np.asarray(values), title, **{"colours": "Blues", "numbers": ".3g", **options})


def _worked() -> Figure:
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


def _backgrounds(seed: int, image: np.ndarray) -> Figure:
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
    pooled = jax.jit(lambda x: {name: pool(x, window) for name, pool in POOLS.items()})(nhwc(picture))
    pooled["L2"] = pooled["L2"] / window
    pictures = [Picture(np.asarray(pooled[name])[0, ..., 0], titles[name], limits=(0, 1)) for name in POOLS]
    return [Picture(picture, "before", limits=(0, 1)), *pictures]


def _translation(moved: dict[str, dict[str, np.ndarray]]) -> Figure:
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


def _switches(seed: int, image: np.ndarray) -> Figure:
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


def _detail(image: np.ndarray, lost: dict[str, list[tuple[np.ndarray, float]]]) -> Figure:
    rows = {}
    for name, pictures in lost.items():
        shown = [
            Picture(picture, f"{window}x{window}\nerror {error:.0%}", limits=(0, 1))
            for window, (picture, error) in zip(WINDOWS, pictures, strict=True)
        ]
        title = f"{name.capitalize()} pooling, enlarged again: mean square error over the photograph's variance"
        rows[title] = [Picture(image[:PHOTOGRAPH, :PHOTOGRAPH], "original", limits=(0, 1)), *shown]
    return viz.picture_rows(rows)
