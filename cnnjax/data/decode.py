"""Image files to bytes: 8 bits for each channel, turned as a viewer turns them, cut to one size."""

import functools
import io
from typing import Any, Literal, NamedTuple

import numpy as np

# Recognised by content. For other formats Pillow starts programs, such as Ghostscript for PostScript. AVIF and WebP are
# read where Pillow was built with them.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
BACKGROUND = "white"  # of transparent images, unless their transparency is kept
VERSION = 3  # increased when `decode` makes other pixels of a file: what caches hold is then decoded again
Deep = Literal["refuse", "type", "image"]
_ORIENTATION = 0x0112  # the tag of EXIF


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the formats of `FORMATS` that this Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the endings of files in those formats, in lower case: ".jpg", ".jfif", ".pgm", ..."""
    from PIL import Image

    names = {*formats(), "MPO"}  # several JPEGs in a file, of which the first is read as one
    return frozenset(end for end, name in Image.registered_extensions().items() if name in names)


class Placement(NamedTuple):
    """Where an image lies that is scaled until it fits into a size, with equal borders on opposite sides.

    Attributes:
        scaled: height and width that it is scaled to.
        rows: those of the whole that it takes.
        columns: likewise.
    """

    scaled: tuple[int, int]
    rows: slice
    columns: slice

    @classmethod
    def of(cls, size: tuple[int, int], whole: tuple[int, int]) -> "Placement":
        """Return the place of an image of `size` in the `whole`, (height, width) both."""
        scale = min(whole[0] / size[0], whole[1] / size[1])
        height, width = (min(max(round(n * scale), 1), most) for n, most in zip(size, whole, strict=True))
        top, left = (whole[0] - height) // 2, (whole[1] - width) // 2
        return cls((height, width), slice(top, top + height), slice(left, left + width))


def decode(
    encoded: bytes, shape: tuple[int, int, int], deep: Deep = "refuse", fit: Literal["cover", "contain"] = "cover"
) -> np.ndarray:
    """Return an image file as uint8 (height, width, channels): 1 of grey, 3 of colour, 4 with transparency.

    It is turned as its EXIF orientation says, scaled (Pillow's bilinear filter with antialiasing) until it just covers
    `shape`, and cropped to its middle, as is usual for evaluation on ImageNet. Without a channel for transparency, a
    transparent image is shown before a white background.

    Args:
        encoded: the file.
        shape: (height, width, channels).
        deep: what becomes of grey images of 16 or 32 bits or of floats; as in `data.load`.
        fit: "contain" scales it until it just fits into `shape`, with black around it, so that no pixel is lost.

    Raises:
        ValueError: the file is empty, or has more than 8 bits for each channel that are not to be scaled or cannot be.
    """
    from PIL import Image

    if not encoded:
        raise ValueError("the file is empty")
    height, width, channels = shape
    with Image.open(io.BytesIO(encoded), formats=formats()) as file:
        asked = (height, width) if _orientation(file) > 4 else (width, height)  # before it is turned
        file.draft(MODES[channels], asked)  # a JPEG is decoded at a fraction of its size where that is enough
        image = _converted(upright(file), MODES[channels], deep)
    if fit == "contain" and image.size != (width, height):
        place, whole = Placement.of((image.height, image.width), (height, width)), np.zeros(shape, np.uint8)
        scaled_image = np.asarray(image.resize(place.scaled[::-1], Image.Resampling.BILINEAR))
        whole[place.rows, place.columns] = scaled_image.reshape(*place.scaled, channels)
        return whole
    if image.size != (width, height):
        scale = max(width / image.width, height / image.height)
        scaled = max(round(image.width * scale), width), max(round(image.height * scale), height)
        left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
        image = image.resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(shape)


def upright_size(encoded: bytes) -> tuple[int, int]:
    """Return (height, width) of an image file, turned as its EXIF orientation says; no pixel is decoded."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=formats()) as file:
        width, height = file.size
        return (width, height) if _orientation(file) > 4 else (height, width)


def upright(image: Any) -> Any:
    """Return one of Pillow's images turned as its EXIF orientation says; `ImageOps.exif_transpose` of pixels alone.

    That also writes the other tags anew, which fails for some that cameras write.
    """
    from PIL.Image import Transpose

    image.load()  # a TIFF is turned by Pillow itself
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    orientation = _orientation(image)
    return image.transpose(turns[orientation]) if orientation in turns else image


def _orientation(image: Any) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of many kinds, for EXIF data that are damaged: a viewer shows the image as it is
        return 1
    return value if isinstance(value, int) else 1


def read(encoded: bytes, channels: int, deep: Deep = "refuse") -> Any:
    """Return an image file as one of Pillow's images of full size, otherwise as `decode`."""
    from PIL import Image

    if not encoded:
        raise ValueError("the file is empty")
    with Image.open(io.BytesIO(encoded), formats=formats()) as file:
        return _converted(upright(file), MODES[channels], deep)


def _converted(image: Any, mode: str, deep: Deep) -> Any:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_scaled(np.asarray(image), deep)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if mode != "RGBA":  # the colours of transparent pixels are whatever a program left there
            image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    if image.mode == "LAB":  # which has no direct way to grey
        image = image.convert("RGB")
    return image.convert(mode)


def _scaled(pixels: np.ndarray, deep: Deep) -> np.ndarray:
    """Grey pixels of more than 8 bits as bytes."""
    if deep == "refuse":
        raise ValueError(
            "it has more than 8 bits for each channel: scale it with `deep='type'` (0 to 65,535, or floats 0 to 1) or "
            "`deep='image'` (its own least and greatest value), or save it with 8"
        )
    least, greatest = float(pixels.min()), float(pixels.max())
    if not np.isfinite([least, greatest]).all():
        raise ValueError("it has pixels that are no finite numbers")
    low, high = (least, greatest) if deep == "image" else (0.0, 1.0 if pixels.dtype.kind == "f" else 65535.0)
    if least < low or greatest > high:
        raise ValueError(
            f"its values are from {least:g} to {greatest:g}, where `deep='type'` takes 0 to {high:g}: scale it with "
            "`deep='image'`"
        )
    return np.rint((pixels.astype(np.float64) - low) * (255 / ((high - low) or 1))).astype(np.uint8)
