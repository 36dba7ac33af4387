"""Several processes of one run: they end as one process would, and whatever ends one of them ends all, with a message.

Two processes of two virtual devices each, over gloo, are the real command line on this machine.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cnnjax import models, runs, tasks, train
from cnnjax.lab import app, experiments
from cnnjax.lab.options import parse

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
IMAGE, CLASSES, EACH = 12, 4, 24
NETWORK = "lecture-cnn"
LONGEST = 60  # seconds that a process goes on without another


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A command that trains both networks for seconds: classes of brightness, in files."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, label, number in itertools.product(("train", "test"), range(CLASSES), range(EACH)):
        (folder / split / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (IMAGE, IMAGE, 3), dtype=np.uint8) + 50 * np.uint8(label)
        Image.fromarray(pixels).save(folder / split / str(label) / f"{number}.png")
    return ["fcn-vs-cnn", "--data", str(folder), "--image-size", IMAGE, "--epochs", 2, "--batch-size", 16]


def free_port(first=1024):
    """A port from `first` on that nobody listens at."""
    for port in range(first, 2**16) if first > 1024 else [0]:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return probe.getsockname()[1]
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a process of so many devices; whatever still runs at the end is killed."""
    cache, started = str(tmp_path_factory.mktemp("cache")), []

    def start(*arguments, devices=2, **environment):
        environment = {**os.environ, "XLA_FLAGS": "", "CNNJAX_CACHE_DIR": cache, **environment}
        command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, **streams, env=environment | {"JAX_NUM_CPU_DEVICES": str(devices)})
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def start_two(start):
    def start_two(*arguments, second=()):
        place = ["--distributed", f"localhost:{free_port()}", 2]
        return [start(*arguments, *more, *place, index) for index, more in enumerate([(), second])]

    return start_two


def ends(processes):
    """(status, what it wrote to standard error) of each."""
    return [(process.wait(), process.communicate()[1]) for process in processes]


def finish(processes):
    for status, error in ends(processes):
        assert status == 0, error


def summary(out):
    return json.loads((out / "summary.json").read_text())


def final_params(out):
    model = models.create_model(NETWORK, num_classes=CLASSES, in_channels=3, image_size=IMAGE)
    like = train.compile_step(model, tasks.Classification(), train.Recipe()).initial
    checkpoints = train.Checkpoints(out / "checkpoints" / NETWORK / "seed0")
    state = checkpoints.restore(like)
    checkpoints.close()
    return jax.tree.map(np.asarray, state.params)


