"""Tasks: what the loop sums, gathers and summarises is what a task says of all images, however they are split."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, runs, tasks, train, viz
from cnnjax.data import Labelled, Split
from cnnjax.errors import UserError
from tests.train.test_finite import Fragile
from tests.train.test_loop import Plain, images, streamed


class Ranking(tasks.Classification):
    """Needs the predictions of all images at once: which image each class has its highest score on."""

    gathers = True

    def summarize(self, figures, sums, predictions=None, targets=None):
        best = predictions["scores"].argmax(0)
        right = np.mean(np.asarray(targets.labels)[best] == np.arange(4))
        return {**figures, "right": float(right), "images": len(targets.labels), "first": float(best[0])}


@pytest.mark.parametrize(("mode", "count"), [("shard_map", 1), ("shard_map", 4), ("pmap", 2)])
@pytest.mark.parametrize("source", [lambda split: split, streamed], ids=["memory", "stream"])
def test_predictions_of_all_images_reach_the_summary_in_their_order(mode, count, source):
    network, state = train.split_model(Plain(nnx.Rngs(0)), train.make_optimizer(train.Recipe(), 1, 1))
    model = network.merge(state.params, state.model_state)
    split = images(21)
    logits = np.asarray(model(split.images.astype(np.float32) / 255), np.float64)
    parallel = train.Parallel(mode, jax.local_devices()[:count])
    evaluation = train.evaluate(network, state, Ranking(), source(split), parallel=parallel)
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(evaluation.predictions["scores"], scores, rtol=1e-4)
    np.testing.assert_array_equal(evaluation.predictions["label"], logits.argmax(-1))
    best = scores.argmax(0)
    assert evaluation.figures["images"] == 21
    assert evaluation.figures["first"] == best[0]
    assert evaluation.figures["right"] == np.mean(split.labels[best] == np.arange(4))


def test_confusion_and_accuracy_are_those_of_numpy():
    outputs = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    labels, weights = np.arange(50) % 4, np.float32(np.arange(50) < 40)
    batch = Split(np.zeros((50, 2, 2, 3), np.uint8), labels.astype(np.int32)).take(slice(None), weights)
    measured = tasks.Classification().measure(jnp.asarray(outputs), batch)
    predicted = outputs.argmax(-1)
    expected = np.zeros((4, 4))
    for truth, guess in zip(labels[:40], predicted[:40], strict=True):
        expected[truth, guess] += 1
    np.testing.assert_array_equal(measured["confusion"], expected)
    assert float(measured["accuracy"]) == np.trace(expected)


def test_an_autoencoder_learns_in_the_same_loop(one_device):
    split = Split(np.repeat(images(64).images, 4, 1).repeat(4, 2))  # no labels at all
    recipe = train.Recipe(epochs=4, batch_size=16, lr=2e-3)
    model = models.create_model("conv_autoencoder", code_size=16)
    task = tasks.Reconstruction()
    fit = train.fit(model, task, recipe, split, split.slice(0, 16), parallel=one_device)
    assert fit.history["train/loss"][-1] < 0.7 * fit.history["train/loss"][0]
    evaluation = train.evaluate(fit.network, fit.state, task, split, parallel=one_device)
    x = split.images.astype(np.float64) / 255
    error = np.square(np.asarray(fit.network.merge(*fit.state[1:3])(x.astype(np.float32)), np.float64) - x).mean()
    assert evaluation.figures["loss"] == pytest.approx(error, rel=1e-4)
    assert evaluation.figures["psnr"] == pytest.approx(-10 * np.log10(error), rel=1e-4)


def test_a_classifier_does_not_reconstruct(one_device):
    step = train.compile_step(Plain(nnx.Rngs(0)), tasks.Reconstruction(), train.Recipe(), one_device)
    batch = Split(images(8).images).take(slice(None), np.ones(8, np.float32))
    with pytest.raises(UserError, match=r"outputs of the images' shape \(8, 8, 8, 3\), got \(8, 4\)"):
        step(step.start(), batch)


def test_predictions_become_json_and_figures(tmp_path):
    task = tasks.Classification(class_names=("a", "b", "c", "d"))
    predictions = jax.tree.map(np.asarray, task.decode(jnp.float32([[0, 2, 1, -5], [3, 0, 0, 0]])))
    first, second = json.loads(json.dumps(task.to_json(predictions)))
    assert (first["class"], second["class"]) == ("b", "a")
    assert list(first["scores"]) == ["b", "c", "a", "d"]
    assert sum(first["scores"].values()) == pytest.approx(1, rel=1e-6)
    viz.save(task.draw(images(2).images, predictions), tmp_path / "classes.png")
    pairs = tasks.Reconstruction()
    viz.save(pairs.draw(images(2).images, np.float32(images(2).images) / 255), tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").stat().st_size > 1000
    assert np.shape(pairs.to_json(np.zeros((2, 8, 8, 3)))) == (2, 8, 8, 3)


@pytest.mark.parametrize(("loss", "expected"), [("binary-cross-entropy", 0.731), ("mse", 1.0)])
def test_a_single_output_has_two_scores(loss, expected):
    scores = tasks.Classification(tasks.ClassificationLoss(loss)).decode(jnp.ones((1, 1)))["scores"]
    np.testing.assert_allclose(scores, [[1 - expected, expected]], atol=1e-3)


def test_a_part_of_the_loss_is_logged_by_its_name(one_device):
    class Two(tasks.Classification):
        logged = ("accuracy", "size")

        def losses(self, outputs, batch):
            return super().losses(outputs, batch) | {"size": 0.1 * jnp.square(outputs).mean(-1)}

    recipe = train.Recipe(epochs=1, batch_size=16)
    history = train.fit(Plain(nnx.Rngs(0)), Two(), recipe, images(72), images(20, 1), parallel=one_device).history
    for split in ("train", "validation"):
        assert 0 < history[f"{split}/size"][0] < history[f"{split}/loss"][0]
    parts = history["validation/size"][0] + history["validation/cross-entropy"][0]
    assert parts == pytest.approx(history["validation/loss"][0], rel=1e-5)


def test_without_a_run_rollback_resumes_from_the_state_in_memory(one_device):
    pictures = images(72).images.copy()
    pictures[41] = 0
    recipe = train.Recipe(epochs=2, batch_size=16, lr=1e-2, on_nan="rollback", seed=1)
    data = Split(pictures, images(72).labels)
    fit = train.fit(Fragile(nnx.Rngs(0)), tasks.Classification(), recipe, data, images(20, 1), parallel=one_device)
    assert int(fit.state.step) == 10
    assert np.isfinite(fit.history["train/loss"]).all()


def void(split, every=3):
    """The same images, of which each third has no class."""
    labels = np.where(np.arange(split.size) % every == 0, 255, split.labels).astype(np.int32)
    return Split(split.images, labels), Split(split.images[labels < 255], labels[labels < 255])


@pytest.mark.parametrize(("mode", "count", "loss"), [("shard_map", 1, "cross-entropy"), ("pmap", 2, "mse")])
def test_images_without_a_class_are_neither_learned_from_nor_counted(mode, count, loss):
    task = tasks.Classification(tasks.ClassificationLoss(loss, ignore_index=255))
    parallel = train.Parallel(mode, jax.local_devices()[:count])
    whole, known = void(images(24))
    step = train.compile_step(Plain(nnx.Rngs(0)), task, train.Recipe(optimizer="sgd", lr=0.1), parallel)
    states = [
        parallel.one_copy(step(step.start(), parallel.split(split.take(slice(None), np.ones(split.size, np.float32)))))
        for split in (whole, known)
    ]
    for ours, theirs in zip(*(jax.tree.leaves((state.params, state.sums)) for state in states), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert float(states[0].sums["count"]) == 16
    every, some = (train.evaluate(step.network, states[0], task, split, parallel=parallel) for split in (whole, known))
    assert every.figures == pytest.approx(some.figures, rel=1e-5)
    np.testing.assert_array_equal(every.sums["confusion"], some.sums["confusion"])
    assert every.sums["confusion"].sum() == 16


def test_an_image_without_a_class_is_alike_to_all_in_a_mixture():
    task = tasks.Classification(tasks.ClassificationLoss(ignore_index=-1))
    batch = Split(images(3).images, np.int32([2, -1, 0])).take(slice(None), np.ones(3, np.float32))
    mixed = task.before_augmentation(batch, np.zeros((3, 4))).labels
    np.testing.assert_array_equal(mixed, [[0, 0, 1, 0], [0.25] * 4, [1, 0, 0, 0]])
    single = task.before_augmentation(replace(batch, labels=np.int32([1, -1, 0])), np.zeros((3, 1))).labels
    np.testing.assert_array_equal(single, [[1], [0.5], [0]])


@pytest.mark.parametrize("augment", ["", "mixup"])
def test_labels_may_be_probabilities(augment, one_device):
    task = tasks.Classification(tasks.ClassificationLoss(ignore_index=-1))
    classes = images(8)
    recipe = train.Recipe(optimizer="sgd", lr=0.1, augment=augment)
    step, losses = train.compile_step(Plain(nnx.Rngs(0)), task, recipe, one_device), []
    for split in (classes, Split(classes.images, np.eye(4, dtype=np.float32)[classes.labels])):
        state = step(step.start(), one_device.split(split.take(slice(None), np.ones(8, np.float32))))
        losses.append(float(one_device.one_copy(state).sums["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_one_output_has_nothing_to_compare_in_a_softmax():
    batch = images(2).take(slice(None), np.ones(2, np.float32))
    with pytest.raises(UserError, match=r"cross-entropy compares outputs, .* `loss='binary-cross-entropy'`"):
        tasks.Classification().losses(jnp.zeros((2, 1)), batch)


def test_what_is_no_class_is_in_no_cell_of_the_confusion():
    batch = Split(images(3).images, np.int32([-1, 4, 2])).take(slice(None), np.ones(3, np.float32))
    measured = tasks.Classification().measure(jnp.float32(np.eye(4)[[3, 3, 2]]), batch)
    np.testing.assert_array_equal(measured["confusion"], np.diag([0, 0, 1, 0]))
    assert float(measured["accuracy"]) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 4], r"labels from 0 to 4, but the network has 4 outputs, for labels from 0 to 3: .*`num_classes=5`"),
        (
            [-1, 3],
            r"labels from -1 to 3, but the network has 4 outputs, for labels from 0 to 3: correct the labels, or",
        ),
        ([-1, -1], "labels from -1 to -1"),
        ([255, 7], "labels from 7 to 255"),
    ],
)
def test_labels_that_the_network_has_no_output_for_are_refused_before_training(labels, message, one_device, tmp_path):
    split, model = Split(images(2).images, np.int32(labels)), Plain(nnx.Rngs(0))
    recipe = train.Recipe(epochs=1, batch_size=2)
    with pytest.raises(UserError, match=message):
        train.fit(model, tasks.Classification(), recipe, split, None, parallel=one_device)
    with pytest.raises(UserError, match=message):
        train.fit(model, tasks.Classification(), recipe, images(2), split, parallel=one_device)
    with pytest.raises(UserError, match=message):
        list(train.fit_seeds(lambda seed: Plain(nnx.Rngs(seed)), tasks.Classification(),
                             replace(recipe, seeds=2, vmap_seeds="always"), split, images(2),
                             run=runs.Run(tmp_path, "test"), name="x", parallel=one_device))  # fmt: skip


def test_a_stream_of_more_classes_than_outputs_and_data_without_any_class_are_refused(one_device):
    model, recipe = Plain(nnx.Rngs(0)), train.Recipe(epochs=1, batch_size=2)
    six = replace(streamed(images(2)), reader=Labelled((8, 8, 3), 6))
    with pytest.raises(UserError, match="labels from 0 to 5, but the network has 4 outputs"):
        train.fit(model, tasks.Classification(), recipe, six, None, parallel=one_device)
    none = tasks.Classification(tasks.ClassificationLoss(ignore_index=0))
    with pytest.raises(UserError, match="every label is 0, which `ignore_index` says is no class"):
        train.fit(model, none, recipe, Split(images(2).images, np.zeros(2, np.int32)), None, parallel=one_device)


def test_one_class_alone_is_refused():
    with pytest.raises(UserError, match="the data has one class only, 'red': expected at least two, in a folder each"):
        tasks.Classification(class_names=("red",))
