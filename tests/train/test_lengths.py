"""A training that ends early, or goes on with more epochs, is to the bit what it would have been from the start."""

import dataclasses
import math

import numpy as np
import pytest
from flax import nnx

from cnnjax import runs, tasks, train
from cnnjax.errors import UserError
from cnnjax.train.lengths import Patience, lengthened
from cnnjax.train.optimizers import learning_rate
from tests.train.test_loop import TASK, Plain, StopAfter, fit, images
from tests.train.test_multi_seed import together


def ends_at(curve, patience, highest=True):
    """After which epoch Keras's EarlyStopping would end: it waits, and waits anew after a value that is better."""
    best, wait = -math.inf if highest else math.inf, 0
    for epoch, value in enumerate(curve, 1):
        wait += 1
        if value > best if highest else value < best:
            best, wait = value, 0
        if wait >= patience:
            return epoch
    return None


@pytest.mark.parametrize("highest", [True, False])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_training_ends_where_a_counter_of_epochs_without_progress_would_end_it(patience, highest):
    rng = np.random.default_rng(patience)
    for _ in range(50):
        curve = rng.integers(0, 5, 12) / 4  # with ties, which are no progress
        judge = Patience(patience, "figure", highest)
        ends = None
        for epoch, value in enumerate(curve, 1):
            judge.note(epoch, {"validation": {"figure": value}})
            ends = ends or (epoch if judge.is_over(epoch) else None)
        assert ends == ends_at(curve, patience, highest)
    assert not Patience(None, "figure", highest, {1: 1.0, 2: 1.0, 9: 1.0}).is_over(9)


class Falling(tasks.Classification):
    """Whose validation is best after the second epoch, whatever the network does."""

    def summarize(self, figures, sums, predictions=None, targets=None):
        self.calls[0] += 1
        return {**figures, "accuracy": -abs(self.calls[0] - 2.0)}


def falling(calls=0):
    task = Falling()
    object.__setattr__(task, "calls", [calls])  # evaluations of an earlier process
    return task


