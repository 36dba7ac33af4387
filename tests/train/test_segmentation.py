"""What every task has, of segmentation: devices, seeds, streams, augmentation, and resuming to the same bits."""

import signal

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import runs, tasks, train
from cnnjax.data import VOID, Split, scenes
from cnnjax.errors import UserError
from cnnjax.nn import Conv, Module

TASK = tasks.Segmentation(tasks.SegmentationLoss("cross-entropy+dice", "median-frequency"), tuple("abcdefghijk"))
RECIPE = train.Recipe(epochs=2, batch_size=8, lr=0.05, augment="mirror random-crop:padding=3", l2=1e-4)


class Small(Module):
    """Two convolutions, with logits of the image's size."""

    def __init__(self, rngs):
        self.first = Conv(3, 8, 3, padding=1, rngs=rngs)
        self.second = Conv(8, 11, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


@pytest.fixture(scope="module")
def split():
    made = scenes.generate(20, size=16)
    masks = made.masks.copy()
    masks[:, -1] = VOID
    masks[3] = VOID
    return Split(made.images, masks=masks)


def fitted(split, parallel, recipe=RECIPE, **more):
    return train.fit(Small(nnx.Rngs(0)), TASK, recipe, split, split.slice(0, 12), parallel=parallel, **more)


@pytest.fixture(scope="module")
def whole(split):
    return fitted(split, train.Parallel(devices=jax.local_devices()[:1]))


def test_two_devices_equal_one(split, whole):
    """Without augmentation, of which each device draws its own."""
    plain = train.Recipe(epochs=2, batch_size=8, lr=0.05)
    one, two = (fitted(split, train.Parallel(devices=jax.local_devices()[:count]), plain) for count in (1, 2))
    for first, second in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(two.state.params), strict=True):
        np.testing.assert_allclose(first, second, rtol=2e-4, atol=2e-6)
    evaluated = [
        train.evaluate(whole.network, whole.state, TASK, split, parallel=train.Parallel(devices=jax.devices()[:count]))
        for count in (1, 2)
    ]
    np.testing.assert_array_equal(evaluated[0].sums["confusion"].sum(0), evaluated[1].sums["confusion"].sum(0))
    for name, value in evaluated[0].figures.items():
        np.testing.assert_allclose(evaluated[1].figures[name], value, rtol=1e-5)


class Stop(train.Callback):
    """Ends a training after its first epoch, as a signal does."""

    def on_epoch(self, epoch):
        raise runs.Interrupted(signal.SIGTERM, saved=True)


def test_a_stopped_training_resumes_to_the_same_bits(split, whole, tmp_path, one_device):
    with pytest.raises(runs.Interrupted):
        fitted(split, one_device, run=runs.Run(tmp_path), callbacks=[Stop()])
    resumed = fitted(split, one_device, run=runs.Run(tmp_path))
    assert train.tree_sha256(resumed.state.params) == train.tree_sha256(whole.state.params)
    assert resumed.history["validation/mean_iou"] == whole.history["validation/mean_iou"]


def test_masks_without_any_class_are_refused(split, one_device):
    empty = Split(split.images, masks=np.full_like(split.masks, VOID))
    task = tasks.Segmentation(class_names=TASK.class_names)
    with pytest.raises(UserError, match="no pixel of the masks has a class: all are 255"):
        train.fit(Small(nnx.Rngs(0)), task, RECIPE, empty, None, parallel=one_device)
