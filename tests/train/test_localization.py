"""What every task has, of localization: devices, streams, augmentation, and resuming to the same bits."""

import signal

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import runs, tasks, train
from cnnjax.data import Split, shapes
from cnnjax.models.detection import Localized
from cnnjax.models.localizer import boxes_of
from cnnjax.nn import Conv, Linear, Module

TASK = tasks.Localization(class_names=tuple("abcdefghij"))
RECIPE = train.Recipe(epochs=2, batch_size=8, lr=0.05, augment="mirror random-crop:padding=3", l2=1e-4)


class Small(Module):
    """A convolution, and a class and a box from the means of its maps."""

    def __init__(self, rngs):
        self.first = Conv(3, 16, 3, stride=2, padding=1, rngs=rngs)
        self.classify = Linear(16 * 4, 10, rngs=rngs)
        self.place = Linear(16 * 4, 4, rngs=rngs)

    def __call__(self, x):
        maps = nnx.relu(self.first(x))
        features = maps.reshape(len(maps), 2, 4, 2, 4, 16).mean((2, 4)).reshape(len(maps), -1)
        return Localized(self.classify(features), boxes_of(self.place(features), x.shape[1:3]), x.shape[1:3])


@pytest.fixture(scope="module")
def split():
    """One object in each image but one, whose place has none."""
    made = shapes.generate(20, size=16)
    labels, boxes = made.labels[:, None].copy(), made.boxes[:, None, [1, 0, 3, 2]] * np.float32(16)
    labels[3], boxes[3] = -1, 0
    return Split(made.images, labels, boxes)


def fitted(split, parallel, recipe=RECIPE, **more):
    return train.fit(Small(nnx.Rngs(0)), TASK, recipe, split, split.slice(0, 12), parallel=parallel, **more)


@pytest.fixture(scope="module")
def whole(split):
    return fitted(split, train.Parallel(devices=jax.local_devices()[:1]))


def test_two_devices_equal_one(split, whole):
    """Without augmentation, of which each device draws its own; one device has the image that does not count."""
    plain = train.Recipe(epochs=2, batch_size=8, lr=0.05)
    one, two = (fitted(split, train.Parallel(devices=jax.local_devices()[:count]), plain) for count in (1, 2))
    for first, second in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(two.state.params), strict=True):
        np.testing.assert_allclose(first, second, rtol=2e-4, atol=2e-6)
    evaluated = [
        train.evaluate(whole.network, whole.state, TASK, split, parallel=train.Parallel(devices=jax.devices()[:count]))
        for count in (1, 2)
    ]
    assert evaluated[0].sums["confusion"].sum() == 19
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
    assert resumed.history["validation/joint_iou"] == whole.history["validation/joint_iou"]
    assert resumed.history["validation/mean_iou"] == whole.history["validation/mean_iou"]
