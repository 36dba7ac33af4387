"""The figures of the experiment `receptive_field`."""

import numpy as np
from matplotlib.figure import Figure

from cnnjax import geometry, train, viz
from cnnjax.viz import Lines, Picture
from cnnjax.viz.figures import Curve
from experiments.receptive_field import SIZE, STACKS, describe, extent, weights_of


def draw(
    fields: dict[str, list[np.ndarray]], effective: dict[int, np.ndarray], fits: dict[str, list[train.Fit]]
) -> dict[str, Figure]:
    """Return every figure by its name."""
    panels = {
        quantity: [
            Curve(f"{name} {split}", np.array([fit.history[f"{split}/{quantity}"] for fit in ends]), colour, style)
            for colour, (name, ends) in enumerate(fits.items())
            for split, style in (("train", "-"), ("validation", "--"))
        ]
        for quantity in ("loss", "accuracy")
    }
    return {
        "fields": _fields(fields),
        "growth": _growth(fields),
        "effective": _effective(effective),
        "effective-sections": _sections(effective),
        "training": viz.curves(panels),
    }


def _fields(fields: dict[str, list[np.ndarray]]) -> Figure:
    def picture(field: np.ndarray, title: str, side: int) -> Picture:
        border = (SIZE - side) // 2
        shown = field[border : SIZE - border, border : SIZE - border] / field.max()
        return Picture(shown, f"{title}\nsees {extent(field)}", "Blues", (0, 1))

    layers = "depth {}".format
    rows = {
        "What the middle sees through 3x3 layers, and through one 7x7 (gradients, all weights 1)": [
            *(picture(field, layers(d), 11) for d, field in enumerate(fields["3x3"][:4], 1)),
            picture(fields["7x7"][0], "one 7x7", 11),
        ],
        "One 3x3 layer dilated by 1, 2, 3": [
            picture(field, f"rate {rate}", 11) for rate, field in enumerate(fields["3x3, one dilated"], 1)
        ],
        "3x3 layers dilated by 1, 2, 4, 8, 16": [
            picture(field, layers(d), SIZE) for d, field in enumerate(fields["3x3, doubling rates"], 1)
        ],
    }
    return viz.picture_rows(rows)


def _growth(fields: dict[str, list[np.ndarray]]) -> Figure:
    theory, found, weights = {}, {}, {}
    for name in ("3x3", "5x5", "3x3, doubling rates"):
        sides = np.array([geometry.receptive_field(stack) for stack in STACKS[name]])
        depths = np.arange(1, len(sides) + 1)
        theory[name] = (depths, sides)
        found[f"{name}, measured"] = (depths, np.array([extent(field) for field in fields[name]]))
        weights[name] = (sides, np.array([weights_of(stack) for stack in STACKS[name]]))
    sides = np.arange(3, SIZE, 2)
    weights["one layer"] = (sides, sides**2)
    measured_styles = dict.fromkeys(found, "x")
    across = "receptive field (pixels)"
    return viz.line_plots(
        [
            Lines("field against depth", ("layers", across), theory | found, ("linear", "log"), styles=measured_styles),
            Lines("what a field costs", (across, "weights for each pair of channels"), weights, ("log", "log")),
        ]
    )


def _effective(effective: dict[int, np.ndarray]) -> Figure:
    shown = []
    for depth, field in effective.items():
        numbers = describe(field, depth)
        title = f"{depth} layers: theory {numbers['theory']}\n95 % in {numbers['area_of_95_percent']:.0%} of its area"
        border = int(SIZE - numbers["theory"]) // 2
        inside = field[border : SIZE - border, border : SIZE - border]
        shown.append(Picture(np.sqrt(inside / field.max()), title, "Blues", (0, 1)))
    return viz.picture_rows({"What counts of the theory's square, random 3x3 layers with ReLU": shown}, size=2.1)


def _sections(effective: dict[int, np.ndarray]) -> Figure:
    places = np.arange(SIZE) - SIZE // 2
    lines, bells = {}, {}
    for depth, field in effective.items():
        deviation = describe(field, depth)["deviation"]
        lines[f"{depth} layers"] = (places, field.sum(0))
        bell = np.exp(-(places**2) / (2 * deviation**2))
        bells[f"_bell of {depth}"] = (places, bell / bell.sum())
    labels = ("column, from the middle", "share of the squared gradient")
    depths = np.array(list(effective))
    deviations = np.array([describe(field, depth)["deviation"] for depth, field in effective.items()])
    return viz.line_plots(
        [
            Lines("sections, and bells of the same deviation", labels, lines | bells, styles=dict.fromkeys(bells, ":")),
            Lines(
                "deviation against depth",
                ("layers", "pixels"),
                {
                    "measured": (depths, deviations),
                    "root of the depth": (depths, deviations[0] * np.sqrt(depths / depths[0])),
                    "the theory's half side": (depths, depths),
                },
                ("log", "log"),
                markers=True,
            ),
        ]
    )
