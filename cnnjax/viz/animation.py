"""A kernel that slides over its input, drawn as an animation: GIF to show anywhere, SVG to zoom into.

`slide` computes what there is to show, with `cnnjax.ops`; `save_animation` draws it. The pictures follow the idea of
Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), with the numbers in their cells.
"""

import errno
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints, Padding, Pair
from cnnjax.viz.drawing import INK, Box, Scene, Shape, Words, write_gif, write_svg

CELL = 44  # pixels
GAP = 34  # between what stands side by side, and around all of it
LINE = 22
FAINT, EDGE = "#7a838c", "#c3cad1"
INPUT, UNUSED, WINDOW, WINDOW_EDGE, WEIGHT = "#dbe9f6", "#eef1f4", "#fde7bd", "#d55e00", "#8f3f00"
OUTPUT, OUTPUT_EDGE = "#d3eee3", "#009e73"


class Slide(NamedTuple):
    """A convolution, window by window, in the order of its output's pixels.

    Attributes:
        picture: (height, width), what the kernel slides over: the input with its padding; for a transposed convolution
            the input with stride - 1 zeros between its pixels and the border that its kernel reaches into.
        pixels: (height, width), which of these are the input's.
        kernel: (kh, kw) as it lies on the picture, which is flipped where it is transposed.
        products: (rows, columns, kh, kw), what each window adds up.
        output: (rows, columns), their sums.
        step: pixels between two windows.
        dilation: pixels between two taps.
        transposed: whether the convolution is.
    """

    picture: np.ndarray
    pixels: np.ndarray
    kernel: np.ndarray
    products: np.ndarray
    output: np.ndarray
    step: Pair
    dilation: Pair
    transposed: bool

    def taps(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (kh, 1) and columns (1, kw) of the picture that a frame's window reads."""
        place = divmod(frame, self.output.shape[1])
        rows, columns = (
            p * s + d * np.arange(k)
            for p, s, d, k in zip(place, self.step, self.dilation, self.kernel.shape, strict=True)
        )
        return rows[:, None], columns[None, :]


def slide(
    x: np.ndarray,
    kernel: np.ndarray,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    transposed: bool = False,
    output_padding: Ints = 0,
) -> Slide:
    """Compute every window of `ops.conv2d`, or of `ops.conv_transpose2d`, with the product of every tap.

    Args:
        x: image (height, width).
        kernel: (kh, kw).
        stride: as the operation's, like all that follow.
        padding: of a transposed convolution only integers.
        dilation: pixels between two taps.
        transposed: whether it is a transposed convolution.
        output_padding: of a transposed convolution.

    Raises:
        ValueError: as the operation, or x or the kernel has not two axes.
    """
    x, kernel = np.asarray(x, np.float32), np.asarray(kernel, np.float32)
    for name, array in (("x", x), ("kernel", kernel)):
        if array.ndim != 2:
            raise ValueError(f"{name} must have 2 axes (height, width), got shape {array.shape}")
    strides, dilations = arguments.pair("stride", stride, 1), arguments.pair("dilation", dilation, 1)
    alone = np.diag(kernel.ravel()).reshape(*kernel.shape, 1, -1)  # an output channel for every tap, besides the first
    images, kernels = jnp.asarray(x[None, :, :, None]), jnp.concatenate([kernel[:, :, None, None], alone], -1)
    options: Any = {"stride": stride, "padding": padding, "dilation": dilation}
    if transposed:
        y = ops.conv_transpose2d(images, kernels, output_padding=output_padding, **options)
        cut, extra = arguments.pair("padding", padding, 0), arguments.pair("output_padding", output_padding, 0)
        reach = [d * (k - 1) - p for d, k, p in zip(dilations, kernel.shape, cut, strict=True)]
        border: Any = [(r, r + e) for r, e in zip(reach, extra, strict=True)]
    else:
        y = ops.conv2d(images, kernels, **options)
        border = arguments.sides(padding, x.shape[:2], kernel.shape[:2], strides, dilations)
    values = np.asarray(y)[0]
    products = values[:, :, 1:].reshape(*values.shape[:2], *kernel.shape)
    turn = -1 if transposed else 1
    spacing, step = (strides, (1, 1)) if transposed else ((1, 1), strides)
    return Slide(
        picture=_extend(_spread(x, spacing), border),
        pixels=_extend(_spread(np.ones(x.shape, bool), spacing), border),
        kernel=kernel[::turn, ::turn],
        products=products[:, :, ::turn, ::turn],
        output=values[:, :, 0],
        step=step,
        dilation=dilations,
        transposed=transposed,
    )


def _spread(x: np.ndarray, spacing: Pair) -> np.ndarray:
    """Put pixels so far apart, zeros between them."""
    spread = np.zeros([(n - 1) * s + 1 for n, s in zip(x.shape, spacing, strict=True)], x.dtype)
    spread[:: spacing[0], :: spacing[1]] = x
    return spread


def _extend(x: np.ndarray, border: Sequence[Pair]) -> np.ndarray:
    """Put zeros around, or cut off where that many are negative."""
    cut = tuple(slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape, border, strict=True))
    return np.pad(x[cut], [(max(before, 0), max(after, 0)) for before, after in border])


