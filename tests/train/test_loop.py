"""Training learns, is the same bits however it is interrupted, and the same numbers on any number of devices."""

import contextlib
import dataclasses
import io
import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cnnjax import nn, runs, tasks, train
from cnnjax.data import Labelled, Split, Stream, epoch_order, fingerprint
from cnnjax.errors import RunError, UserError
from cnnjax.runs import processes
from cnnjax.runs.metrics import read_rows
from cnnjax.train import step as train_step


class Small(nn.Module):
    """Everything that carries state: batch statistics, dropout, convolution, pooling."""

    def __init__(self, rngs):
        self.conv = nn.Conv(3, 8, 3, rngs=rngs)
        self.norm = nn.BatchNorm(8)
        self.pool = nn.MaxPool(2)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2, rngs=rngs)
        self.dense = nn.Linear(72, 4, rngs=rngs)

    def __call__(self, x):
        x = self.pool(nnx.relu(self.norm(self.conv(x))))
        return self.dense(self.dropout(self.flatten(x)))


class Lookalike(Small):
    """Of the same parameters, but another function of them."""

    def __call__(self, x):
        x = self.pool(nnx.gelu(self.norm(self.conv(x))))
        return self.dense(self.dropout(self.flatten(x)))


class Plain(nn.Module):
    """No randomness and no statistics, so that replicas compute exactly what one device does."""

    def __init__(self, rngs):
        self.conv = nn.Conv(3, 8, 3, rngs=rngs)
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(288, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.flatten(nnx.relu(self.conv(x))))


