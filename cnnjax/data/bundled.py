"""Data that comes with scikit-learn."""

import numpy as np
from PIL import Image

from cnnjax.data.dataset import Dataset, Split

_TEST_EVERY = 5


def digits(image_size: int = 32) -> Dataset:
    """1,797 handwritten digits of scikit-learn (UCI "Optical recognition of handwritten digits"), as RGB.

    The 8x8 images of 17 grey levels are resized bilinearly and repeated over three channels; every fifth is for the
    test.

    Args:
        image_size: height and width in pixels.
    """
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
