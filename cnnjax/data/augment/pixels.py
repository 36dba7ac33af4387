"""Augmentations that change values and leave every pixel in its place: colour, noise, and holes.

The colour operations are Pillow's (`PIL.ImageEnhance`, `PIL.ImageOps`) on floats in [0, 1] and clipped there: the
definitions that RandAugment uses. dm-pix offers brightness, contrast, saturation and hue as TensorFlow defines them,
for single images and without the randomness of a batch, and it depends on chex.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.data.augment.sample import Augmentation, Sample, change_images, check_range, check_whole
from cnnjax.errors import UserError

# Principal components of the colours of ImageNet's pixels, in [0, 1], a row each, times their variances.
IMAGENET_COLOURS = np.array([[0.2175], [0.0188], [0.0045]]) * np.array(
    [[-0.5675, -0.5808, -0.5836], [0.7192, -0.0045, -0.6948], [0.4009, -0.8140, 0.4203]]
)

Adjust = Callable[[jax.Array, jax.Array], jax.Array]  # of images (N, H, W, C) and an amount (N,)


# ---------------------------------------------------------------- colour


def brightness(amount: float = 0.2) -> Augmentation:
    """Multiply an image by a factor uniform in [1 - amount, 1 + amount], amount 0 to 1."""
    return _enhance(adjust_brightness, amount)


def contrast(amount: float = 0.2) -> Augmentation:
    """Scale the differences of pixels from the image's mean luma by a factor uniform in [1 - amount, 1 + amount]."""
    return _enhance(adjust_contrast, amount)


def saturation(amount: float = 0.2) -> Augmentation:
    """Scale the differences of channels from the pixel's luma by a factor uniform in [1 - amount, 1 + amount]."""
    return _enhance(adjust_saturation, amount)


def hue(amount: float = 0.05) -> Augmentation:
    """Turn the hue by a part of the colour circle uniform in [-amount, amount], amount 0 to 0.5."""
    check_range("amount", amount, 0, 0.5)
    return _adjusted(adjust_hue, -amount, amount)


def rgb_intensity(std: float = 0.1, colours: np.ndarray = IMAGENET_COLOURS) -> Augmentation:
    """Add one colour to an image: sum_i a_i lambda_i p_i, a_i normal with deviation `std`.

    Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", section 4.1: p_i and
    lambda_i are the principal components and the variances of the training set's RGB values.

    Args:
        std: deviation of the a_i, at least 0.
        colours: (3, 3), lambda_i p_i a row; ImageNet's, or what `principal_colours` finds.

    Raises:
        UserError: `std` is out of range, or an image has not three channels.
    """
    check_range("std", std, 0)

    def augment(key: jax.Array, sample: Sample) -> Sample:
        channels(sample.images)
        weights = std * jax.random.normal(key, (len(sample.images), 3))
        added = jnp.matmul(weights, jnp.asarray(colours, jnp.float32), precision=lax.Precision.HIGHEST)
        return change_images(sample, lambda images: images + added[:, None, None])

    return augment


def principal_colours(images: np.ndarray) -> np.ndarray:
    """Return the principal components of the colours of bytes (N, H, W, 3), a row each, times their variances."""
    variances, vectors = np.linalg.eigh(np.cov(images.reshape(-1, 3).T / 255))
    found: np.ndarray = (vectors * variances).T[::-1]
    return found


def _enhance(adjust: Adjust, amount: float) -> Augmentation:
    check_range("amount", amount, 0, 1)
    return _adjusted(adjust, 1 - amount, 1 + amount)


def _adjusted(adjust: Adjust, low: float, high: float) -> Augmentation:
    def augment(key: jax.Array, sample: Sample) -> Sample:
        amount = jax.random.uniform(key, (len(sample.images),), minval=low, maxval=high)
        return change_images(sample, lambda images: adjust(images, amount))

    return augment


def channels(images: jax.Array) -> tuple[jax.Array, ...]:
    """Return red, green and blue, (N, H, W) each; raise a UserError unless there are three channels."""
    if images.shape[-1] != 3:
        raise UserError(f"images: expected three channels, red, green and blue, got {images.shape}")
    return images[..., 0], images[..., 1], images[..., 2]


def adjust_brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Return factor * x: Pillow's ImageEnhance.Brightness."""
    return images * factor[:, None, None, None]


