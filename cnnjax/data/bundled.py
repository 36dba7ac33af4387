"""Data that comes with scikit-learn."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.decode import formats, upright
from cnnjax.errors import UserError

Photograph = Literal["china", "flower"]
PHOTOGRAPHS: tuple[Photograph, ...] = get_args(Photograph)
_TEST_EVERY = 5


def photograph(name: str, size: int | None = None) -> np.ndarray:
    """Return one of scikit-learn's photographs, bytes (427, 640, 3), or any image file, bytes (height, width, 3).

    Args:
        name: one of `PHOTOGRAPHS`, or a path.
        size: height and width of a square instead, (size, size, 3): the largest one in the middle that consists of
            whole boxes of pixels; each box becomes its mean.

    Raises:
        UserError: there is no such file, it is not an image, or it is smaller than `size`.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_image

    if name in PHOTOGRAPHS:
        pixels = np.asarray(load_sample_image(f"{name}.jpg"))
    else:
        try:
            with Image.open(Path(name), formats=formats()) as image:
                pixels = np.asarray(upright(image).convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise UserError(
                f"photograph {name!r} is neither {' nor '.join(PHOTOGRAPHS)} nor an image file that can be read: "
                f"{error}"
            ) from error
    if size is None:
        return pixels
    box = min(pixels.shape[:2]) // size
    if box < 1:
        raise UserError(f"photograph {name!r} has {pixels.shape[0]}x{pixels.shape[1]} pixels, fewer than {size}")
    top, left = ((length - box * size) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + box * size, left : left + box * size]
    return np.rint(square.reshape(size, box, size, box, 3).mean((1, 3))).astype(np.uint8)


def digits(image_size: int = 32) -> Dataset:
    """1,797 handwritten digits of scikit-learn (UCI "Optical recognition of handwritten digits"), as RGB.

    The 8x8 images of 17 grey levels are resized bilinearly and repeated over three channels; every fifth is a
    test image.

    Args:
        image_size: height and width in pixels.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    resized = [Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BILINEAR) for image in grey]
    images = np.repeat(np.stack([np.asarray(image) for image in resized])[..., None], 3, axis=3)
    labels = bunch.target.astype(np.int32)
    test = np.arange(len(labels)) % _TEST_EVERY == _TEST_EVERY - 1
    return Dataset(
        name="digits",
        version=f"sklearn-{image_size}",
        class_names=tuple(map(str, bunch.target_names)),
        train=Split(images[~test], labels[~test]),
        test=Split(images[test], labels[test]),
    )
