"""What a convolution computes: worked examples, both its directions, channels, layouts, and what moving an image does.

Lectures S0, S1, S2 and S3 (claims B1, B2, B6 to B10 and B13). The formulas are evaluated term by term, as they are
printed, and compared with what `ops` computes; so are the two places where lecture S2's formulas are not what it means.

    python launch.py convolution                                            # S3's image and kernel, step by step
    python launch.py convolution --image "11100/01110/00111/00110/01100" --kernel "101/010/101"     # S0's
    python launch.py convolution --image "0 0 0 0 0/0 0 1 0 0/0 0 0 0 0" --kernel "1 2 3/4 5 6/7 8 9"

Takes about ten seconds. Expect the window's way over the image, a kernel that comes out flipped or not, the sum over
channels, and a convolution that follows a moved image to the last bit where a fully connected layer does not.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from cnnjax import ops, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab.markdown import table as markdown
from cnnjax.lab.worked import computed, convolve, correlate, parse
from cnnjax.options import SEED, check_ranges
from cnnjax.viz import Grid
from experiments.convolution_claims import EXAMPLES, SHIFT, Layer, claims, move_an_image, small_photograph

__all__ = ["Config", "claims", "load", "run", "table"]

LARGEST = 12  # rows or columns of an image whose cells can still be read
STEPS = 9  # of the window that are drawn


@dataclass(frozen=True)
class Config:
    """Show what a convolution computes."""

    image: Annotated[str, tyro.conf.arg(help="Image whose convolution is drawn step by step: rows with slashes.")] = (
        "33210/00131/31223/20022/20001"
    )
    kernel: Annotated[str, tyro.conf.arg(help="Its kernel, as '101/010/101' or '1 0 -1 / 1 0 -1'.")] = "012/220/012"
    seed: Annotated[int, tyro.conf.arg(help=f"Decides the random images, kernels and weights; {SEED.text}.")] = 0

    def __post_init__(self) -> None:
        image, kernel = parse(self.image, "--image"), parse(self.kernel, "--kernel")
        if max(image.shape) > LARGEST or any(np.greater(kernel.shape, image.shape)):
            raise UserError(
                f"--image is {image.shape[0]}x{image.shape[1]} and --kernel {kernel.shape[0]}x{kernel.shape[1]}: "
                f"expected an image of at most {LARGEST}x{LARGEST}, and a kernel that fits in it"
            )
        check_ranges(self, {"seed": SEED})


def load(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return the image and the kernel to draw."""
    return parse(config.image), parse(config.kernel)


def run(
    config: Config, drawn: tuple[np.ndarray, np.ndarray], run: runs.Run, parallel: train.Parallel
) -> dict[str, Any]:
    """Draw the figures, and return what was computed and measured."""
    moved = move_an_image(config.seed)
    _draw(drawn, moved, run)
    return {
        "examples": {example.lecture: correlate(example.image, example.kernel).tolist() for example in EXAMPLES},
        "drawn": correlate(*drawn).tolist(),
        "moved": {name: layer.error for name, layer in moved.items()},
        "inputs_of_an_output": {name: layer.inputs for name, layer in moved.items()},
        "parameters": {name: layer.params for name, layer in moved.items()},
    }


# ---------------------------------------------------------------- figures


def _draw(drawn: tuple[np.ndarray, np.ndarray], moved: dict[str, Layer], run: runs.Run) -> None:
    figures = {
        "worked-examples": viz.number_grids([_equation(e.image, e.kernel, e.lecture) for e in EXAMPLES]),
        "step-by-step": viz.number_grids(_steps(*drawn)),
        "correlation-and-convolution": viz.number_grids(_directions()),
        "channels": viz.number_grids(_channels()),
    }
    for name, figure in figures.items():
        viz.save(figure, run.figures / f"{name}.png")
    image, titles, pictures = small_photograph(), [], []
    for name, layer in moved.items():
        moved_response = np.roll(layer.responses[0], SHIFT, (0, 1))
        pictures += [image, layer.responses[0], np.roll(image, SHIFT, (0, 1)), layer.responses[1]]
        pictures += [layer.responses[1] - moved_response]
        titles += ["image", name, "moved image", name, f"not moved along: {layer.error:.0%}"]
    viz.save(viz.image_grid(np.stack(pictures), titles, 5), run.figures / "moved-image.png")


def _equation(image: np.ndarray, kernel: np.ndarray, title: str) -> list[Grid]:
    return [Grid(image, f"{title}: image"), Grid(kernel, "kernel", "*"), Grid(correlate(image, kernel), "result", "=")]


def _steps(image: np.ndarray, kernel: np.ndarray) -> list[list[Grid]]:
    """The window on its way: the image and what is computed so far, three steps a row."""
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
    """One bright pixel: a convolution draws the kernel there, a cross-correlation draws it upside down."""
    point, kernel = np.zeros((5, 5), np.float32), np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    point[2, 2] = 1
    pair = Grid(point, "image"), Grid(kernel, "kernel", "*")
    return [
        [*pair, Grid(correlate(point, kernel, padding=1), "cross-correlation (conv2d)", "=")],
        [*pair, Grid(convolve(point, kernel, padding=1), "convolution (convolve2d)", "=")],
    ]


def _channels() -> list[list[Grid]]:
    """Three channels, each with its own slice of the kernel, and the sum."""
    random = np.random.default_rng(3)
    image = random.integers(0, 4, (4, 4, 3)).astype(np.float32)
    kernel = random.integers(-1, 2, (3, 3, 3)).astype(np.float32)
    rows = [_equation(image[..., r], kernel[..., r], f"channel {r}") for r in range(3)]
    whole = computed(ops.conv2d, image[None], kernel[..., None])[0, ..., 0]
    parts = [Grid(correlate(image[..., r], kernel[..., r]), f"channel {r}", "+" if r else "") for r in range(3)]
    return [*rows, [*parts, Grid(whole, "conv2d", "=")]]


# ---------------------------------------------------------------- what comes out


def table(summary: dict[str, Any]) -> str:
    """Return the layers side by side as a Markdown table: weights, inputs of an output, error after a move."""
    rows = [
        (name, f"{summary['parameters'][name]:,}", summary["inputs_of_an_output"][name], f"{error:.1%}")
        for name, error in summary["moved"].items()
    ]
    head = (
        "layer, 32x32 to 32x32",
        "weights",
        "pixels that an output sees",
        "response that does not move with the image",
    )
    return markdown(head, rows)
