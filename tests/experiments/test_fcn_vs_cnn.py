"""The experiment's claims follow from its summary: they hold for a good one and fail for a bad one."""

import copy

import numpy as np
import pytest
from flax import nnx

from cnnjax import data, nn, runs, train
from cnnjax.data import Split
from cnnjax.train import evaluation
from experiments import fcn_vs_cnn

LECTURE = fcn_vs_cnn.lecture_curves()


def summary_of_the_lecture():
    """A summary whose numbers are the lecture's own."""
    models = {
        name: {
            "params": params,
            "multiply_adds": 0,
            "test_accuracy": fcn_vs_cnn.LECTURE_ACCURACY[name],
            "test_accuracy_by_seed": [fcn_vs_cnn.LECTURE_ACCURACY[name]],
            "step_ms": 10.0,
            "curves": {key: list(values) for key, values in LECTURE[name].items()},
        }
        for name, params in (("lecture-fcn", 8_983_434), ("lecture-cnn", 2_077_130))
    }
    return {"data": {"name": "cifar10", "first_nine": ["cat"] * 9}, "models": models}


def test_the_lecture_s_log_has_twenty_epochs_and_its_printed_ends():
    assert LECTURE["lecture-cnn"]["validation/loss"].shape == (20,)
    assert LECTURE["lecture-cnn"]["train/accuracy"][-1] == pytest.approx(0.9802)
    assert LECTURE["lecture-fcn"]["validation/accuracy"][-1] == pytest.approx(0.4929)
    assert int(np.argmin(LECTURE["lecture-cnn"]["validation/loss"])) + 1 == 5


def test_every_claim_holds_for_the_lecture_s_own_numbers():
    claims = fcn_vs_cnn.claims(summary_of_the_lecture())
    assert {claim.id for claim in claims} == {"A1", "A2", "A3", "A4", "A5", "A6"}
    assert {claim.id for claim in claims if not claim.ok} <= {"A6"}  # the lecture's data set has another order


@pytest.mark.parametrize(
    ("claim", "spoil"),
    [
        ("A3", lambda models: models["lecture-cnn"].update(test_accuracy=0.60)),
        ("A3", lambda models: models["lecture-fcn"].update(test_accuracy=0.55)),
        ("A4", lambda models: models["lecture-cnn"]["curves"].update({"train/accuracy": [0.7] * 20})),
        ("A4", lambda models: models["lecture-cnn"]["curves"].update({"validation/loss": [0.94] * 20})),
        ("A5", lambda models: models["lecture-cnn"].update(params=9_000_000)),
    ],
)
def test_a_claim_fails_where_the_numbers_do_not_bear_it(claim, spoil):
    summary = copy.deepcopy(summary_of_the_lecture())
    spoil(summary["models"])
    assert claim in {row.id for row in fcn_vs_cnn.claims(summary) if not row.ok}


def test_without_a_run_on_cifar10_the_measured_claims_are_open():
    verdicts = {claim.id: claim.verdict for claim in fcn_vs_cnn.claims(None)}
    assert verdicts["A1"] == verdicts["A2"] == "holds"
    assert all(verdicts[name].startswith("not run") for name in ("A3", "A4", "A5", "A6"))


def test_the_table_has_the_deviation_of_several_seeds_as_numpy_has_it():
    summary, accuracies = summary_of_the_lecture(), [0.61, 0.64, 0.70]
    summary["models"]["lecture-cnn"] |= {"test_accuracy": np.mean(accuracies), "test_accuracy_by_seed": accuracies}
    fcn, cnn = fcn_vs_cnn.table(summary).splitlines()[2:]
    assert f"| {np.mean(accuracies):.1%} ± {np.std(accuracies, ddof=1):.1%} (3 seeds) |" in cnn
    assert f"{np.std(accuracies):.1%}" not in cnn  # of a sample, not of all seeds there are
    assert "±" not in fcn


def test_the_table_sets_the_lecture_s_accuracy_beside_ours():
    table = fcn_vs_cnn.table(summary_of_the_lecture())
    assert "66.5%" in table
    assert "49.6%" in table


def test_test_accuracy_is_of_the_test_images_and_the_mean_over_seeds(tmp_path, one_device, monkeypatch):
    """Of networks as they start: each image of the test split, and no other, by NumPy."""
    rng = np.random.default_rng(0)

    def split(count):  # of one colour each, so that a network as it starts tells them apart
        colours = rng.integers(0, 256, (count, 1, 1, 3), np.uint8).repeat(12, 1).repeat(12, 2)
        return Split(colours, rng.integers(0, 3, count, np.int32))

    class Small(nn.Module):  # compiles in no time
        def __init__(self, rngs):
            self.flatten, self.dense = nn.Flatten(), nn.Linear(432, 3, rngs=rngs)

        def __call__(self, x):
            return self.dense(self.flatten(x))

    dataset, begun = data.Dataset("few", "1", ("a", "b", "c"), split(40), split(24), split(12)), []

    def fits(build, task, recipe, training, validation, **_):
        optimizer = train.make_optimizer(recipe, 1, 1)
        for seed in range(recipe.seeds):
            network, state = train.split_model(build(seed), optimizer)
            curves = {f"{split}/{key}": [0.0] for split in ("train", "validation") for key in ("loss", "accuracy")}
            curves |= {"train/step_ms": [1.0], "train/seconds": [1.0]}
            begun.append(network.merge(state.params, state.model_state))
            yield train.Fit(network, state, curves)

    monkeypatch.setattr(train, "fit_seeds", fits)
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 24)
    monkeypatch.setattr(fcn_vs_cnn, "_build", lambda name, dataset, seed: Small(nnx.Rngs(seed)))
    monkeypatch.setattr(fcn_vs_cnn, "_draw", lambda *_: None)
    config = fcn_vs_cnn.Config(data="shapes", seeds=2)
    found = fcn_vs_cnn.run(config, dataset, runs.Run(tmp_path, "fcn-vs-cnn"), one_device)["models"]
    pixels = dataset.test.images.astype(np.float32) / 255
    right = [np.mean(np.asarray(model(pixels)).argmax(1) == dataset.test.labels) for model in begun]
    assert right[0] != right[1]
    for name, accuracies in (("lecture-fcn", right[:2]), ("lecture-cnn", right[2:])):
        assert found[name]["test_accuracy_by_seed"] == pytest.approx(accuracies)
        assert found[name]["test_accuracy"] == pytest.approx(np.mean(accuracies))
