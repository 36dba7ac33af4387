"""Classes that have few images: drawn as often as the others, or weighed in the loss as torch weighs them."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import runs, tasks, train
from cnnjax.data import Split, balanced_order
from cnnjax.errors import UserError
from tests.train.test_loop import Encoded, Plain, StopAfter, fit, images, streamed
from tests.train.test_recipe import batch_of

COUNTS = (40, 20, 9, 3)  # of the classes
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4, dtype=np.int32), COUNTS))
BALANCED = {"sampling": "balanced", "epochs": 2, "model": Plain}


def uneven(split):
    return dataclasses.replace(split, labels=LABELS) if split.size == 72 else split


def as_stream(split):
    split = uneven(split)
    return streamed(split)


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("size", [72, 70, 5])
def test_every_class_is_drawn_equally_often_and_its_images_too(size):
    for seed in range(4):
        check_draws(LABELS[:size], *balanced_order(seed, 1, LABELS[:size], 16))


def check_draws(classes, indices, weights):
    size = len(classes)
    drawn = indices.ravel()[weights.ravel() > 0]
    assert drawn.size == size
    present, counts = np.unique(classes[drawn], return_counts=True)
    assert set(present) == set(classes)
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == size
    for label in present:
        often = collections.Counter(drawn[classes[drawn] == label].tolist())
        each = [often[index] for index in np.flatnonzero(classes == label)]
        assert max(each) - min(each) <= 1


def test_an_order_by_classes_is_of_its_seed_and_epoch_and_mixes_the_classes():
    orders = {(seed, epoch): balanced_order(seed, epoch, LABELS, 16)[0] for seed in range(2) for epoch in range(2)}
    assert all(np.array_equal(balanced_order(*key, LABELS, 16)[0], order) for key, order in orders.items())
    assert len({order.tobytes() for order in orders.values()}) == 4
    first = LABELS[orders[0, 0][0]]
    assert len(set(first.tolist())) == 4
    of_the_large_class = [set(order[LABELS[order] == 0]) for order in orders.values()]  # 18 of 40, each epoch others
    assert len(set.union(*of_the_large_class)) > 25


def test_images_without_a_class_are_never_drawn():
    classes = np.where(np.arange(72) % 5, LABELS, -1)
    drawn = balanced_order(0, 0, classes, 16)[0]
    assert (classes[drawn] >= 0).all()
    with pytest.raises(ValueError, match="has no class"):
        balanced_order(0, 0, np.full(4, -1), 2)
    task = tasks.Classification(tasks.ClassificationLoss(ignore_index=2))
    np.testing.assert_array_equal(task.classes_of(uneven(images(72))), np.where(LABELS == 2, -1, LABELS))


def test_a_stream_draws_the_same_and_a_stopped_training_resumes_to_the_same_bits(tmp_path, one_device):
    whole = fit(tmp_path / "memory", one_device, source=uneven, **BALANCED)
    with pytest.raises(runs.Interrupted):
        fit(tmp_path / "stream", one_device, source=as_stream, callbacks=[StopAfter(7)], **BALANCED)
    resumed = fit(tmp_path / "stream", one_device, source=as_stream, **BALANCED)
    assert train.tree_sha256(resumed.state) == train.tree_sha256(whole.state)
    shuffled = fit(tmp_path / "shuffled", one_device, source=uneven, **BALANCED | {"sampling": "shuffled"})
    assert train.tree_sha256(shuffled.state.params) != train.tree_sha256(whole.state.params)


def test_a_stream_knows_its_labels_without_decoding():
    split = uneven(images(72))
    stream = dataclasses.replace(as_stream(split), source=Unread(split))
    np.testing.assert_array_equal(stream.slice(10, 30).labels, LABELS[10:30])


class Unread(Encoded):
    """Names the labels, and cannot be read."""

    @property
    def targets(self):
        return self.split.labels.tolist()

    def read(self, index):
        raise AssertionError("an image is decoded")


def test_what_has_no_classes_is_not_sampled_by_them(one_device):
    recipe = train.Recipe(sampling="balanced", batch_size=16)
    with pytest.raises(UserError, match="Reconstruction gives examples no class: choose `sampling='shuffled'`"):
        train.fit(Plain(nnx.Rngs(0)), tasks.Reconstruction(), recipe, images(72), None, parallel=one_device)
    unlabelled = Split(images(72).images)
    with pytest.raises(UserError, match="need a label for each training image"):
        train.fit(Plain(nnx.Rngs(0)), tasks.Classification(), recipe, unlabelled, None, parallel=one_device)


# ---------------------------------------------------------------- class weights


WEIGHTS = (0.5, 1.0, 2.0, 4.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_step_with_class_weights_has_torchs_gradients(smoothing, mixed, one_device):
    torch = pytest.importorskip("torch")
    split, model = uneven(images(72)), Plain(nnx.Rngs(0))
    loss = tasks.ClassificationLoss(label_smoothing=smoothing or None, class_weights=WEIGHTS)
    task = tasks.Classification(loss).for_training(split)
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(4), 72).astype(np.float32)
    batch = dataclasses.replace(batch_of(split), labels=shares) if mixed else batch_of(split)
    step = train.compile_step(model, task, train.Recipe(optimizer="sgd", lr=1.0), one_device)
    after = one_device.one_copy(step(step.start(), one_device.split(batch)))
    found = jax.tree.map(lambda before, now: np.asarray(before - now), step.initial.params, after.params)

    pictures = torch.tensor(split.images / 255, dtype=torch.float64).permute(0, 3, 1, 2)
    kernel, bias, dense, last = (
        torch.tensor(np.asarray(array), dtype=torch.float64, requires_grad=True)
        for array in (model.conv.kernel[...], model.conv.bias[...], model.dense.kernel[...], model.dense.bias[...])
    )
    maps = torch.nn.functional.conv2d(pictures, kernel.permute(3, 2, 0, 1), bias).relu()
    logits = maps.permute(0, 2, 3, 1).flatten(1) @ dense + last
    targets = torch.tensor(shares, dtype=torch.float64) if mixed else torch.tensor(LABELS, dtype=torch.int64)
    criterion = torch.nn.CrossEntropyLoss(
        torch.tensor(WEIGHTS, dtype=torch.float64), reduction="none", label_smoothing=smoothing
    )
    losses = criterion(logits, targets)
    losses.mean().backward()
    assert float(after.sums["loss"] / after.sums["count"]) == pytest.approx(losses.mean().item(), rel=1e-5)
    ours = (found["conv"]["kernel"], found["conv"]["bias"], found["dense"]["kernel"], found["dense"]["bias"])
    for mine, theirs in zip(ours, (kernel, bias, dense, last), strict=True):
        np.testing.assert_allclose(mine, theirs.grad.numpy(), rtol=1e-3, atol=1e-5)


def test_balanced_weights_are_scikit_learns():
    utils = pytest.importorskip("sklearn.utils.class_weight")
    task = tasks.Classification(tasks.ClassificationLoss(class_weights="balanced"))
    expected = utils.compute_class_weight("balanced", classes=np.arange(4), y=LABELS)
    np.testing.assert_allclose(task.for_training(uneven(images(72))).class_weights, expected)
    np.testing.assert_allclose(task.for_training(as_stream(images(72))).class_weights, expected)
    ignoring = tasks.Classification(tasks.ClassificationLoss(class_weights="balanced", ignore_index=3))
    known = LABELS[LABELS != 3]
    expected = utils.compute_class_weight("balanced", classes=np.arange(3), y=known)
    np.testing.assert_allclose(ignoring.for_training(uneven(images(72))).class_weights, expected)


def test_class_weights_change_training_and_no_figure_of_an_evaluation(tmp_path, one_device):
    task = tasks.Classification(tasks.ClassificationLoss(class_weights="balanced"))
    weighed = fit(tmp_path / "weighed", one_device, source=uneven, task=task, model=Plain, epochs=1)
    plain = fit(tmp_path / "plain", one_device, source=uneven, model=Plain, epochs=1)
    assert train.tree_sha256(weighed.state.params) != train.tree_sha256(plain.state.params)
    judged = [
        train.evaluate(weighed.network, weighed.state, one, images(20, 1), parallel=one_device).figures["loss"]
        for one in (task, tasks.Classification())
    ]
    assert judged[0] == judged[1] == weighed.history["validation/loss"][-1]


@pytest.mark.parametrize(
    ("given", "parsed"),
    [("balanced", "balanced"), ("1 2", (1.0, 2.0)), (("1", "2"), (1.0, 2.0)), ((1, 0.5), (1.0, 0.5)), ("", None)],
)
def test_class_weights_are_a_name_or_numbers(given, parsed):
    assert tasks.ClassificationLoss(class_weights=given).class_weights == parsed


@pytest.mark.parametrize("given", ["even", "1 -1", (0, 0), (float("nan"), 1), "balanced 1"])
def test_other_class_weights_are_refused(given):
    with pytest.raises(UserError, match="`class_weights` must be balanced, or a number for each class"):
        tasks.ClassificationLoss(class_weights=given)


def test_class_weights_that_do_not_fit_are_refused(tmp_path, one_device):
    three = tasks.Classification(tasks.ClassificationLoss(class_weights=(1, 2, 3)))
    with pytest.raises(UserError, match="`class_weights` are 3 numbers, but the network has 4 outputs"):
        fit(tmp_path, one_device, task=three, model=Plain, epochs=1)
    with pytest.raises(UserError, match="`class_weights` is an option of the loss cross-entropy, not of focal"):
        tasks.ClassificationLoss("focal", class_weights="balanced")
    with pytest.raises(UserError, match=r"`class_weights` are 3 numbers, but there are 2 classes .a, b.: give one"):
        dataclasses.replace(three, class_names=("a", "b")).for_training(images(72))
    names = ("a", "b", "c", "d", "e")
    with pytest.raises(UserError, match="there are none of e: add some"):
        tasks.Classification(tasks.ClassificationLoss(class_weights="balanced"), names).for_training(images(72))