def assert_close(out, other):
    """Four devices of one process add gradients in another order than those of two: a hundredth of an Adam step."""
    for ours, theirs in zip(*map(jax.tree.leaves, map(final_params, (out, other))), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    ours, theirs = (summary(one)["models"][NETWORK] for one in (out, other))
    assert ours["test_accuracy"] == theirs["test_accuracy"]
    for name in ("train/loss", "validation/loss"):
        np.testing.assert_allclose(ours["curves"][name], theirs["curves"][name], rtol=1e-4)


@pytest.fixture(scope="module")
def alone(start, small, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    finish([start(*small, "--out", out, devices=4)])
    return out


@pytest.fixture(scope="module")
def two(start, small, tmp_path_factory):
    """A run of two processes that find each other as tasks of SLURM and decode while they train."""
    out = tmp_path_factory.mktemp("two") / "run"
    job = free_port(61440) - 61440  # what JAX makes the port of
    slurm = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    tasks = [
        start(
            *small,
            "--out",
            out,
            "--stream",
            "always",
            "--distributed",
            **slurm,
            SLURM_PROCID=str(task),
            SLURM_LOCALID=str(task),
        )
        for task in range(2)
    ]
    (status, printed), (second_status, second_printed) = [(task.wait(), "".join(task.communicate())) for task in tasks]
    assert (status, second_status) == (0, 0), printed + second_printed
    assert "epoch 2/2" in printed
    assert not re.sub(r"\[Gloo\][^[\n]*|\d|\s", "", second_printed)  # it is quiet; lines of Gloo run into each other
    return out


def test_two_processes_train_to_the_parameters_of_one(alone, two):
    assert_close(two, alone)
    assert summary(two)["device"]["processes"] == 2
    assert summary(two)["device"]["count"] == summary(alone)["device"]["count"] == 4


def wait_until_it_trains(processes, out, lines=1):
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
        assert all(process.poll() is None for process in processes), ends(processes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(0.02)


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_any_number_goes_on(
    start, start_two, small, alone, two
):
    out, copy = two.parent / "stopped", two.parent / "goes-on-alone"
    processes = start_two(*small, "--out", out)
    wait_until_it_trains(processes, out)
    processes[1].send_signal(signal.SIGTERM)
    (status, error), (second_status, second_error) = ends(processes)
    assert (status, second_status) == (143, 143), error + second_error
    assert error.count("stopped; what is done is saved") == 1
    shutil.copytree(out, copy)
    finish(start_two(*small, "--out", out))
    assert summary(out)["params_sha256"] == summary(two)["params_sha256"]
    finish([start(*small, "--out", copy, devices=4)])
    assert_close(copy, alone)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_with_a_message_and_the_run_goes_on(victim, start_two, small, two, tmp_path):
    processes = start_two(*small, "--out", tmp_path / "run")
    wait_until_it_trains(processes, tmp_path / "run", lines=9)
    processes[victim].kill()
    killed = time.monotonic()
    other = processes[1 - victim]
    _, error = other.communicate(timeout=LONGEST)
    assert time.monotonic() - killed < LONGEST
    assert other.returncode == 1
    assert error.count("error: another process of the run died or cannot be reached") == 1
    assert "the same command resumes from the last saved state" in error
    assert "Traceback" not in error
    assert "stack trace" not in error
    if victim == 1:
        finish(start_two(*small, "--out", tmp_path / "run"))
        assert summary(tmp_path / "run")["params_sha256"] == summary(two)["params_sha256"]


def assert_refused(processes, message):
    for number, (status, error) in enumerate(ends(processes)):
        assert status == 2, error
        assert f"{f'[process {number}] ' if number else ''}error: " in error
        assert message in error
        assert "Traceback" not in error


def test_processes_that_disagree_say_where(start_two, small, tmp_path):
    processes = start_two(*small, "--out", tmp_path / "run", second=["--seed", 3, "--lr", 0.1])
    message = "the processes do not agree (lr: None in process 0, 0.1 in process 1; seed: 0 in process 0, 3 in process"
    assert_refused(processes, message)
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_refused_by_all(start_two, small, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (tmp_path / "config.json").write_text(json.dumps(config_of(small)))
        assert_refused(start_two(*small, "--out", tmp_path), f"{tmp_path} is in use by ")


def config_of(arguments):
    name, *options = map(str, arguments)
    (config,) = parse(name, "", options, experiments.load(name).Config)
    return {"experiment": name, **runs.as_config(config), **config.identity()}


def test_a_port_that_is_taken_is_named(start, small):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (refused,) = ends([start(*small, "--distributed", f"localhost:{port}", 2, 0)])
    assert refused[0] == 2
    assert f"error: --distributed: port {port} cannot be used on this machine (Address already in use)" in refused[1]


def test_a_process_that_finds_no_other_says_so_in_time(start, small):
    place = ["--distributed-wait", 1, "--distributed"]
    started = time.monotonic()
    (status, error), (second_status, second_error) = ends(
        [start(*small, *place, f"localhost:{free_port()}", 2, i) for i in range(2)]
    )
    assert time.monotonic() - started < LONGEST
    assert (status, second_status) == (1, 1)
    assert "error: not all processes have joined after 1 seconds" in error
    assert re.search(r"\[process 1\] error: process 0 at localhost:\d+ does not answer after 1 seconds", second_error)


def test_ctrl_c_ends_a_process_that_waits_for_the_others(start, small):
    port = free_port()
    process = start(*small, "--distributed", f"localhost:{port}", 2, 0)
    with socket.socket() as probe:
        while probe.connect_ex(("localhost", port)):  # until it listens for them
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(LONGEST / 2) == -signal.SIGINT  # of the five minutes that it would wait


def test_without_a_cluster_the_options_are_named(start, small):
    ((status, error),) = ends([start(*small, "--distributed")])
    assert status == 2
    assert "error: --distributed: no cluster found" in error
    assert "--distributed HOST:PORT PROCESSES INDEX" in error


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (["localhost"], "--distributed must be HOST:PORT PROCESSES INDEX"),
        (["localhost", "2", "0"], "got localhost 2 0"),
        (["localhost:http", "2", "0"], "got localhost:http 2 0"),
        (["localhost:70000", "2", "0"], "got localhost:70000 2 0"),
        (["localhost:7654", "two", "0"], "got localhost:7654 two 0"),
        (["localhost:7654", "2", "2"], "INDEX must be 0 to 1 of 2 processes, got 2"),
        (["localhost:7654", "2", "-1"], "INDEX must be 0 to 1 of 2 processes, got -1"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(place, said, capsys):
    assert app.main(["fcn-vs-cnn", "--distributed", *place]) == 2
    assert said in capsys.readouterr().err


def test_two_processes_of_train_end_early_together_with_the_weights_of_one(start, start_two, small, tmp_path):
    words = ["train", "--model", NETWORK, *small[1:5], "--batch-size", 16, "--epochs", 4, "--remat", "--mean", 0.4]
    words += ["--std", 0.25, "--sampling", "balanced", "--class-weights", "balanced", "--lr", "1e-6", "--patience", 1]
    (_, said), (_, of_second) = ends(start_two(*words, "--out", tmp_path / "two"))
    assert "stopped after epoch 2 of 4" in said
    assert "stopped after" not in of_second
    finish([start(*words, "--out", tmp_path / "alone", devices=4)])
    ours, theirs = (load_file(tmp_path / name / "weights.safetensors") for name in ("two", "alone"))
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5)
    assert summary(tmp_path / "two")["epochs"] == summary(tmp_path / "alone")["epochs"] == 2
