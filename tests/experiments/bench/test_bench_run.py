"""Whole runs against the peers: what each is given and how its result is read; and that the peers learn."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cnnjax import data
from cnnjax.errors import UserError
from experiments import fcn_vs_cnn
from experiments.bench import peers, timing
from experiments.bench import run as bench_run

EPOCHS = 4


@pytest.fixture(scope="module")
def digits():
    """Digits of 12x12 pixels, the smallest that the networks take: 700 to learn from, 300 to validate, 359 to test."""
    dataset = data.digits(image_size=12)
    training, validation = data.hold_out(dataset.train.first(1000), 0.3)
    return {"training": training, "validation": validation, "test": dataset.test}


@pytest.fixture
def job(tmp_path, digits):
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    peers.save_arrays(arrays, {name: (split.images, split.labels) for name, split in digits.items()})
    return bench_run.Job(fcn_vs_cnn.Config(data="digits", epochs=EPOCHS, seed=3, stream="never"), 10, arrays, tmp_path)


def test_peers_read_the_same_images_scaled_to_one(job, digits):
    arrays = peers.read_arrays(job.arrays)
    assert set(arrays) == set(digits)
    for name, split in digits.items():
        assert arrays[name].images.dtype == np.float32
        np.testing.assert_allclose(arrays[name].images * 255, split.images, rtol=1e-6)
        np.testing.assert_array_equal(arrays[name].labels, split.labels)


def test_keras_learns_and_tells_the_seconds_of_every_epoch(job, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # as the other benchmark's tests, for a process imports Keras once
    pytest.importorskip("keras")
    cnn = peers.WORKLOADS[1].fitted_to((12, 12, 3), 10)._replace(batch_size=32)
    trained = peers.train_keras(cnn, peers.read_arrays(job.arrays), 2, 0)
    assert len(trained.epoch_seconds) == 2
    assert min(trained.epoch_seconds) > 0
    assert trained.test_accuracy > 0.5


def test_torch_learns_in_a_process_of_its_own_that_does_not_import_jax(job, monkeypatch):
    if not importlib.util.find_spec("torch"):
        pytest.skip("torch is not installed")
    (job.folder / "jax.py").write_text("raise ImportError('a peer imports JAX')")
    monkeypatch.syspath_prepend(job.folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # more only wait for each other where tests run side by side
    outcome = bench_run.CONTENDERS["torch"].run(job)
    assert set(outcome.networks) == {"lecture-fcn", "lecture-cnn"}
    for trained in outcome.networks.values():
        assert len(trained.epoch_seconds) == EPOCHS
        assert 0 < sum(trained.epoch_seconds) < outcome.seconds
        assert trained.test_accuracy > 0.5


def test_cnnjax_runs_the_experiment_with_its_decoded_data_and_without_its_compiled_programs(job, monkeypatch):
    def pretend(command, environment, log):
        launch, experiment, *rest = command
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        cache, out = Path(environment["CNNJAX_CACHE_DIR"]), Path(options.pop("--out"))
        assert (Path(launch).name, experiment) == ("launch.py", "fcn-vs-cnn")
        assert options == {"--data": "digits", "--stream": "never", "--epochs": str(EPOCHS), "--seed": "3"}
        assert [path.name for path in cache.iterdir()] == ["splits"]
        assert (cache / "splits").resolve() == (data.cache_dir() / "splits").resolve()
        out.mkdir()
        curves, names = {"train/seconds": [1.0, 2.0]}, ("lecture-fcn", "lecture-cnn")
        networks = {name: {"curves": curves, "test_accuracy": 0.5} for name in names}
        (out / "summary.json").write_text(json.dumps({"models": networks}))
        return 7.0

    monkeypatch.setattr(bench_run, "_time", pretend)
    outcome = bench_run._cnnjax(job)
    assert outcome.seconds == 7.0
    assert {name: len(trained.epoch_seconds) for name, trained in outcome.networks.items()} == {
        "lecture-fcn": 2,
        "lecture-cnn": 2,
    }


def test_a_contender_that_fails_is_reported_with_its_last_words(tmp_path):
    with pytest.raises(UserError, match=r"exit status 1:\n(.*\n)*ValueError: of no use"):
        bench_run._time(["-c", "raise ValueError('of no use')"], {}, tmp_path / "log")


def test_an_epoch_of_the_loop_is_timed_beside_its_steps_alone(digits):
    splits = (digits[name] for name in ("training", "test", "validation"))
    dataset = data.Dataset("tiny", "1", tuple("0123456789"), *splits)
    measured = bench_run.measure_overhead(fcn_vs_cnn.Config(data="digits"), dataset, 1)
    assert {name: len(overhead["overhead_percents"]) for name, overhead in measured.items()} == {
        "loop": 1,
        "whole_epoch": 1,
    }


def test_epochs_are_timed_from_the_end_of_one_s_steps_to_the_end_of_the_next_s(monkeypatch):
    clock = iter([10.0, 14.0, 20.0, 25.0, 30.0])  # ends of epochs, and between them of the steps alone
    monkeypatch.setattr(bench_run, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    watch = bench_run.WatchedEpochs(lambda: 3.0, steps=2, epochs=2)
    for step in range(1, 7):
        watch.on_step(step, None)
    assert watch.pairs == [(4.0, 3.0), (5.0, 3.0)]


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Contenders that only note their turns, results in a folder of the test's own, an overhead of 1.5 %."""
    turns = []

    def contender(who, seconds):
        def run(job):
            turns.append((who, job.config.seed))
            trained = peers.Training([2.0 + job.config.seed, 4.0], 0.25 * (1 + job.config.seed))
            return bench_run.Outcome(seconds + job.config.seed, {"lecture-fcn": trained, "lecture-cnn": trained})

        return bench_run.Contender((), run)

    contenders = {"cnnjax": contender("cnnjax", 10.0), "torch": contender("torch", 20.0)}
    contenders["other"] = bench_run.Contender(("json", "no_such_module"), contenders["torch"].run)
    monkeypatch.setattr(bench_run, "CONTENDERS", contenders)
    overhead = {"epoch_seconds": 20.0, "overhead_percent": 1.5, "overhead_percents": [1.0, 1.5, 2.5]}
    monkeypatch.setattr(bench_run, "measure_overhead", lambda *arguments: {"loop": overhead, "whole_epoch": overhead})
    monkeypatch.setattr(timing, "FOLDER", tmp_path / "bench")
    return turns


