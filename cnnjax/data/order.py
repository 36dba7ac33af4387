"""The order in which a seed shows its examples."""

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
    # Drawn on the host's CPU with threefry, whose numbers are the same on every platform.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)
        order = np.asarray(jax.random.permutation(key, count), np.int32)
    steps = -(-count // batch_size)
    indices = np.resize(order, steps * batch_size).reshape(steps, batch_size)
    weights = (np.arange(steps * batch_size) < count).astype(np.float32).reshape(steps, batch_size)
    return indices, weights
