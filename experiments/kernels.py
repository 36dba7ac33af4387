"""Named kernels on step edges and on photographs: vertical, horizontal, Sobel, Scharr, blur, and S2's edge kernel.

Lectures S1 and S2 (claims B4 and B5): a kernel whose numbers sum to zero does not respond to even surfaces, but to
edges in its own direction; a kernel whose numbers sum to one keeps surfaces and smooths details smaller than itself.

    python launch.py kernels
    python launch.py kernels --photograph path/to/picture.jpg

Takes a few seconds. Expect the lectures' step images with their results, every kernel's response to the photographs,
orange where it is negative and blue where it is positive, and the Sobel and Scharr kernels as printed, which respond to
an image without edges: Sobel's last row is -1 0 1, not -1 0 -1, and Scharr's first row is 3 0 -3, not 3 0 3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from cnnjax import data, ops, runs, train, viz
from cnnjax.lab import markdown
from cnnjax.lab.claims import ROUNDING, Claim, check, erratum
from cnnjax.lab.worked import KERNELS, computed, correlate, distance, equation, grey, parse, show
from cnnjax.options import Checked
from cnnjax.viz import Grid
from cnnjax.viz.grids import signed

LECTURE = {name: "S2" if name in ("blur", "edge") else "S1" for name in KERNELS}
AS_PRINTED = {"Sobel": parse("-1 0 1/-2 0 2/-1 0 -1"), "Scharr": parse("3 0 3/10 0 -10/3 0 -3")}

LIGHT_TO_DARK = np.repeat([[10.0, 0.0]], 3, axis=1) * np.ones((6, 1))
# On S1's slide the kernel is drawn over the upper left quadrant of this image.
QUADRANTS = np.kron([[10.0, 0.0], [0.0, 10.0]], np.ones((3, 3)))
STEPS = (  # title, image, kernel, and the result that S1 prints
    ("light to dark", LIGHT_TO_DARK, "vertical", parse("0 30 30 0/0 30 30 0/0 30 30 0/0 30 30 0")),
    ("dark to light", LIGHT_TO_DARK[:, ::-1], "vertical", parse("0 -30 -30 0/0 -30 -30 0/0 -30 -30 0/0 -30 -30 0")),
    ("four quadrants", QUADRANTS, "horizontal", parse("0 0 0 0/30 10 -10 -30/30 10 -10 -30/0 0 0 0")),
)


@dataclass(frozen=True)
class Config(Checked):
    """Show what named kernels do to photographs."""

    photograph: str | None = None
    """china, flower, or a path to an image file; default: both of the first."""


def load(config: Config) -> dict[str, np.ndarray]:
    """Return photographs in grey by name, values in [0, 1]."""
    names = data.PHOTOGRAPHS if config.photograph is None else (config.photograph,)
    return {name: grey(name) for name in names}


def run(config: Config, photographs: dict[str, np.ndarray], run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the figures, and return each kernel's response to steps and surfaces."""
    viz.save(
        viz.number_grids([equation(image, KERNELS[name], what) for what, image, name, _ in STEPS]),
        run.figures / "steps.png",
    )
    equations = [
        equation(np.ones((5, 5)), kernel, "an even surface", title)
        for name, printed in AS_PRINTED.items()
        for title, kernel in ((f"{name} as S1 prints it", printed), (name, KERNELS[name]))
    ]
    viz.save(viz.number_grids(equations), run.figures / "as-printed.png")
    for name, photograph in photographs.items():
        stem = name if name in data.PHOTOGRAPHS else "photograph"
        viz.save(_gallery(photograph, respond(photograph)), run.figures / f"{stem}.png")
    printed = {f"{name} as printed": kernel for name, kernel in AS_PRINTED.items()}
    return {
        "steps": {what: correlate(image, KERNELS[name]).tolist() for what, image, name, _ in STEPS},
        "seen": {name: sees(kernel) for name, kernel in (KERNELS | printed).items()},
        "mean_response": {
            title: {name: float(np.abs(y).mean()) for name, y in respond(photograph).items()}
            for title, photograph in photographs.items()
        },
    }


def respond(photograph: np.ndarray) -> dict[str, np.ndarray]:
    """Return the response of every named kernel, (height - 2, width - 2), from a single convolution."""
    together = np.stack(list(KERNELS.values()), -1)[:, :, None]
    y = computed(ops.conv2d, photograph[None, ..., None], together)[0]
    return dict(zip(KERNELS, np.moveaxis(y, -1, 0), strict=True))


def sees(kernel: np.ndarray) -> dict[str, float]:
    """Return a kernel's largest responses: to an even surface of 10, a vertical and a horizontal edge from 10 to 0."""
    images = {"surface": np.full((6, 6), 10.0), "vertical edge": LIGHT_TO_DARK, "horizontal edge": LIGHT_TO_DARK.T}
    return {what: float(np.abs(correlate(image, kernel)).max()) for what, image in images.items()}


# ---------------------------------------------------------------- figures