def test_contenders_take_turns_with_a_seed_each_and_medians_are_written(pretended, capsys, tmp_path):
    assert bench_run.main(["--data", "digits", "--epochs", "2", "--turns", "2"]) == 0
    assert pretended == [("cnnjax", 0), ("torch", 0), ("cnnjax", 1), ("torch", 1)]
    results = json.loads((tmp_path / "bench" / "run.json").read_text())
    assert {row["name"]: row["seconds"] for row in results["rows"]} == {"cnnjax": 10.5, "torch": 20.5}
    assert results["rows"][0]["networks"]["lecture-cnn"] == {
        "fastest_epoch_seconds": 2.0,
        "median_epoch_seconds": 3.5,
        "test_accuracy": 0.375,
    }
    printed = capsys.readouterr()
    assert "other is left out: pip install no_such_module" in printed.err
    assert "0.51" in printed.out
    assert "20.00 s, of which 1.5 % (1.0 to 2.5) are not compiled steps" in " ".join(printed.out.split())


def test_some_contenders_alone_overwrite_no_results(pretended, tmp_path):
    assert bench_run.main(["--data", "digits", "--contenders", "torch"]) == 0
    assert pretended == [("torch", 0)]
    assert not (tmp_path / "bench").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--turns", "0"], "`turns` must be an integer of at least 1, got 0"),
        (["--epochs", "0"], "`epochs` must be an integer of at least 1, got 0"),
        (["--contenders", "keras"], "no contender matches --contenders 'keras': there are cnnjax, torch, other"),
        (["--contenders", "other"], "no contender that matches --contenders 'other' is installed"),
        (["--data", "."], "`data` must be shapes, digits or a TFDS set, got the folder"),
    ],
)
def test_a_mistake_is_explained_before_anything_runs(pretended, capsys, arguments, said):
    with pytest.raises((UserError, SystemExit)) as stopped:  # SystemExit: the parser's, with the message in a box
        bench_run.main(["--data", "digits", *arguments])
    assert said in f"{stopped.value} " + re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert pretended == []