def images(count, seed=0):
    """Four classes: which quarter of the image is bright."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 4
    pictures = rng.integers(0, 100, (count, 8, 8, 3), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        top, left = divmod(int(label), 2)
        picture[4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 100
    return Split(pictures, labels)


class Encoded:
    """The same images as PNG files, for a stream."""

    def __init__(self, split, broken=()):
        self.split, self.broken = split, broken

    def __len__(self):
        return self.split.size

    def name(self, index):
        return str(index)

    def read(self, index):
        if index in self.broken:
            raise OSError("broken")
        png = io.BytesIO()
        Image.fromarray(self.split.images[index]).save(png, "PNG")
        return {"image": png.getvalue(), "label": int(self.split.labels[index])}


def changed_at(split, name, index):
    """The same examples, but for one image or label if there are so many."""
    arrays = {key: array.copy() for key, array in split.arrays.items()}
    arrays[name][index : index + 1] ^= 1
    return Split(**arrays)


def streamed(split):
    return Stream(Encoded(split), Labelled((8, 8, 3), 4), 0, split.size)


TASK = tasks.Classification()


def fit(path, parallel, model=Small, epochs=3, source=lambda split: split, task=TASK, **options):
    names = {field.name for field in dataclasses.fields(train.Recipe)}
    chosen = {"lr": 1e-2, "epochs": epochs, "batch_size": 16, "seed": 1}
    chosen |= {name: options.pop(name) for name in names & options.keys()}
    settings = {"run": runs.Run(path, "test").part("small"), "parallel": parallel} | options
    splits = source(images(72)), source(images(20, 1))
    return train.fit(model(nnx.Rngs(0)), task, train.Recipe(**chosen), *splits, **settings)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed")
    return fit(path, train.Parallel(devices=jax.local_devices()[:1])), path


def test_training_learns(undisturbed):
    result, _ = undisturbed
    assert result.history["train/loss"][-1] < 0.5 * result.history["train/loss"][0]
    assert result.history["validation/accuracy"][-1] > 0.9


def test_every_image_counts_once_in_an_epoch(undisturbed):
    result, _ = undisturbed
    assert float(result.state.sums["count"]) == 72  # in batches of 16: the last step has 8


def test_a_stream_trains_to_the_same_bits_as_data_in_memory(undisturbed, tmp_path, one_device):
    whole, _ = undisturbed
    result = fit(tmp_path, one_device, source=streamed)
    assert train.tree_sha256(result.state.params) == train.tree_sha256(whole.state.params)
    assert result.history["validation/loss"] == whole.history["validation/loss"]


def test_a_step_of_which_no_image_can_be_read_learns_nothing(monkeypatch, tmp_path, one_device):
    """As the last step of an epoch may be, which has few images: 0 of them is no reason to stop."""
    rest = epoch_order(1, 0, 72, 16)[0][-1, :8]

    def source(split):
        broken = rest if split.size == 72 else []
        return dataclasses.replace(streamed(split), source=Encoded(split, broken), skip_bad=True)

    result = fit(tmp_path, one_device, epochs=1, source=source)
    assert float(result.state.sums["count"]) == 64
    assert np.isfinite(result.history["train/loss"]).all()


def test_there_must_be_images_to_judge_by(tmp_path, one_device):
    with pytest.raises(UserError, match="no images to evaluate the network on"):
        fit(tmp_path, one_device, source=lambda split: split if split.size == 72 else split.slice(0, 0))


def test_few_steps_are_handed_out_before_they_are_done(monkeypatch, tmp_path, one_device):
    handed_out, waited = [], []
    split = images(72)
    monkeypatch.setattr(train_step.jax, "block_until_ready", lambda carry: waited.append(len(handed_out)))
    step = lambda carry, constants, batch: carry + batch.weights.sum()  # noqa: E731
    indices, weights = np.zeros((20, 16), int), np.ones((20, 16), np.float32)
    for _ in train_step.run_over(step, split, one_device)(jnp.zeros(()), (), indices, weights):
        handed_out.append(1)
    assert max(np.diff([0, *waited, len(handed_out)])) <= train_step.STEPS_AHEAD


def test_the_next_batch_is_placed_before_steps_are_waited_for(one_device, monkeypatch):
    happened = []

    class Watched(train.Parallel):
        def split(self, batch, axis=0):
            happened.append("batch")
            return super().split(batch, axis)

    monkeypatch.setattr(train_step.jax, "block_until_ready", lambda carry: happened.append("wait"))
    step = lambda carry, constants, batch: carry + batch.weights.sum()  # noqa: E731
    count = train_step.STEPS_AHEAD + 1
    indices, weights = np.zeros((count, 16), int), np.ones((count, 16), np.float32)
    run = train_step.run_over(step, images(72), Watched(devices=one_device.devices))
    *_, (_, last) = (happened.append("step") or done for done in run(jnp.zeros(()), (), indices, weights))
    assert happened == ["batch", "step"] * train_step.STEPS_AHEAD + ["batch", "wait", "step"]
    assert float(last) == weights.sum()


class StopAfter(train.Callback):
    """Sends a signal after some steps, and counts them."""

    def __init__(self, steps=None):
        self.steps, self.done = steps, 0

    def on_step(self, step, state):
        self.done += 1
        if self.done == self.steps:
            self.stop()

    def stop(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("steps", [1, 4, 5, 7, 14])
def test_a_stopped_run_resumes_to_the_same_bits(steps, undisturbed, tmp_path, one_device):
    whole, path = undisturbed
    with pytest.raises(runs.Interrupted) as stop:
        fit(tmp_path, one_device, callbacks=[StopAfter(steps)])
    assert (stop.value.signum, stop.value.saved) == (signal.SIGTERM, True)
    at = max(int(state.name) for state in (tmp_path / "checkpoints" / "small").iterdir())
    assert at in (steps, steps + 1)
    rest = StopAfter()
    resumed = fit(tmp_path, one_device, callbacks=[rest])
    assert rest.done == 15 - at  # it resumed, and did not start again
    assert train.tree_sha256(resumed.state) == train.tree_sha256(whole.state)

    def values(folder):
        rows = read_rows(folder / "metrics.jsonl")
        return [row for row in rows if not row["name"].endswith(("second", "seconds", "step_ms"))]

    assert values(tmp_path) == values(path)


def test_without_a_command_around_it_a_stop_says_how_to_go_on_and_ends_without_a_trace(tmp_path, one_device, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, one_device, callbacks=[StopAfter(1)], run=None)
    assert stop.value.code == 143
    said = capsys.readouterr().err
    assert re.search(r"stopped; the [12] steps done are lost: give `fit` a run, as in `run=Run\(path\)`", said)
    with pytest.raises(SystemExit):
        fit(tmp_path, one_device, callbacks=[StopAfter(1)])
    said, where = capsys.readouterr().err, re.escape(str(tmp_path / "checkpoints" / "small"))
    assert re.search(f"stopped; the state after step [12] is saved in {where}. The same training in the same run", said)
    with runs.raised_signals(), pytest.raises(SystemExit):
        fit(tmp_path / "other", one_device, callbacks=[StopAfter(1)])
    assert "stopped;" not in capsys.readouterr().err  # the command says it in its own words


def test_a_stop_says_that_its_state_could_not_be_saved(monkeypatch, tmp_path, one_device):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(runs.Interrupted) as stop:
        fit(tmp_path, one_device, callbacks=[StopAfter(7)])
    assert not stop.value.saved


def test_a_state_is_saved_within_an_epoch_when_it_is_due(undisturbed, monkeypatch, tmp_path, one_device):
    saved, save = [], train.Checkpoints.save
    monkeypatch.setattr(train.Checkpoints, "save", lambda *args: saved.append(int(args[1].step)) or save(*args))
    run = runs.Run(tmp_path, "test", save_every=1e-9).part("small")
    whole, _ = undisturbed
    result = fit(tmp_path, one_device, run=run)
    assert saved == list(range(1, 16))
    assert train.tree_sha256(result.state) == train.tree_sha256(whole.state)


def test_a_finished_training_is_read_back(undisturbed):
    whole, path = undisturbed
    again = fit(path, train.Parallel(devices=jax.local_devices()[:1]))
    assert train.tree_sha256(again.state.params) == train.tree_sha256(whole.state.params)
    assert again.history == whole.history


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("one"), train.Parallel(devices=jax.local_devices()[:1]), Plain)


@pytest.mark.parametrize(("first", "then"), [(("shard_map", 8), ("pmap", 1)), (("pmap", 1), ("shard_map", 8))])
def test_a_state_saved_on_some_devices_resumes_on_others(first, then, tmp_path, on_one_device):
    whole = on_one_device
    first, then = (train.Parallel(mode, jax.local_devices()[:count]) for mode, count in (first, then))
    with pytest.raises(runs.Interrupted):
        fit(tmp_path, first, Plain, callbacks=[StopAfter(7)])
    moved = fit(tmp_path, then, Plain)
    for a, b in zip(jax.tree.leaves(whole.state.params), jax.tree.leaves(moved.state.params), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * float(jnp.abs(a).max()))
    np.testing.assert_allclose(moved.history["train/loss"], whole.history["train/loss"], rtol=1e-5)


@pytest.mark.parametrize("mode", train.MODES)
@pytest.mark.parametrize("count", [2, *(pytest.param(count, marks=pytest.mark.published) for count in (4, 8))])
def test_replicas_end_with_the_parameters_of_one_device(mode, count, tmp_path, on_one_device):
    one = on_one_device
    many = fit(tmp_path, train.Parallel(mode, jax.local_devices()[:count]), Plain)
    for a, b in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(many.state.params), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * float(jnp.abs(a).max()))
    np.testing.assert_allclose(many.history["train/loss"], one.history["train/loss"], rtol=1e-5)
    assert many.history["validation/accuracy"] == one.history["validation/accuracy"]


@pytest.mark.parametrize("mode", train.MODES)
def test_batch_statistics_are_averaged_over_replicas(mode, tmp_path):
    result = fit(tmp_path, train.Parallel(mode, jax.local_devices()[:4]))
    assert result.history["validation/accuracy"][-1] > 0.9
    assert result.state.model_state["norm"]["mean"].shape == (8,)


@pytest.mark.parametrize("mode", train.MODES)
def test_an_epoch_as_one_program_is_the_loop_of_steps(mode, tmp_path, one_device):
    steps = fit(tmp_path / "steps", one_device, Plain, epochs=2)
    whole = train.Parallel(mode, jax.local_devices()[:2], epoch_program=True)
    program = fit(tmp_path / "program", whole, Plain, epochs=2)
    for a, b in zip(jax.tree.leaves(steps.state.params), jax.tree.leaves(program.state.params), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def test_evaluation_counts_every_image_in_the_confusion_matrix(undisturbed, one_device):
    result, _ = undisturbed
    evaluation = train.evaluate(result.network, result.state, TASK, images(20, 1), parallel=one_device)
    confusion = evaluation.sums["confusion"]
    np.testing.assert_array_equal(confusion.sum(1), [5, 5, 5, 5])
    assert evaluation.figures["accuracy"] == pytest.approx(np.trace(confusion) / 20)


def test_floats_reach_a_network_as_they_are():
    numbers = np.arange(256, dtype=np.uint8)
    for kind in (np.float32, np.float64):
        floats = jnp.asarray((numbers / 255).astype(kind))
        np.testing.assert_allclose(train_step.scale_pixels(floats), numbers / 255, rtol=1e-6)
    np.testing.assert_allclose(train_step.scale_pixels(jnp.asarray(numbers)), numbers / 255, rtol=1e-6)


class Odd(Plain):
    """Of a shape that no other test has."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.conv, self.dense = nn.Conv(3, 7, 3, rngs=rngs), nn.Linear(252, 4, rngs=rngs)