def adjust_contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Return m + factor * (x - m), m the image's mean luma: Pillow's ImageEnhance.Contrast."""
    return _away(images, luma(images.mean((1, 2), keepdims=True)), factor)


def adjust_saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Return l + factor * (x - l), l the pixel's luma: Pillow's ImageEnhance.Color."""
    return _away(images, luma(images), factor)


def luma(images: jax.Array) -> jax.Array:
    """Return 0.299 red + 0.587 green + 0.114 blue, (N, H, W, 1): Rec. 601, as Pillow's conversion to "L"."""
    red, green, blue = channels(images)  # a sum over the last axis takes 16 times as long on a CPU
    return (0.299 * red + 0.587 * green + 0.114 * blue)[..., None]


def _away(images: jax.Array, origin: jax.Array, factor: jax.Array) -> jax.Array:
    return origin + factor[:, None, None, None] * (images - origin)


def adjust_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Return x with its hue turned, saturation and value of the HSV model kept.

    With v = max(x), c = v - min(x) and hue h in [0, 6), the channels are v - c max(0, min(k, 4 - k, 1)) for
    k = (h + n) mod 6, n = 5, 3, 1.
    """
    red, green, blue = channels(images)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1)
    of_green, of_blue = 2 + (blue - red) / divisor, 4 + (red - green) / divisor
    sixths = jnp.where(value == red, (green - blue) / divisor, jnp.where(value == green, of_green, of_blue))

    def channel(number: int) -> jax.Array:
        turned = sixths + 6 * turns[:, None, None] + number
        distance = turned - 6 * jnp.floor(turned / 6)
        return value - chroma * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], -1)


# ---------------------------------------------------------------- noise


def gaussian_noise(std: float = 0.05) -> Augmentation:
    """Add independent normal noise of deviation `std`, at least 0, to every value.

    The noise is a quantile of the normal distribution, up to 4.3 deviations, at a random number of 16 bits: images have
    eight bits, and random bits cost most of the time.
    """
    check_range("std", std, 0)

    def noisy(key: jax.Array, sample: Sample) -> Sample:
        uniform = (_bits16(key, sample.images.shape).astype(jnp.float32) + 0.5) / 2**15 - 1
        noise = lax.erf_inv(uniform) * (std * np.sqrt(2).astype(np.float32))
        return change_images(sample, lambda images: images + noise)

    return noisy


def salt_and_pepper(share: float = 0.02) -> Augmentation:
    """Turn a pixel white with probability share / 2, and black with the same probability, share 0 to 1.

    The probability is rounded to one of 65,536 levels.
    """
    check_range("share", share, 0, 1)
    level = round(share / 2 * 2**16)

    def noisy(key: jax.Array, sample: Sample) -> Sample:
        drawn = _bits16(key, (*sample.images.shape[:3], 1)).astype(jnp.int32)
        salted = jnp.where(drawn >= 2**16 - level, 1, sample.images)
        return change_images(sample, lambda _: jnp.where(drawn < level, 0, salted))

    return noisy


def _bits16(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint16: two from each word, because `jax.random.bits` takes as long for 16 bits as for 32."""
    count = int(np.prod(shape))
    words = jax.random.bits(key, (-(-count // 2),), jnp.uint32)
    return lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:count].reshape(shape)


# ---------------------------------------------------------------- holes


def cutout(size: int = 8, fill: float = 0.5) -> Augmentation:
    """Fill a square whose centre is uniform in the image; it may reach over the border.

    DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with cutout": 16 pixels for
    CIFAR-10, filled with the mean of the images. Boxes, masks and keypoints stay as they are.

    Args:
        size: side of the square in pixels, at least 1.
        fill: value in [0, 1].

    Raises:
        UserError: an argument is out of range.
    """
    check_whole("size", size, 1)
    check_range("fill", fill, 0, 1)

    def augment(key: jax.Array, sample: Sample) -> Sample:
        count, height, width, _ = sample.images.shape
        corner = jax.random.randint(key, (count, 2), 0, jnp.asarray([[height, width]])) - size // 2
        hole = inside(corner, corner + size, (height, width))[..., None]
        return change_images(sample, lambda images: jnp.where(hole, fill, images))

    return augment


def inside(low: jax.Array, high: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Return whether the pixels (N, *size) lie in the rectangles from low to before high, (N, 2) each, (y, x)."""
    places = (np.arange(n)[None] for n in size)
    rows, columns = ((low[:, k, None] <= at) & (at < high[:, k, None]) for k, at in enumerate(places))
    return rows[:, :, None] & columns[:, None]
