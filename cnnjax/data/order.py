"""The order in which a seed shows its examples."""

from collections.abc import Callable

import jax
import numpy as np


def epoch_order(seed: int, epoch: int, count: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which examples the steps of one epoch see, and their weights.

    A pure function of its arguments: every path (host, device, stream) and every resumed run sees the same order.
    The last batch is filled up with the first examples of the epoch at weight 0: every step has the same shape, the
    loss counts each example once, and batch statistics still see real images.

    Args:
        seed: of the run.
        epoch: counted from 0.
        count: number of examples.
        batch_size: examples per step.

    Returns:
        indices int32 (steps, batch_size), weights float32 (steps, batch_size), with steps = ceil(count / batch_size).
    """
    return _in_batches(_drawn(seed, epoch, lambda key: jax.random.permutation(key, count)), batch_size)


def balanced_order(seed: int, epoch: int, classes: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which examples an epoch sees that draws every class equally often, up to one; else as `epoch_order`.

    An epoch has as many draws as there are examples. Of a class with more examples than it has draws a random part is
    drawn, another one every epoch; of one with fewer each example is drawn equally often, up to one. (Weighted random
    draws, as of torch's `WeightedRandomSampler`, have these shares only in the mean.)

    Args:
        seed: of the run.
        epoch: counted from 0.
        classes: int (count,), the class of each example; examples of negative classes are never drawn.
        batch_size: examples per step.

    Raises:
        ValueError: every class is negative.
    """
    present = np.unique(classes[classes >= 0])
    if not len(present):
        raise ValueError("classes has no class: every number in it is negative")
    count = len(classes)
    of_classes = _drawn(seed, epoch, lambda key: jax.random.permutation(jax.random.fold_in(key, 1), len(present)))
    draws = count // len(present) + (of_classes < count % len(present))
    shuffled = _drawn(seed, epoch, lambda key: jax.random.permutation(jax.random.fold_in(key, 2), count))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]  # those without a class come first
    ends = np.searchsorted(classes[by_class], present, "right")
    starts = np.searchsorted(classes[by_class], present, "left")
    chosen = [np.resize(by_class[start:end], n) for start, end, n in zip(starts, ends, draws, strict=True)]
    order = _drawn(seed, epoch, lambda key: jax.random.permutation(key, count))
    return _in_batches(np.concatenate(chosen)[order], batch_size)


def _drawn(seed: int, epoch: int, draw: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """Integers drawn on the host's CPU with threefry, whose numbers are the same on every platform."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(draw(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)), np.int32)


def _in_batches(order: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    steps = -(-len(order) // batch_size)
    indices = np.resize(order, steps * batch_size).reshape(steps, batch_size)
    weights = (np.arange(steps * batch_size) < len(order)).astype(np.float32).reshape(steps, batch_size)
    return indices, weights
