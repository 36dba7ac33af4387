"""A trained network on disk is that of the best epoch, with averages where a recipe keeps them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import data, interop, models, runs, tasks, train
from cnnjax.train.trained import save, with_state

ABOUT = {
    "model": "resnet20",
    "arguments": {"num_classes": 4, "in_channels": 1},
    "task": "classification",
    "loss": "cross-entropy",
    "classes": list("abcd"),
    "image_size": [8, 8],
    "channels": 1,
}


@pytest.fixture(scope="module")
def state():
    """Of a network with batch statistics, and with averages beside its parameters."""
    model = models.create_model("resnet20", **ABOUT["arguments"])
    step = train.compile_step(model, tasks.Classification(), train.Recipe(ema=0.9))
    return step.network, step.initial


def at(state, number):
    """A state of its own for each step, whose averages are other numbers than the parameters."""

    def moved(tree, by):
        return jax.tree.map(lambda x: x * (1 + by) if x.dtype == jnp.float32 else x, tree)

    params, opt_state = moved(state.params, number / 100), moved(state.opt_state, -number / 100)
    return state._replace(step=jnp.int32(number), params=params, opt_state=opt_state)


def test_what_is_kept_is_the_best_so_far_also_over_a_restart(state, tmp_path):
    _, first = state
    model = models.create_model("resnet20", **ABOUT["arguments"])
    run, task = runs.Run(tmp_path, "train"), tasks.Classification()

    def end(keep, number, accuracy):
        figures = {"validation": {"accuracy": accuracy}}
        keep.on_epoch(train.EpochEnd(number, figures, at(first, number)))
        return json.loads((tmp_path / "model.json").read_text())["epoch"]

    keep = train.KeepBest(model, run, task, ABOUT)
    assert [end(keep, *epoch) for epoch in ((1, 0.2), (2, 0.7), (3, 0.6))] == [1, 2, 2]
    keep = train.KeepBest(model, run, task, ABOUT)
    assert [end(keep, *epoch) for epoch in ((4, 0.65), (5, 0.8))] == [2, 5]
    fifth = at(first, 5)
    averages = train.averaged_params(fifth.opt_state, fifth.params)
    kept = nnx.state(train.load(tmp_path).model, nnx.Param)
    ours, theirs = (jax.tree.leaves(nnx.as_pure(tree)) for tree in (kept, averages))
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert train.tree_sha256(averages) != train.tree_sha256(fifth.params)


def test_the_best_state_is_that_of_the_best_epoch(state, tmp_path):
    network, first = state
    run = runs.Run(tmp_path, "train")
    checkpoints = train.Checkpoints(run.checkpoints)
    for number, score in ((1, 0.3), (2, 0.8), (3, 0.5)):
        checkpoints.save(at(first, number), score)
    checkpoints.close()
    best = train.best_state(train.Fit(network, at(first, 3), {}), run)
    assert train.tree_sha256(best) == train.tree_sha256(at(first, 2))
    empty = runs.Run(tmp_path / "empty", "train")
    assert int(train.best_state(train.Fit(network, at(first, 3), {}), empty).step) == 3


def test_the_model_of_a_fit_is_what_evaluate_judges(state):
    network, first = state
    rng = np.random.default_rng(0)
    split = data.Split(rng.integers(0, 256, (6, 8, 8, 1), np.uint8), rng.integers(0, 4, 6).astype(np.int32))
    first = at(first, 9)
    model = train.Fit(network, first, {}).model()
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, split.images / np.float32(255)), np.float64)
    entropy = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), split.labels]
    judged = train.evaluate(network, first, tasks.Classification(), split)
    assert judged.figures["loss"] == pytest.approx(entropy.mean(), rel=1e-4)


def test_images_are_normalised_as_they_were_in_training(state, tmp_path):
    _, first = state
    model = with_state(models.create_model("resnet20", **ABOUT["arguments"]), first)
    mean, std = 0.4, 0.25
    save(tmp_path, model, ABOUT | {"mean": [mean], "std": [std]})
    image = np.random.default_rng(0).random((8, 8, 1), np.float32)
    model.eval()
    expected = nnx.jit(lambda model, x: model(x))(model, (image[None] - mean) / std)
    np.testing.assert_allclose(train.load(tmp_path).predict(image).probabilities, jax.nn.softmax(expected), atol=1e-5)


def test_one_channel_is_taken_and_other_numbers_refused(state, tmp_path):
    _, first = state
    save(tmp_path, with_state(models.create_model("resnet20", **ABOUT["arguments"]), first), ABOUT)
    trained = train.load(tmp_path / "weights.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 1), np.uint8)
    assert trained.predict(images).probabilities.shape == (3, 4)
    with pytest.raises(ValueError, match=r"takes images .height, width, 1., or a batch"):
        trained.predict(np.zeros((20, 30, 3), np.uint8))
    program = tmp_path / "net.stablehlo"
    interop.save_program(trained.model, program, trained.image_shape)
    small = np.stack([trained.fit_image(image) for image in images])
    logits = jax.export.deserialize(bytearray(program.read_bytes())).call(small)
    np.testing.assert_allclose(jax.nn.softmax(logits), trained.predict(images).probabilities, atol=1e-5)


def test_what_cannot_be_exported_is_said(tmp_path):
    class Stubborn(models.Module):
        def __call__(self, x):
            return x.reshape(int(x.shape[0]), -1)  # which a symbolic size has not

    with pytest.raises(ValueError, match=r"Stubborn cannot be written as StableHLO .* choose another format"):
        interop.save_program(Stubborn(), tmp_path / "net", (8, 8, 1))
    assert not list(tmp_path.iterdir())