EARLY = {"epochs": 9, "patience": 2, "model": Plain}  # ends after epoch 4


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four epochs, without patience."""
    one = train.Parallel(devices=train.Parallel().devices[:1])
    return fit(tmp_path_factory.mktemp("four"), one, Plain, epochs=4, task=falling())


def test_an_early_end_is_said_kept_and_recognised(four, tmp_path, one_device, caplog):
    ended = fit(tmp_path, one_device, task=falling(), **EARLY)
    assert "stopped after epoch 4 of 9: validation accuracy was not better for 2 epochs (`patience`)" in caplog.text
    assert len(ended.history["train/loss"]) == 4
    assert train.tree_sha256(ended.state.params) == train.tree_sha256(four.state.params)
    again = fit(tmp_path, one_device, task=falling(), callbacks=[rest := StopAfter()], **EARLY)
    assert rest.done == 0
    assert again.history == ended.history
    assert train.tree_sha256(again.state) == train.tree_sha256(ended.state)


@pytest.mark.parametrize("steps", [7, 15])
def test_a_stopped_training_ends_as_early_as_an_undisturbed_one(steps, four, tmp_path, one_device):
    with pytest.raises(runs.Interrupted):
        fit(tmp_path, one_device, task=falling(), callbacks=[StopAfter(steps)], **EARLY)
    resumed = fit(tmp_path, one_device, task=falling(steps // 5), **EARLY)
    assert train.tree_sha256(resumed.state.params) == train.tree_sha256(four.state.params)
    assert resumed.history["validation/accuracy"] == four.history["validation/accuracy"]


def test_without_a_directory_a_training_ends_as_early(four, tmp_path, one_device):
    ended = fit(tmp_path, one_device, task=falling(), run=None, **EARLY)
    assert train.tree_sha256(ended.state.params) == train.tree_sha256(four.state.params)


def test_more_patience_lets_a_training_go_on(four, tmp_path, one_device):
    fit(tmp_path, one_device, Plain, epochs=4, patience=1, task=falling())  # ends after epoch 3
    longer = fit(tmp_path, one_device, Plain, epochs=4, patience=3, task=falling(3))
    assert train.tree_sha256(longer.state.params) == train.tree_sha256(four.state.params)
    with pytest.raises(UserError, match="patience: 3 there, 2 now"):
        fit(tmp_path, one_device, Plain, epochs=4, patience=2, task=falling(3))


def test_patience_needs_validation_images_and_seeds_of_their_own(tmp_path, one_device):
    with pytest.raises(UserError, match="`patience=2` needs validation images"):
        train.fit(Plain(nnx.Rngs(0)), TASK, train.Recipe(patience=2), images(72), None, parallel=one_device)
    with pytest.raises(UserError, match=r"`patience=2` stops each seed .* choose `vmap_seeds=auto`"):
        together(tmp_path, one_device, patience=2)
    recipe = train.Recipe(patience=2, seeds=2, vmap_seeds="always", batch_size=16)
    with pytest.raises(UserError, match="choose `vmap_seeds=auto`"):
        train.check_training({"plain": lambda seed: Plain(nnx.Rngs(0))}, TASK, recipe, images(72))


# ---------------------------------------------------------------- more epochs


@pytest.mark.parametrize(
    "options",
    [{}, {"schedule": "step", "decay_epochs": 1.0, "warmup_epochs": 0.5, "ema": 0.9}],
    ids=str,
)
def test_a_finished_training_goes_on_with_more_epochs_to_the_same_bits(options, tmp_path, one_device):
    whole = fit(tmp_path / "whole", one_device, Plain, epochs=3, **options)
    fit(tmp_path / "grown", one_device, Plain, epochs=2, **options)
    grown = fit(tmp_path / "grown", one_device, Plain, epochs=3, callbacks=[rest := StopAfter()], **options)
    assert rest.done == 5  # the third epoch alone
    assert train.tree_sha256(grown.state) == train.tree_sha256(whole.state)
    assert grown.history["validation/loss"] == whole.history["validation/loss"]
    with pytest.raises(UserError, match="epochs: 3 there, 2 now"):
        fit(tmp_path / "grown", one_device, Plain, epochs=2, **options)


def test_an_interrupted_training_goes_on_with_more_epochs(four, tmp_path, one_device):
    with pytest.raises(runs.Interrupted):
        fit(tmp_path, one_device, Plain, epochs=2, task=falling(), callbacks=[StopAfter(7)])
    grown = fit(tmp_path, one_device, Plain, epochs=4, task=falling(1))
    assert train.tree_sha256(grown.state.params) == train.tree_sha256(four.state.params)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"schedule": "cosine"}, "`schedule=cosine` is stretched over all epochs"),
        ({"schedule": "one-cycle"}, "`schedule=one-cycle` is stretched over all epochs"),
        ({"schedule": "step"}, "`schedule=step` without `decay_epochs` decays after every third of the epochs"),
        ({"schedule": "exponential"}, "`schedule=exponential` without `decay_epochs` decays after every third"),
    ],
)
def test_a_schedule_that_depends_on_the_epochs_is_not_lengthened(options, why):
    there = runs.as_config(train.Recipe(epochs=9, **options))
    with pytest.raises(UserError, match=f"started with `epochs=9`, and {why}"):
        lengthened(there, train.Recipe(epochs=12, **options))


@pytest.mark.parametrize("schedule", train.SCHEDULES)
@pytest.mark.parametrize("more", [{}, {"decay_epochs": 2.0}, {"warmup_epochs": 1.0}], ids=str)
def test_a_schedule_is_lengthened_where_its_first_epochs_stay_the_same(schedule, more):
    if set(more) - set(train.SCHEDULES[schedule].options):
        return
    short, long = (train.Recipe(epochs=epochs, schedule=schedule, lr=0.1, **more) for epochs in (9, 12))
    rates = [[float(learning_rate(one, 4, one.epochs, step)) for step in range(36)] for one in (short, long)]
    try:
        grown = lengthened(runs.as_config(short), long)
    except UserError:
        assert rates[0] != rates[1]
    else:
        assert grown == runs.as_config(long)
        assert rates[0] == rates[1]


def test_what_is_not_the_length_is_never_taken_over():
    there = runs.as_config(train.Recipe(epochs=9, patience=3))
    for now in ({"epochs": 8}, {"epochs": 9, "patience": 2}, {"schedule": "cosine", "epochs": 12, "patience": 3}):
        assert lengthened(there, dataclasses.replace(train.Recipe(patience=3), **now)) == there
    grown = lengthened(there, train.Recipe(epochs=12, lr=0.5))
    assert {name for name in there if there[name] != grown[name]} == {"epochs", "patience"}