def _gallery(photograph: np.ndarray, responses: dict[str, np.ndarray]) -> Figure:
    """The photograph, and every kernel beside its response."""
    aspect = photograph.shape[1] / photograph.shape[0]
    rows = -(-len(responses) // 2)
    figure = Figure(figsize=(1.7 * (1.3 + 1.7 * aspect), 1.7 * (rows + 1)), layout="constrained")
    axes = figure.subplots(rows + 1, 4, width_ratios=[1, 1.6 * aspect] * 2)
    for one in axes.flat:
        one.set_axis_off()
    axes[0, 1].imshow(photograph, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes[0, 1].set_title("photograph", fontsize=9)
    places = [(row, 2 * side) for row in range(1, rows + 1) for side in range(2)]
    for (row, column), (name, y) in zip(places, responses.items(), strict=False):
        kernel = KERNELS[name]
        viz.draw_grid(axes[row, column], Grid(kernel), cell=0.3)
        axes[row, column].set(xlim=(-0.1, 3.1), ylim=(3.1, -0.1))
        axes[row, column].set_title(f"{LECTURE[name]}: {name}", fontsize=9)
        negative = kernel.min() < 0
        reach = np.quantile(np.abs(y), 0.99) if negative else 1
        shades = (
            {"cmap": signed(), "vmin": -reach, "vmax": reach} if negative else {"cmap": "gray", "vmin": 0, "vmax": 1}
        )
        axes[row, column + 1].imshow(y, interpolation="nearest", **shades)
    return figure


# ---------------------------------------------------------------- results


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of what every kernel responds to, and its mean response to the photographs."""
    photographs = summary["mean_response"]
    head = ("kernel", *summary["seen"]["blur"], *(f"mean response to {name}" for name in photographs))
    rows = [
        (
            name,
            *(f"{value:g}" for value in seen.values()),
            *(f"{photo[name]:.3f}" if name in photo else "" for photo in photographs.values()),
        )
        for name, seen in summary["seen"].items()
    ]
    return markdown.table(head, rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims B4 and B5, all computed here."""
    photographs = load(Config())
    responses = {name: respond(photograph) for name, photograph in photographs.items()}
    return [*_steps(), *_named(photographs, responses), _blur(photographs, responses), *_as_printed()]


def _steps() -> list[Claim]:
    checked = []
    for what, image, name, printed in STEPS:
        ours = correlate(image, KERNELS[name])
        statement = f"S1: {what}, {name} kernel"
        checked.append(check("B4", statement, show(printed), show(ours), np.array_equal(ours, printed)))
    return checked


EVERYTHING = {"surface", "vertical edge", "horizontal edge"}
RESPONDS_TO = {  # what each kernel is for
    "vertical": {"vertical edge"},
    "horizontal": {"horizontal edge"},
    "Sobel": {"vertical edge"},
    "Scharr": {"vertical edge"},
    "blur": EVERYTHING,
    "edge": {"vertical edge"},  # "edge detection" in S2; with zeros in the middle row it detects vertical edges only
}


def _named(photographs: dict[str, np.ndarray], responses: dict[str, dict[str, np.ndarray]]) -> list[Claim]:
    checked = []
    for name, kernel in KERNELS.items():
        scipy = {
            title: ndimage.correlate(photo.astype(float), kernel)[1:-1, 1:-1] for title, photo in photographs.items()
        }
        error = max(distance(responses[title][name], reference) for title, reference in scipy.items())
        seen = sees(kernel)
        checked.append(
            check(
                "B5",
                f"{LECTURE[name]}: the {name} kernel {show(kernel, 3)}; its response to photographs is SciPy's",
                f"responds to {', '.join(sorted(RESPONDS_TO[name]))}",
                f"{', '.join(f'{what} {value:.3g}' for what, value in seen.items())}; photographs {error:.0e} apart",
                error <= ROUNDING and {what for what, value in seen.items() if value > 0} == RESPONDS_TO[name],
                f"{ROUNDING:g}",
            )
        )
    return checked


def _blur(photographs: dict[str, np.ndarray], responses: dict[str, dict[str, np.ndarray]]) -> Claim:
    surface = sees(KERNELS["blur"])["surface"]
    kept = [roughness(responses[name]["blur"]) / roughness(photo) for name, photo in photographs.items()]
    return check(
        "B5",
        "S2: image blurring: an even surface of 10, and differences between neighbouring pixels of photographs",
        "10; smaller",
        f"{surface:.3g}; {', '.join(f'{share:.0%}' for share in kept)} of what they were",
        abs(surface - 10) <= 1e-5 and max(kept) <= 0.8,
        "1e-5; at most 80 %",
    )


def roughness(image: np.ndarray) -> float:
    """Return the mean difference between a pixel and its right neighbour."""
    return float(np.abs(np.diff(image)).mean())


def _as_printed() -> list[Claim]:
    errata = []
    for name, printed in AS_PRINTED.items():
        right = KERNELS[name]
        row = int(np.flatnonzero((printed != right).any(1))[0])
        seen, unseen = sees(printed)["surface"], sees(right)["surface"]
        errata.append(
            erratum(
                "B5",
                f"S1 prints the {name} kernel as {show(printed)}, which sees an edge in an even surface of 10",
                f"{show(printed[row])} in its row {row + 1}, with response {seen:g}",
                f"{show(right[row])}, with response {unseen:g}",
                unseen == 0 and seen != 0,
            )
        )
    return errata