def scene(slide: Slide, title: str = "") -> Scene:
    """Lay out input, kernel and output side by side, and what every window adds up below."""
    blocks = (slide.picture.shape, slide.kernel.shape, slide.output.shape)
    names = _names(slide)
    widths = [max(CELL * columns, 7 * len(name)) for (_, columns), name in zip(blocks, names, strict=True)]
    tall = CELL * max(rows for rows, _ in blocks)
    top = GAP + (LINE if title else 0) + LINE
    lefts = [GAP + sum(widths[:n]) + GAP * n for n in range(3)]
    width = max(sum(widths) + 4 * GAP, 13 * CELL, 11 * len(title))
    sums = [_sum_lines(slide, frame, int((width - 2 * GAP) / 8.4)) for frame in range(slide.output.size)]
    height = top + tall + LINE * (1 + max(len(lines) for lines in sums)) + GAP / 2
    corners = [(left, top + (tall - CELL * rows) / 2) for left, (rows, _) in zip(lefts, blocks, strict=True)]
    shapes: list[Shape] = [Box(0, 0, width, height, "#ffffff", None)]
    if title:
        shapes.append(Words(GAP, GAP * 0.8, title, 16, bold=True, centred=False))
    for name, (left, y) in zip(names, corners, strict=True):
        shapes.append(Words(left, y - LINE / 2, name, 12, FAINT, centred=False))
    used, pixels = _used(slide), slide.pixels
    shapes += _grid(
        slide.picture,
        corners[0],
        lambda place: ("#ffffff", FAINT) if not pixels[place] else (INPUT, INK) if used[place] else (UNUSED, FAINT),
    )
    shapes += _grid(slide.kernel, corners[1], lambda place: (WINDOW, WEIGHT))
    shapes += _grid(slide.output, corners[2], lambda place: ("#ffffff", None))
    for frame in range(slide.output.size):
        shapes += _frame(slide, frame, corners)
        for number, line in enumerate(sums[frame], 1):
            y = top + tall + LINE * (number + 0.25)
            shapes.append(Words(GAP, y, line, 14, centred=False, start=frame, stop=frame + 1))
    return Scene(width, height, slide.output.size, shapes)


def _names(slide: Slide) -> list[str]:
    """What stands above input, kernel and output."""
    rows, columns = (int(slide.pixels.any(axis).sum()) for axis in (1, 0))
    given, shown = f"input {rows} × {columns}", _by(slide.picture.shape)
    dilation = "" if slide.dilation == (1, 1) else f", dilation {_once(slide.dilation)}"
    stride = "" if slide.step == (1, 1) else f", stride {_once(slide.step)}"
    return [
        given if (rows, columns) == slide.picture.shape else f"{given}, with zeros {shown}",
        f"kernel {_by(slide.kernel.shape)}{dilation}{', turned' if slide.transposed else ''}",
        f"output {_by(slide.output.shape)}{stride}",
    ]


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]} × {shape[1]}"