def test_a_training_holds_one_state_beside_the_parameters_it_began_with(tmp_path, one_device):
    live = []

    class Count(train.Callback):
        def on_step(self, step, state):
            jax.block_until_ready(state)
            live.append(sum(array.shape == (252, 4) for array in jax.live_arrays()))

    fit(tmp_path, one_device, Odd, epochs=2, optimizer="adam", callbacks=[Count()])
    assert set(live[1:5]) == {4}  # of the model; parameters and both moments of the state


def test_the_model_given_stays_usable(tmp_path, one_device):
    model = Plain(nnx.Rngs(0))
    fit(tmp_path, one_device, lambda rngs: model, epochs=1)
    assert jnp.isfinite(model(jnp.ones((1, 8, 8, 3)))).all()


def test_a_batch_larger_than_the_data_is_refused(tmp_path, one_device):
    with pytest.raises(UserError, match="a batch of 100 images is larger than the 72 images"):
        fit(tmp_path, one_device, batch_size=100)


def test_a_batch_that_devices_cannot_share_is_refused(tmp_path):
    with pytest.raises(UserError, match="a batch of 15 images cannot be split over 2 devices"):
        fit(tmp_path, train.Parallel(devices=jax.local_devices()[:2]), batch_size=15)


def test_processes_that_read_different_data_are_told(monkeypatch, tmp_path, one_device):
    """In processes of their own options are compared; here the other one's data are other images, of the same size."""
    told = []

    def exchange(value):
        told.append(value)
        return [value, value | {"training data": fingerprint(images(72, seed=5))}]

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "exchange", exchange)
    message = (
        r"do not agree \(training data: '72 images of 8x8x3 that begin with (\w{8})' in process 0, .* (?!\1)\w{8}' in"
    )
    with pytest.raises(UserError, match=message):
        fit(tmp_path, one_device)
    assert told[0]["validation data"].startswith("20 images of 8x8x3")


