"""What evaluation and training report of images is what NumPy computes of each image's logits, counted once."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn, tasks, train
from cnnjax.data import Split
from cnnjax.train import evaluation
from tests.train.test_loop import images

COUNT = 21  # three batches of 8 on one device, two of 16 on two: the last one is filled up
TASK = tasks.Classification()


class Plain(nn.Module):
    """Compiles in no time."""

    def __init__(self, rngs):
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(192, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.flatten(x))


class Normed(nn.Module):
    """Normalises the images' own channels."""

    def __init__(self, rngs):
        self.norm = nn.BatchNorm(3, momentum=0.3)
        self.pool = nn.GlobalAvgPool()
        self.dense = nn.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.pool(self.norm(x)))


@pytest.fixture(scope="module")
def split():
    """Labels that are not evenly spread, so that no confusion is symmetric."""
    return Split(
        images(COUNT).images, np.random.default_rng(1).choice(4, COUNT, p=[0.1, 0.2, 0.3, 0.4]).astype(np.int32)
    )


def expected(model, split):
    """Loss, accuracy and confusion, image by image in double precision."""
    logits = np.asarray(model(split.images.astype(np.float32) / 255), float)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(split.size), split.labels]
    confusion = np.zeros((4, 4))
    for truth, guess in zip(split.labels, logits.argmax(1), strict=True):
        confusion[truth, guess] += 1
    return losses.mean(), np.trace(confusion) / split.size, confusion


@pytest.mark.parametrize(("mode", "devices", "program"), [("pmap", 1, False), ("shard_map", 2, True)])
def test_an_evaluation_counts_every_image_of_every_batch_once(split, monkeypatch, mode, devices, program):
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 8)
    network, state = train.split_model(Plain(nnx.Rngs(0)), train.make_optimizer(train.Recipe(), 1, 1))
    loss, accuracy, confusion = expected(network.merge(state.params, state.model_state), split)
    assert 0 < accuracy < 1
    assert (confusion != confusion.T).any()
    parallel = train.Parallel(mode, jax.local_devices()[:devices], program)
    found = train.evaluate(network, state, TASK, split, parallel=parallel)
    assert found.figures["loss"] == pytest.approx(loss, rel=1e-5)
    assert found.figures["accuracy"] == pytest.approx(accuracy, rel=1e-6)
    np.testing.assert_array_equal(found.sums["confusion"], confusion)


class Gathering(tasks.Classification):
    """Gets the predictions of all images."""

    gathers = True


@pytest.mark.parametrize(("mode", "devices"), [("pmap", 2), ("shard_map", 2)])
def test_figures_and_predictions_come_from_one_pass_over_the_images(split, monkeypatch, mode, devices):
    taken, take = [], Split.take
    monkeypatch.setattr(Split, "take", lambda self, *index: taken.append(index) or take(self, *index))
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 4)
    network, state = train.split_model(Plain(nnx.Rngs(0)), train.make_optimizer(train.Recipe(), 1, 1))
    parallel = train.Parallel(mode, jax.local_devices()[:devices])
    alone = train.evaluate(network, state, TASK, split, parallel=parallel)
    taken.clear()
    found = train.evaluate(network, state, Gathering(), split, parallel=parallel)
    assert len(taken) == 3
    assert found.figures == alone.figures
    np.testing.assert_array_equal(found.sums["confusion"], alone.sums["confusion"])
    right = found.predictions["label"] == found.targets.labels
    assert found.figures["accuracy"] == pytest.approx(np.mean(right), rel=1e-6)


def test_a_training_s_figures_count_every_image_once_though_its_last_batch_is_filled_up(split, one_device):
    """With a rate that changes nothing, they are those of the network that training starts from."""
    model = Plain(nnx.Rngs(0))
    loss, accuracy, _ = expected(model, split)
    recipe = train.Recipe(optimizer="sgd", lr=1e-12, epochs=1, batch_size=8)
    history = train.fit(model, TASK, recipe, split, split.slice(0, 13), parallel=one_device).history
    assert history["train/loss"] == pytest.approx([loss], rel=1e-5)
    assert history["train/accuracy"] == pytest.approx([accuracy], rel=1e-6)
    loss, accuracy, _ = expected(model, split.slice(0, 13))
    assert history["validation/loss"] == pytest.approx([loss], rel=1e-5)
    assert history["validation/accuracy"] == pytest.approx([accuracy], rel=1e-6)


def test_running_statistics_are_the_mean_of_every_replica_s_own():
    """Each replica's images are brighter than those before, so that none has the statistics of another."""
    pictures = images(16).images // 4 + np.repeat(np.arange(4, dtype=np.uint8) * 40, 4)[:, None, None, None]
    seen = (pictures / 255).reshape(4, -1, 3)
    parallel = train.Parallel(devices=jax.local_devices()[:4])
    step = train.compile_step(Normed(nnx.Rngs(0)), TASK, train.Recipe(optimizer="sgd", batch_size=16), parallel)
    batch = Split(pictures, images(16).labels).take(slice(None), np.ones(16, np.float32))
    state = parallel.one_copy(step(step.start(), parallel.split(batch)))
    np.testing.assert_allclose(state.model_state["norm"]["mean"], 0.3 * seen.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(state.model_state["norm"]["var"], 0.7 + 0.3 * seen.var(1, ddof=1).mean(0), rtol=1e-5)


def test_accumulated_steps_learn_from_the_mean_of_their_gradients():
    """Without a rule that forgets the gradient's length, as Adam's does."""
    batch = images(16)
    parallel = train.Parallel(devices=jax.local_devices()[:2])

    def after(batches, accumulate):
        recipe = train.Recipe(optimizer="sgd", lr=2.0, batch_size=batches[0].size, accumulate=accumulate, epochs=1)
        step = train.compile_step(Plain(nnx.Rngs(0)), TASK, recipe, parallel, steps_per_epoch=len(batches))
        state = step.start()
        for part in batches:
            state = step(state, parallel.split(part.take(slice(None), np.ones(part.size, np.float32))))
        return jax.tree.leaves(parallel.one_copy(state).params)

    whole, halves = after([batch], 1), after([batch.slice(0, 8), batch.slice(8, 16)], 2)
    start = jax.tree.leaves(nnx.state(Plain(nnx.Rngs(0)), nnx.Param))
    for ours, theirs, before in zip(halves, whole, start, strict=True):
        assert np.abs(theirs - before).max() > 1e-3
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
