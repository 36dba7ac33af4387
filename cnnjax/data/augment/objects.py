"""Augmentations of images with several objects: crops that keep one of them, and smaller copies on a larger ground."""

import jax
import jax.numpy as jnp

from cnnjax.data.augment.geometry import Geometric, Map, Pair, Size, move, window, window_shares
from cnnjax.data.augment.sample import Augmentation, Sample, check_images, check_interval, check_range, labels_boxes
from cnnjax.errors import UserError


def object_crop(scale: Pair = (0.3, 1.0), ratio: Pair = (3 / 4, 4 / 3), p: float = 0.5) -> Augmentation:
    """Cut out a window that holds the centre of an object, and resize it to the image's size, with probability `p`.

    The object is drawn for each image from its boxes (of crowds none), the window's area and shape as in
    `resized_crop`, and its place is uniform among those that hold the centre; without an object it is anywhere. Of the
    other objects those stay whose centres are in the window. After Liu et al. 2016, "SSD: single shot multibox
    detector", which tries windows until one holds enough of an object.

    Args:
        scale: least and largest share of the image's area, above 0 and at most 1.
        ratio: least and largest width / height, above 0.
        p: share of the images that are cropped.

    Raises:
        UserError: an argument is out of range, or the images have no boxes.
    """
    check_interval("scale", scale, 0, 1)
    check_interval("ratio", ratio, 0)
    check_range("p", p, 0, 1)

    def augment(key: jax.Array, sample: Sample) -> Sample:
        check_images(sample)
        if sample.boxes is None:
            raise UserError("object-crop takes images with boxes: without them, take resized-crop")
        count, height, width, _ = sample.images.shape
        area_key, ratio_key, place_key, object_key, chance_key = jax.random.split(key, 5)
        shares = window_shares((area_key, ratio_key), count, (height, width), scale, ratio)
        shares = jnp.where(jax.random.bernoulli(chance_key, float(p), (count,)), shares, 1)
        centre, there = _centres(object_key, sample)
        low = jnp.where(there, jnp.clip(centre - shares, 0, 1 - shares), 0)
        high = jnp.where(there, jnp.minimum(centre, 1 - shares), 1 - shares)
        # Rounding would put a centre at the very border of the window outside of it.
        place = low + (high - low) * jax.random.uniform(place_key, (2, count), minval=0.01, maxval=0.99)
        return move(sample, window(place, shares, (height, width), (height, width)), 0.0)

    return augment


def _centres(key: jax.Array, sample: Sample) -> tuple[jax.Array, jax.Array]:
    """Centres (y, x), (2, N) in units of the image, of an object of every image, and whether it has one (N,)."""
    height, width = sample.images.shape[1:3]
    boxes = jnp.asarray(sample.boxes)
    objects = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    if sample.labels is not None and labels_boxes(sample):
        objects &= sample.labels >= 0
    chosen = jnp.argmax(jnp.where(objects, jax.random.uniform(key, objects.shape), -1), axis=1)
    box = jnp.take_along_axis(boxes, chosen[:, None, None], axis=1)[:, 0]
    return jnp.stack([(box[:, 1] + box[:, 3]) / 2 / height, (box[:, 0] + box[:, 2]) / 2 / width]), objects.any(1)


def zoom_out(scale: Pair = (0.5, 1.0), p: float = 0.5, fill: float = 0.5) -> Geometric:
    """Shrink by a factor uniform in `scale`, above 0 and at most 1, to a uniform place, with probability `p`.

    Liu et al. 2016, "SSD: single shot multibox detector", so get small objects, with factors from 1/4. Pixels are read
    without antialiasing, so that factors below 1/2 skip some.
    """
    check_interval("scale", scale, 0, 1)
    check_range("p", p, 0, 1)

    def draw(key: jax.Array, count: int, size: Size) -> Map:
        scale_key, place_key, chance_key = jax.random.split(key, 3)
        drawn = jax.random.uniform(scale_key, (count,), minval=scale[0], maxval=scale[1])
        factor = jnp.where(jax.random.bernoulli(chance_key, float(p), (count,)), drawn, 1)
        room = jax.random.uniform(place_key, (2, count)) * (1 - factor)[None]
        return window(-room / factor[None], jnp.stack([1 / factor, 1 / factor]), size, size)

    return Geometric(draw, fill)