def test_a_clock_that_goes_backwards_changes_nothing(undisturbed, monkeypatch, tmp_path, one_device):
    whole, _ = undisturbed
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(hours))
    result = fit(tmp_path, one_device)
    assert train.tree_sha256(result.state) == train.tree_sha256(whole.state)
    assert result.history["train/loss"] == whole.history["train/loss"]
    assert fit(tmp_path, one_device).history == result.history  # the newest state is found


def test_a_directory_taken_away_ends_training_and_nothing_is_made_in_its_place(tmp_path, one_device, monkeypatch):
    class TakeAway(StopAfter):
        def stop(self):
            (tmp_path / "run").rename(tmp_path / "aside")

    save = train.Checkpoints.save
    monkeypatch.setattr(train.Checkpoints, "save", lambda self, *state: (save(self, *state), self.wait()))
    with pytest.raises(RunError, match=r"run has vanished, or can no longer be read: .*put it back"):
        fit(tmp_path / "run", one_device, callbacks=[TakeAway(7)])
    assert not (tmp_path / "run").exists()


def test_a_trace_that_cannot_be_written_is_reported_and_training_continues(undisturbed, tmp_path, one_device, caplog):
    run = runs.Run(tmp_path, "test", profile=True).part("small")
    run.create()
    (tmp_path / "profile").write_text("in the way")
    result = fit(tmp_path, one_device, run=run, batch_size=8, epochs=2)
    assert np.isfinite(result.history["train/loss"]).all()
    assert "cannot be written" in caplog.text
    (tmp_path / "profile").unlink()
    with contextlib.suppress(RuntimeError):  # JAX before 0.12 holds it open until it is written, and starts no other
        jax.profiler.stop_trace()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.5}, "lr: 0.01 there, 0.5 now"),
        ({"epochs": 1}, "epochs: 3 there, 1 now"),
        ({"seed": 2}, "seed: 1 there, 2 now"),
        ({"model": lambda rngs: Small(nnx.Rngs(9))}, "initial parameters: .* there"),
        ({"model": lambda rngs: Lookalike(rngs)}, "code of the network: .* there"),
        ({"source": lambda split: split.slice(0, split.size - 1)}, "training data: '72 images .* there, '71 images"),
        ({"source": lambda split: changed_at(split, "images", 71)}, "images of all training data: '"),
        ({"source": lambda split: changed_at(split, "labels", 71)}, "labels of all training data: '"),
        ({"source": lambda split: streamed(changed_at(split, "images", 0))}, r"\(training data: '72 images"),
        ({"task": tasks.Classification(tasks.ClassificationLoss("mse"))}, "task: .*cross-entropy.* there, .*mse.* now"),
    ],
)
def test_a_run_of_another_training_is_refused_and_what_differs_is_named(changed, named, undisturbed, one_device):
    _, path = undisturbed
    with pytest.raises(UserError, match=f"holds another training as 'small' .*{named}"):
        fit(path, one_device, **changed)


