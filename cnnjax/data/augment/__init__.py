"""Augmentation on the device: pure functions of a key and a batch, to be traced into a training step.

For example:

    change = augment.parse("random-crop mirror rgb-intensity mixup:alpha=0.2")
    batch = change(key, augment.Sample(images, jax.nn.one_hot(labels, 10)))
"""

from cnnjax.data.augment.compose import AUGMENTATIONS, OPTIONS, chain, listing, parse
from cnnjax.data.augment.geometry import (
    Geometric,
    Map,
    flip_vertical,
    mirror,
    random_crop,
    resized_crop,
    rotate,
    rotate90,
    translate,
    zoom,
)
from cnnjax.data.augment.mixing import cutmix, mixup
from cnnjax.data.augment.objects import object_crop, zoom_out
from cnnjax.data.augment.pixels import (
    brightness,
    contrast,
    cutout,
    gaussian_noise,
    hue,
    principal_colours,
    rgb_intensity,
    salt_and_pepper,
    saturation,
)
from cnnjax.data.augment.policy import rand_augment
from cnnjax.data.augment.sample import Augmentation, Sample

__all__ = [
    "AUGMENTATIONS",
    "OPTIONS",
    "Augmentation",
    "Geometric",
    "Map",
    "Sample",
    "brightness",
    "chain",
    "contrast",
    "cutmix",
    "cutout",
    "flip_vertical",
    "gaussian_noise",
    "hue",
    "listing",
    "mirror",
    "mixup",
    "object_crop",
    "parse",
    "principal_colours",
    "rand_augment",
    "random_crop",
    "resized_crop",
    "rgb_intensity",
    "rotate",
    "rotate90",
    "salt_and_pepper",
    "saturation",
    "translate",
    "zoom",
    "zoom_out",
]
