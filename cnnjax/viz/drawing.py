"""Rectangles and text that come and go, as an animation: GIF by Pillow, SVG by hand, both of one look."""

import html
import math
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = "#1d232a"
GIF_COLOURS = 24
ALWAYS = math.inf


class Box(NamedTuple):
    """A rectangle, seen from a frame on until another."""

    x: float
    y: float
    width: float
    height: float
    fill: str | None
    edge: str | None
    thickness: int = 1
    start: int = 0
    stop: float = ALWAYS


class Words(NamedTuple):
    """Text around a centre, or from a left edge on, at that middle height."""

    x: float
    y: float
    text: str
    size: int
    colour: str = INK
    bold: bool = False
    centred: bool = True
    start: int = 0
    stop: float = ALWAYS


Shape = Box | Words


class Scene(NamedTuple):
    """What is drawn, back to front."""

    width: float
    height: float
    frames: int
    shapes: list[Shape]


def write_gif(scene: Scene, path: Path, seconds: float) -> None:
    """Write a GIF with so many seconds a frame, the last for two at least."""
    size = round(scene.width), round(scene.height)
    pictures = []
    for frame in range(scene.frames):
        picture = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(picture)
        for shape in scene.shapes:
            if shape.start <= frame < shape.stop:
                _draw(pen, shape)
        pictures.append(picture)
    palette = _palette(pictures[-1])  # one for all, or colours flicker
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    waits = [round(1000 * seconds)] * (scene.frames - 1) + [round(1000 * max(seconds, 2))]
    first.save(path, save_all=True, append_images=others, duration=waits, loop=0, optimize=True)


def _palette(picture: Image.Image) -> Image.Image:
    """The picture's most frequent colours, none like another: fills exactly, edges of letters nearly."""
    colours, counts = np.unique(np.asarray(picture, int).reshape(-1, 3), axis=0, return_counts=True)
    chosen: list[np.ndarray] = []
    for colour in colours[np.argsort(-counts)]:
        if len(chosen) < GIF_COLOURS and all(np.abs(colour - other).max() > 12 for other in chosen):
            chosen.append(colour)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate(chosen).tolist())
    return palette


def _draw(pen: ImageDraw.ImageDraw, shape: Shape) -> None:
    x, y = shape.x, shape.y
    if isinstance(shape, Words):
        pen.text((x, y), shape.text, shape.colour, _font(shape.bold, shape.size), "mm" if shape.centred else "lm")
    else:
        pen.rectangle((x, y, x + shape.width, y + shape.height), shape.fill, shape.edge, shape.thickness)


@cache
def _font(bold: bool, size: int) -> ImageFont.FreeTypeFont:
    """A font that every installation of matplotlib has."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def write_svg(scene: Scene, path: Path, seconds: float) -> None:
    """Write an SVG that moves by itself, with the times of the GIF."""
    total = seconds * (scene.frames - 1) + max(seconds, 2)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {scene.width:g} {scene.height:g}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" dominant-baseline="central">'
    ]
    for (start, stop), shapes in groupby(scene.shapes, key=lambda shape: (shape.start, shape.stop)):
        lines += [
            "<g>",
            _lifetime(start, stop if stop < scene.frames else ALWAYS, seconds, total),
            *map(_tag, shapes),
            "</g>",
        ]
    path.write_text("\n".join([*lines, "</svg>"]) + "\n")


def _lifetime(start: int, stop: float, seconds: float, total: float) -> str:
    """A group is hidden before its first frame, and from the frame on where it stops."""
    changes = [(0.0, "visible" if start == 0 else "hidden")]
    changes += [
        (frame * seconds / total, look) for frame, look in ((start, "visible"), (stop, "hidden")) if 0 < frame < ALWAYS
    ]
    if len(changes) == 1:
        return ""
    times, values = (";".join(part) for part in zip(*((f"{time:.4f}", value) for time, value in changes), strict=True))
    return (
        f'<animate attributeName="visibility" calcMode="discrete" dur="{total:.2f}s" repeatCount="indefinite" '
        f'keyTimes="{times}" values="{values}"/>'
    )


def _tag(shape: Shape) -> str:
    place = f'x="{shape.x:g}" y="{shape.y:g}"'
    if isinstance(shape, Words):
        looks = f'font-size="{shape.size:g}" fill="{shape.colour}"'
        looks += ' text-anchor="middle"' * shape.centred + ' font-weight="bold"' * shape.bold
        return f"<text {place} {looks}>{html.escape(shape.text)}</text>"
    edge = f' stroke="{shape.edge}" stroke-width="{shape.thickness:g}"' if shape.edge else ""
    return f'<rect {place} width="{shape.width:g}" height="{shape.height:g}" fill="{shape.fill or "none"}"{edge}/>'
