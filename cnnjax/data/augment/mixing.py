"""Augmentations that mix the images of a batch, and their labels with them."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from cnnjax.data.augment.pixels import inside
from cnnjax.data.augment.sample import Augmentation, Sample, check_images, check_range
from cnnjax.errors import UserError

LEAST_ALPHA = 0.01  # below it the share is 0 or 1 in nearly every float32 that is drawn


def mixup(alpha: float = 0.2) -> Augmentation:
    """Blend every image with another of the batch: x = s x_i + (1 - s) x_j, y = s y_i + (1 - s) y_j.

    Zhang et al. 2018, "mixup: beyond empirical risk minimization". The share s is drawn from Beta(alpha, alpha) for
    every image; j is a random permutation of the batch.

    Args:
        alpha: 0.01 or more; 1 is uniform, small values change most images little.

    Raises:
        UserError: `alpha` is out of range, or the sample has no labels, or boxes, masks or keypoints.
    """
    check_range("alpha", alpha, LEAST_ALPHA)

    def augment(key: jax.Array, sample: Sample) -> Sample:
        labels = _labels("mixup", sample, ("boxes", "masks", "instances", "keypoints"))
        count = len(sample.images)
        share_key, order_key = jax.random.split(key)
        share = jax.random.beta(share_key, alpha, alpha, (count,))
        other = jax.random.permutation(order_key, count)
        images = _blend(sample.images, sample.images[other], share[:, None, None, None])
        return replace(sample, images=images, labels=_blend(labels, labels[other], share[:, None]))

    return augment


def cutmix(alpha: float = 1.0) -> Augmentation:
    """Paste a rectangle of another image of the batch into every image, and mix labels by its area.

    Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features". With s
    from Beta(alpha, alpha), the rectangle has sqrt(1 - s) of the height and of the width and a uniform centre; the
    share of the other label is the part of the image that it covers after it is cut off at the border. Masks are
    pasted alike.

    Args:
        alpha: 0.01 or more; 1 is uniform.

    Raises:
        UserError: `alpha` is out of range, or the sample has no labels, or boxes or keypoints.
    """
    check_range("alpha", alpha, LEAST_ALPHA)

    def augment(key: jax.Array, sample: Sample) -> Sample:
        labels = _labels("cutmix", sample, ("boxes", "keypoints"))
        count, height, width, _ = sample.images.shape
        share_key, centre_key, order_key = jax.random.split(key, 3)
        side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, (count, 1)))
        size = jnp.asarray([[height, width]])
        cut = jnp.round(side * size).astype(jnp.int32)
        low = jax.random.randint(centre_key, (count, 2), 0, size) - cut // 2
        pasted = inside(low, low + cut, (height, width))
        other = jax.random.permutation(order_key, count)
        masks = sample.masks
        return replace(
            sample,
            images=jnp.where(pasted[..., None], sample.images[other], sample.images),
            labels=_blend(labels, labels[other], 1 - pasted.mean((1, 2))[:, None]),
            masks=None if masks is None else jnp.where(pasted, masks[other], masks),
        )

    return augment


def _labels(name: str, sample: Sample, unfit: tuple[str, ...]) -> jax.Array:
    check_images(sample)
    given = [field for field in unfit if getattr(sample, field) is not None]
    if given:
        raise UserError(f"{name} mixes images and their labels: it has no meaning for {' and '.join(given)}")
    if sample.labels is None or not jnp.issubdtype(sample.labels.dtype, jnp.floating):
        raise UserError(f"{name} needs labels as probabilities (N, classes): jax.nn.one_hot(labels, classes)")
    return sample.labels


def _blend(own: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    return (share * own + (1 - share) * other).astype(own.dtype)
