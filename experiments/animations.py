"""A kernel slides over its input, with the numbers in the cells: padding, strides, dilation, transposed convolution.

Lecture S0, "Relationships" and "Transposed convolution" (claims C6, E3 and F2, which other experiments check), as
animations. Every number, the products under each window and their sum, is computed by `ops.conv2d` or
`ops.conv_transpose2d`.

    python launch.py animations
    python launch.py animations --format svg       # sharp at any size, for a browser

Takes about ten seconds. Expect an animation for each setting, whose output has the size of the lecture's formula.
Pixels that no window uses are grey, as the last row and column of size 6 with kernel 3, stride 2 and padding 1.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from cnnjax import geometry, runs, train, viz
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim
from cnnjax.options import Checked, Seed, within
from cnnjax.viz.animation import Slide


class Setting(NamedTuple):
    """One animation: sizes along both axes, and the operation's options."""

    title: str
    size: int
    kernel: int
    options: dict[str, int] = {}  # noqa: RUF012 (never changed)
    transposed: bool = False


SETTINGS = {
    "no-padding": Setting("No padding", 4, 3),
    "padding": Setting("Arbitrary padding", 5, 4, {"padding": 2}),
    "half-padding": Setting("Half padding", 5, 3, {"padding": 1}),
    "full-padding": Setting("Full padding", 5, 3, {"padding": 2}),
    "strides": Setting("Strides", 5, 3, {"stride": 2}),
    "padding-and-strides": Setting("Padding and strides", 6, 3, {"stride": 2, "padding": 1}),
    "dilation": Setting("Dilation", 7, 3, {"dilation": 2}),
    "transposed": Setting("Transposed", 2, 3, transposed=True),
    "transposed-strides": Setting("Transposed, with strides", 2, 3, {"stride": 2}, transposed=True),
}


@dataclass(frozen=True)
class Config(Checked):
    """Draw the animations."""

    format: Literal["gif", "svg"] = "gif"
    """Format of the files."""
    seconds: Annotated[float, within(0.02, 60)] | None = None
    """Seconds for each window; default: at most 20 for an animation."""
    seed: Seed = 0
    """Decides the numbers in images and kernels."""


def load(config: Config) -> dict[str, Slide]:
    """Return for every setting the windows over an image of 0 to 5 with a kernel of -2 to 2."""
    random = np.random.default_rng(config.seed)
    return {
        name: viz.slide(
            random.integers(0, 6, (setting.size, setting.size)),
            random.integers(-2, 3, (setting.kernel, setting.kernel)),
            transposed=setting.transposed,
            **setting.options,
        )
        for name, setting in SETTINGS.items()
    }


def run(config: Config, slides: dict[str, Slide], run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the animations, and return the size of each output beside the formula's."""
    for number, (name, slide) in enumerate(slides.items(), 1):
        path = run.figures / f"{number}-{name}.{config.format}"
        viz.save_animation(slide, path, _title(SETTINGS[name]), config.seconds)
    return {"settings": {name: _describe(SETTINGS[name], slide) for name, slide in slides.items()}}


def _title(setting: Setting) -> str:
    letters = {"stride": "s", "padding": "p", "dilation": "d"}
    numbers = {"i": setting.size, "k": setting.kernel} | {letters[key]: n for key, n in setting.options.items()}
    return f"{setting.title}: {', '.join(f'{letter} = {number}' for letter, number in numbers.items())}"


def _describe(setting: Setting, slide: Slide) -> dict[str, Any]:
    formula = geometry.conv_transpose_output_size if setting.transposed else geometry.conv_output_size
    return {
        "title": _title(setting),
        "output": slide.output.shape[0],
        "formula": formula(setting.size, setting.kernel, **setting.options),
        "windows": slide.output.size,
        "sums": slide.output.ravel().tolist(),
    }


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of the size of every output beside the formula's."""
    rows = [
        (row["title"], *(f"{row[size]} × {row[size]}" for size in ("output", "formula")), row["windows"])
        for row in summary["settings"].values()
    ]
    return markdown.table(("setting", "output", "by the formula", "windows"), rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return none: `arithmetic`, `receptive-field` and `upsampling` check what this shows."""
    return []