def test_labels_that_are_no_class_end_a_training_before_it_begins(one_device):
    split = Split(np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 2, 4], np.int32))
    recipe = train.Recipe(batch_size=4, epochs=1)
    with pytest.raises(UserError, match="4 outputs"):
        train.fit(Small(nnx.Rngs(0)), tasks.Classification(), recipe, split, None, parallel=one_device)


def test_fit_trains_one_seed_and_says_so(tmp_path, one_device):
    with pytest.raises(UserError, match="`seeds` is 3, but `fit` trains one network"):
        fit(tmp_path, one_device, seeds=3)
    assert not list(tmp_path.iterdir())


class Wrong(tasks.Task):
    """Returns as losses what it is given."""

    def __init__(self, losses, **attributes):
        self.given = losses
        vars(self).update(attributes)

    def losses(self, outputs, batch):
        return self.given(outputs)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Wrong(lambda y: {"a": y[:, :1]}), r"arrays \(batch,\), .* of (16|1) images 'a' has shape \((16|1), 1\)"),
        (Wrong(lambda y: {"a": y.mean()}), r"'a' has shape \(\)"),
        (Wrong(lambda y: y.mean(-1)), "must return a dict of arrays"),
        (Wrong(lambda y: {}), r"must return a dict of arrays .* got an empty one"),
        (Wrong(lambda y: {"a": y[:, 0]}, logged=("b",)), "unknown figure, which Wrong.logged names, 'b': there are a"),
        (Wrong(lambda y: {"a": y[:, 0] ** 2}, best="los"), "unknown figure, which Wrong.best names, 'los': did you"),
    ],
)
def test_a_task_that_is_wrong_is_told_what_is_expected(task, message, one_device):
    recipe = train.Recipe(epochs=1, batch_size=16)
    with pytest.raises(UserError, match=message):
        train.fit(Plain(nnx.Rngs(0)), task, recipe, images(72), images(20, 1), parallel=one_device)
