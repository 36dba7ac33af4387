"""RandAugment: a few operations, drawn anew for every image, at one strength."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.data.augment import pixels
from cnnjax.data.augment.geometry import Geometric, Map, Size, shear, shift, turn
from cnnjax.data.augment.sample import Augmentation, Sample, change_images, check_images, check_range, check_whole

STRONGEST = 30  # magnitude
ENHANCEMENT, SHEAR, SHIFT, DEGREES, BITS = 0.9, 0.3, 150 / 331, 30.0, 4  # at that magnitude


def rand_augment(layers: int = 2, magnitude: float = 9.0, fill: float = 0.5) -> Augmentation:
    """Apply `layers` operations, drawn for every image from fourteen, at one magnitude.

    Cubuk et al. 2020, "RandAugment: practical automated data augmentation with a reduced search space"; the ranges are
    torchvision's. Each layer distributes the batch: every operation has equally many places, and an image gets a random
    one. So each image gets each operation with equal probability, and 128 images cost 14 operations on 10 images each.

    Args:
        layers: operations an image, at least 1.
        magnitude: 0 (next to nothing) to 30.
        fill: value in [0, 1] of pixels from outside the image.

    Raises:
        UserError: an argument is out of range, or an image has not three channels.
    """
    check_whole("layers", layers, 1)
    check_range("magnitude", magnitude, 0, STRONGEST)
    every = list(operations(magnitude / STRONGEST, fill).values())

    def augment(key: jax.Array, sample: Sample) -> Sample:
        check_images(sample)
        pixels.channels(sample.images)

        def layer(sample: Sample, key: jax.Array) -> tuple[Sample, None]:
            return _dealt(every, key, sample), None

        return lax.scan(layer, sample, jax.random.split(key, layers))[0]  # compiled once for all layers

    return augment


def _dealt(every: list[Augmentation], key: jax.Array, sample: Sample) -> Sample:
    """Apply one augmentation to each image."""
    count, share = len(sample.images), -(-len(sample.images) // len(every))
    place = jax.random.permutation(jax.random.fold_in(key, len(every)), share * len(every))[:count]
    numbers = jnp.arange(count, dtype=jnp.int32)
    image_at = jnp.zeros(share * len(every), jnp.int32).at[place].set(numbers)  # 0 where nothing is placed

    def done(number: int) -> Sample:
        hand = image_at[number * share : (number + 1) * share]
        return every[number](jax.random.fold_in(key, number), jax.tree.map(lambda x: x[hand], sample))

    results = [done(number) for number in range(len(every))]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[place], *results)


def operations(strength: float, fill: float) -> dict[str, Augmentation]:
    """Return the operations by name at a strength of 0 to 1; the sign of an amount is random."""

    def amounts(key: jax.Array, count: int, most: float) -> jax.Array:
        return strength * most * jax.random.rademacher(key, (count,), jnp.float32)

    def enhance(adjust: pixels.Adjust) -> Augmentation:
        def augment(key: jax.Array, sample: Sample) -> Sample:
            factor = 1 + amounts(key, len(sample.images), ENHANCEMENT)
            return change_images(sample, lambda images: adjust(images, factor))

        return augment

    def moved(most: float, to_map: Callable[[jax.Array, Size], Map]) -> Geometric:
        return Geometric(lambda key, count, size: to_map(amounts(key, count, most), size), fill)

    def fixed(change: Callable[[jax.Array], jax.Array]) -> Augmentation:
        return lambda key, sample: change_images(sample, change)

    return {
        "identity": lambda key, sample: sample,
        "autocontrast": fixed(autocontrast),
        "equalize": fixed(equalize),
        "posterize": fixed(lambda images: posterize(images, 8 - round(BITS * strength))),
        "solarize": fixed(lambda images: solarize(images, 1 - strength)),
        "brightness": enhance(pixels.adjust_brightness),
        "contrast": enhance(pixels.adjust_contrast),
        "color": enhance(pixels.adjust_saturation),
        "sharpness": enhance(adjust_sharpness),
        "rotate": moved(DEGREES, lambda degrees, size: turn(jnp.deg2rad(degrees), size)),
        "shear x": moved(SHEAR, lambda amount, size: shear(amount, jnp.zeros_like(amount), size)),
        "shear y": moved(SHEAR, lambda amount, size: shear(jnp.zeros_like(amount), amount, size)),
        "translate x": moved(SHIFT, lambda amount, size: shift(amount * size[1], jnp.zeros_like(amount), size)),
        "translate y": moved(SHIFT, lambda amount, size: shift(jnp.zeros_like(amount), amount * size[0], size)),
    }


# ---------------------------------------------------------------- operations of RandAugment alone


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretch every channel of every image to [0, 1]: Pillow's ImageOps.autocontrast."""
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    return jnp.where(high > low, (images - low) / jnp.where(high > low, high - low, 1), images)


def equalize(images: jax.Array) -> jax.Array:
    """Make the histogram of every channel of every image, in 256 levels, uniform: Pillow's ImageOps.equalize."""
    count, height, width, channels = images.shape
    levels = _levels(images).transpose(0, 3, 1, 2).reshape(count * channels, height * width)
    planes = np.arange(len(levels))
    histogram = jnp.zeros((len(levels), 256), jnp.int32).at[planes[:, None], levels].add(1)
    step = (height * width - histogram[planes, levels.max(1)])[:, None] // 255
    below = jnp.cumsum(histogram, 1) - histogram
    table = jnp.where(step > 0, (below + step // 2) // jnp.maximum(step, 1), np.arange(256))
    equal = jnp.take_along_axis(jnp.minimum(table, 255), levels, 1) / 255
    return equal.reshape(count, channels, height, width).transpose(0, 2, 3, 1).astype(images.dtype)


def posterize(images: jax.Array, bits: int) -> jax.Array:
    """Keep the `bits` highest of eight bits: Pillow's ImageOps.posterize."""
    return (_levels(images) & (256 - 2 ** (8 - bits))).astype(images.dtype) / 255


def solarize(images: jax.Array, threshold: float) -> jax.Array:
    """Invert the values that reach the threshold: Pillow's ImageOps.solarize."""
    return jnp.where(images < threshold, images, 1 - images)


def adjust_sharpness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Return s + factor * (x - s), s smoothed except at the border: Pillow's ImageEnhance.Sharpness."""
    height, width = images.shape[1:3]
    around = sum(images[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    middle = images[:, 1:-1, 1:-1]
    smooth = images.at[:, 1:-1, 1:-1].set((around + 4 * middle) / 13)
    return smooth + factor[:, None, None, None] * (images - smooth)


def _levels(images: jax.Array) -> jax.Array:
    return jnp.round(images * 255).astype(jnp.int32)