def _once(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else _by(pair)


def _used(slide: Slide) -> np.ndarray:
    """Which of the picture's pixels some window reads."""
    used = np.zeros(slide.picture.shape, bool)
    for frame in range(slide.output.size):
        used[slide.taps(frame)] = True
    return used


def _grid(
    values: np.ndarray, corner: tuple[float, float], looks: Callable[[Pair], tuple[str, str | None]]
) -> list[Shape]:
    """Cells with their numbers; `looks` gives a cell's fill and its number's colour, None for no number."""
    shapes: list[Shape] = []
    for (row, column), value in np.ndenumerate(values):
        x, y = corner[0] + CELL * column, corner[1] + CELL * row
        fill, colour = looks((row, column))
        shapes.append(Box(x, y, CELL, CELL, fill, EDGE))
        if colour:
            shapes.append(Words(x + CELL / 2, y + CELL / 2, _number(value), _fitting(_number(value)), colour))
    return shapes


def _frame(slide: Slide, frame: int, corners: Sequence[tuple[float, float]]) -> list[Shape]:
    """One window over the input, and the pixel of the output that it gives, which stays."""
    rows, columns = slide.taps(frame)
    (left, top), _, (out_left, out_top) = corners
    now: dict[str, Any] = {"start": frame, "stop": frame + 1}
    shapes: list[Shape] = []
    for place, weight in np.ndenumerate(slide.kernel):
        row, column = rows[place[0], 0], columns[0, place[1]]
        x, y, text = left + CELL * column, top + CELL * row, _number(slide.picture[row, column])
        shapes += [
            Box(x, y, CELL, CELL, WINDOW, EDGE, **now),
            Words(x + CELL / 2, y + CELL * 0.4, text, _fitting(text), **now),
            Words(x + CELL * 0.62, y + CELL * 0.8, f"×{_number(weight)}", 11, WEIGHT, **now),
        ]
    x, y = left + CELL * columns[0, 0], top + CELL * rows[0, 0]
    width, height = (CELL * (int(side[-1] - side[0]) + 1) for side in (columns.ravel(), rows.ravel()))
    shapes.append(Box(x, y, width, height, None, WINDOW_EDGE, 3, **now))
    row, column = divmod(frame, slide.output.shape[1])
    x, y, text = out_left + CELL * column, out_top + CELL * row, _number(slide.output[row, column])
    return [
        *shapes,
        Box(x, y, CELL, CELL, OUTPUT, EDGE, start=frame),
        Words(x + CELL / 2, y + CELL / 2, text, _fitting(text), start=frame),
        Box(x, y, CELL, CELL, None, OUTPUT_EDGE, 3, **now),
    ]


def _sum_lines(slide: Slide, frame: int, room: int) -> list[str]:
    """Return what a window adds up, in lines of at most so many characters."""
    place = divmod(frame, slide.output.shape[1])
    pairs = zip(slide.picture[slide.taps(frame)].ravel(), slide.kernel.ravel(), strict=True)
    factors = " + ".join(f"{_term(value)}·{_term(weight)}" for value, weight in pairs)
    products = " + ".join(_term(product) for product in slide.products[place].ravel())
    lines = [*textwrap.wrap(factors, room), *textwrap.wrap(f"= {products}", room)]
    return [*lines, f"= {_number(slide.output[place])}"]


def _number(value: float) -> str:
    return f"{value + 0.0:.3g}".replace("-", "−")  # + 0.0: no negative zero


def _term(value: float) -> str:
    return f"({_number(value)})" if value < 0 else _number(value)


def _fitting(text: str) -> int:
    return 17 if len(text) < 4 else 13


def save_animation(slide: Slide, path: Path, title: str = "", seconds: float | None = None) -> None:
    """Write an animation that repeats, as GIF or SVG by the path's suffix; both look the same.

    Args:
        slide: what to show.
        path: ending in .gif or .svg; its folder is made.
        title: above the picture.
        seconds: a window; default: as many as make about 20 seconds together, between a quarter and one.

    Raises:
        ValueError: another suffix, or seconds that are not positive.
        OSError: it cannot be written; names the file.
    """
    writers = {".gif": write_gif, ".svg": write_svg}
    arguments.one_of("suffix of path", path.suffix, writers)
    drawn = scene(slide, title)
    pace = min(max(20 / drawn.frames, 0.25), 1.0) if seconds is None else seconds
    path.parent.mkdir(exist_ok=True)
    try:
        writers[path.suffix](drawn, path, arguments.real("seconds", pace, positive=True))
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
