"""Sweeps: which cells a grid has, what is refused, that they run, stop and go on, and what they end with."""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cnnjax import runs
from cnnjax.lab import app, sweep, sweep_report, workspace
from cnnjax.lab.grid import default_metric, make_cells, numbers, parse_grid
from experiments.fcn_vs_cnn import Config

# In the place of launch.py: "learns" at once, fails with --lr 13, waits for a signal the first time with --epochs 99.
STAND_IN = """
import json, pathlib, signal, sys, time
option = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out = pathlib.Path(option["--out"])
out.mkdir(exist_ok=True)
def save(signum, frame):
    (out / "saved").touch()
    sys.exit(128 + signum)
for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, save)
with (out / "starts").open("a") as file:
    file.write("x")
lr = float(option["--lr"])
if lr == 13:
    sys.exit("diverged in the first step")
if option.get("--epochs") == "99" and not (out / "saved").exists():
    while True:
        time.sleep(0.05)
network = {"test_accuracy": lr + int(option.get("--seed", 0)) / 1000, "test_loss": 1 - lr}
(out / "summary.json").write_text(json.dumps({"models": {"net": network}, "seconds": 3.0, "config": {"lr": lr}}))
"""


def call(capfd, *arguments):
    try:
        status = app.main(list(map(str, arguments)))
    except SystemExit as stop:  # tyro ends the process itself
        status = stop.code
    captured = capfd.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    elsewhere = workspace.find()._replace(launcher=(sys.executable, str(program)))
    monkeypatch.setattr(workspace, "find", lambda: elsewhere)
    return program


def starts(out):
    return {folder.parent.name: len(folder.read_text()) for folder in out.glob("*/starts")}


def test_help_has_the_options_of_the_experiment_the_sweep_and_the_job(capfd):
    for arguments in (["fcn-vs-cnn", "--help"], ["--help"]):
        status, out, _ = call(capfd, "sweep", *arguments)
        assert status == 0
        for option in ("--grid", "--metric", "--minimize", "--jobs", "--slurm", "--out", "--time", "--gpus-per-node"):
            assert option in out
        assert ("--batch-size" in out) == (len(arguments) == 2)
        assert ("--parallel" in out) == (len(arguments) == 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "sweep takes an experiment: activations"),
        (["fcn-vs-cn"], "unknown experiment 'fcn-vs-cn': did you mean fcn-vs-cnn?"),
        (["fcn-vs-cnn"], "a sweep needs --grid OPTION=VALUE,VALUE"),
        (["fcn-vs-cnn", "--grid", "lr"], "--grid: expected OPTION=VALUE,VALUE, got 'lr'"),
        (["fcn-vs-cnn", "--grid", "lrr=1"], "unknown option in --grid 'lrr': did you mean lr?"),
        (["fcn-vs-cnn", "--grid", "batch_sizes=1"], "did you mean batch-size or"),
        (["fcn-vs-cnn", "--grid", "lr=1", "lr=2"], "--grid has lr twice"),
        (["fcn-vs-cnn", "--grid", "lr=0.1,0.2,0.10"], "the cells 'lr=0.1' and 'lr=0.10' are the same: leave one out"),
        (["fcn-vs-cnn", "--grid", "lr=0.1,"], "--grid: lr takes no empty value, got 'lr=0.1,'"),
        (["convolution", "--grid", "lr=0.1"], "unknown option in --grid 'lr': there are image, kernel, seed"),
        (
            ["fcn-vs-cnn", "--grid", "lr=0.1", "--parallel", "pmpa"],
            "invalid choice 'pmpa' for argument '--parallel'. Expected one of ('shard_map', 'pmap')",
        ),
        (["fcn-vs-cnn", "--grid", "lr=0.1,0"], "--lr must be larger than 0 and finite, got 0"),
        (["fcn-vs-cnn", "--grid", "lr=0.1,much"], "much"),
        (["fcn-vs-cnn", "--grid", "lr=0.1", "--lr", "0.2"], "--lr is given, and in --grid: leave one out"),
        (["fcn-vs-cnn", "--grid", "skip-bad=True", "--no-skip-bad"], "--skip-bad is given, and in --grid"),
        (["fcn-vs-cnn", "--grid", "skip-bad=yes"], "--grid: skip-bad is True or False, got 'yes'"),
        (["fcn-vs-cnn", "--grid", "optimizer=sgd,adam", "--momentum", "0.5"], "not of sgd"),
        (["fcn-vs-cnn", "--grid", "lr=0.1", "--epoch", "2"], "--epochs"),
        (["fcn-vs-cnn", "--grid", "lr=0.1", "--jobs", "0"], "--jobs must be an integer of at least 1, got 0"),
        (["fcn-vs-cnn", "--grid", "lr=0.1", "--time", "5"], "options of a job, such as --time, need --slurm"),
        (["fcn-vs-cnn", "--grid", "lr=0.1", "--slurm", "--dry-run"], "a job needs --time"),
        (
            ["convolution", "--grid", "seed=1", "--slurm", "--time", "5", "--nodes", "2"],
            "trains nothing that processes",
        ),
    ],
)
def test_a_mistake_gets_one_message_and_nothing_runs(capfd, stand_in, tmp_path, arguments, said):
    out = tmp_path / "sweep"
    status, printed, error = call(capfd, "sweep", *arguments, *(["--out", out] if arguments else []))
    assert status == 2
    assert said in re.sub(r"[│\s]+", " ", error)
    assert "Traceback" not in printed + error
    assert not out.exists()


def test_quotes_hold_a_value_with_commas_together():
    grid = ['augment=,mirror,"zoom:scale=1..2,fill=1"', "--batch_size=1,2"]
    assert parse_grid(grid, Config) == {"augment": ["", "mirror", "zoom:scale=1..2,fill=1"], "batch-size": ["1", "2"]}


def test_the_numbers_of_a_summary_have_paths_and_the_last_test_accuracy_is_the_default():
    summary = {
        "config": {"lr": 1.0},
        "data": {"name": "digits", "count": 9},
        "models": {"a": {"test_accuracy": 0.5, "test_loss": 2.0}, "b": {"test_accuracy": 0.25, "ok": True}},
    }
    found = numbers(summary)
    assert found == {
        "data.count": 9,
        "models.a.test_accuracy": 0.5,
        "models.a.test_loss": 2.0,
        "models.b.test_accuracy": 0.25,
    }
    assert default_metric(found) == "models.b.test_accuracy"
    assert default_metric({"a.test_loss": 1.0, "b": 2.0}) == "a.test_loss"
    assert default_metric({"b": 2.0}) is None


def test_without_a_metric_the_cells_are_listed_and_it_says_what_there_is(capfd, stand_in, tmp_path):
    stand_in.write_text(STAND_IN.replace("test_", "some_"))
    status, printed, _ = call(capfd, "sweep", "fcn-vs-cnn", "--grid", "lr=0.1,0.2", "--out", tmp_path / "sweep")
    assert status == 0
    assert "--metric takes one of models.net.some_accuracy, models.net.some_loss, seconds" in printed
    assert "Best" not in printed
    assert not (tmp_path / "sweep" / "figures" / "sweep.png").exists()


def test_the_figure_has_a_line_for_each_value_of_the_second_option_and_a_band_over_the_third(tmp_path):
    grid = ["lr=0.1,0.2,0.4", "optimizer=sgd,adam", "seed=0,10"]
    out = tmp_path / "sweep"
    cells = make_cells("fcn-vs-cnn", parse_grid(grid, Config), [], Config, lambda flags: Config(data=" ".join(flags)))
    for cell in cells:
        cell.path = out / cell.path
        cell.path.mkdir(parents=True)
        lr, optimizer, seed = cell.values.values()
        accuracy = float(lr) + int(seed) / 100 + (optimizer == "adam")
        (cell.path / "summary.json").write_text(json.dumps({"test_accuracy": accuracy}))
    (axes,) = sweep_report.draw(cells, "test_accuracy").axes
    assert [line.get_label() for line in axes.lines] == ["optimizer=sgd", "optimizer=adam"]
    for line, more in zip(axes.lines, (0, 1), strict=True):
        np.testing.assert_allclose(line.get_xdata(), [0.1, 0.2, 0.4])
        np.testing.assert_allclose(line.get_ydata(), np.array([0.15, 0.25, 0.45]) + more)
    assert len(axes.collections) == 2


@pytest.mark.processes
def test_a_cell_is_a_run_of_the_experiment(capfd, tmp_path):
    options = ["--data", "digits", "--epochs", "1", "--batch-size", "512"]
    out = tmp_path / "sweep"
    status, printed, error = call(capfd, "sweep", "fcn-vs-cnn", *options, "--grid", "lr=2e-3", "--out", out)
    assert status == 0, error
    assert "lecture-cnn.test_accuracy" in printed
    summary = json.loads((out / "lr=2e-3" / "summary.json").read_text())
    assert summary["config"]["lr"] == 0.002
    assert summary["config"]["epochs"] == 1
    (cell,) = json.loads((out / "sweep.json").read_text())["cells"]
    accuracy = summary["models"]["lecture-cnn"]["test_accuracy"]
    assert (cell["status"], cell["metric"], cell["seconds"]) == ("finished", accuracy, summary["seconds"])
    page = (out / "report.md").read_text()
    assert f"python launch.py fcn-vs-cnn {' '.join(options)} --lr 2e-3\n" in page
    for linked in re.findall(r"\(([^()]*\.(?:md|png))\)", page):
        assert (out / linked).exists()


def test_finished_cells_stay_and_a_failed_one_stops_no_other_and_is_run_again(capfd, stand_in, tmp_path):
    out = tmp_path / "sweep"
    command = ["sweep", "fcn-vs-cnn", "--grid", "lr=0.1,13,0.2", "--out", out, "--jobs", "2"]
    for starts_of_failed in (1, 2):
        status, printed, error = call(capfd, *command)
        assert status == 1
        assert "lr=13: failed with exit status 1" in error
        assert f"{out}/logs/lr=13.log" in error
        assert "diverged in the first step" in error
        assert starts(out) == {"lr=0.1": 1, "lr=0.2": 1, "lr=13": starts_of_failed}
        assert [cell["status"] for cell in json.loads((out / "sweep.json").read_text())["cells"]] == [
            "finished",
            "failed",
            "finished",
        ]
        assert re.search(r"0\.2.*finished[\s\S]*0\.1.*finished[\s\S]*13.*failed", printed)


def test_a_record_that_cannot_be_written_meanwhile_stops_no_cell(capfd, stand_in, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "sweep.json")

    monkeypatch.setattr(sweep, "write_state", full)
    status, _, error = call(capfd, "sweep", "fcn-vs-cnn", "--grid", "lr=0.1,0.2", "--out", tmp_path / "sweep")
    assert status == 0
    assert "sweep.json: No space left on device: the sweep continues" in error
    assert starts(tmp_path / "sweep") == {"lr=0.1": 1, "lr=0.2": 1}


def test_whatever_ends_a_sweep_its_cells_save_and_end(capfd, stand_in, tmp_path, monkeypatch):
    out = tmp_path / "sweep"

    def broken(*_):
        deadline = time.monotonic() + 60
        while not sum(starts(out).values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        raise RuntimeError("a bug")

    monkeypatch.setattr(sweep, "write_state", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        call(capfd, "sweep", "fcn-vs-cnn", "--epochs", "99", "--grid", "lr=0.1,0.2", "--out", out)
    assert starts(out) == {"lr=0.1": 1}
    assert (out / "lr=0.1" / "saved").exists()


def test_the_metric_and_its_direction_can_be_chosen_afterwards(capfd, stand_in, tmp_path):
    command = ["sweep", "fcn-vs-cnn", "--grid", "lr=0.1,0.2", "--out", tmp_path / "sweep"]
    best = {}
    for metric in ([], ["--minimize"], ["--metric", "models.net.test_loss"]):
        assert call(capfd, *command, *metric)[0] == 0
        best[" ".join(metric)] = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["best"]
    assert best == {"": "lr=0.2", "--minimize": "lr=0.1", "--metric models.net.test_loss": "lr=0.2"}
    status, _, error = call(capfd, *command, "--metric", "models.net.test_acc")
    assert status == 2
    assert "unknown metric 'models.net.test_acc': did you mean models.net.test_accuracy" in error
    assert starts(tmp_path / "sweep") == {"lr=0.1": 1, "lr=0.2": 1}


def test_a_directory_of_another_grid_is_an_error_that_names_the_difference(capfd, stand_in, tmp_path):
    out = tmp_path / "sweep"
    command = ["sweep", "fcn-vs-cnn", "--out", out, "--grid"]
    assert call(capfd, *command, "lr=0.1")[0] == 0
    status, _, error = call(capfd, *command, "lr=0.1,0.2", "--epochs", "3")
    assert status == 2
    assert "grid: {'lr': [0.1]} there, {'lr': [0.1, 0.2]} now" in error
    assert "epochs: 20 there, 3 now" in error
    assert call(capfd, *command, "lr=0.3", "--overwrite")[0] == 0
    assert starts(out) == {"lr=0.3": 1}


def test_an_output_that_is_not_a_sweep_is_refused_and_kept(capfd, stand_in, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    for extra in ([], ["--overwrite"]):
        status, _, error = call(capfd, "sweep", "fcn-vs-cnn", "--grid", "lr=1", "--out", tmp_path / "thesis", *extra)
        assert status == 2
        assert "not a run's" in error
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_cells_and_the_same_command_goes_on(capfd, stand_in, tmp_path, signum, status):
    out = tmp_path / "sweep"
    command = ["sweep", "fcn-vs-cnn", "--epochs", "99", "--grid", "lr=0.1,0.2,0.3", "--jobs", "2", "--out", str(out)]

    def send():
        deadline = time.monotonic() + 60
        while sum(starts(out).values()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signum)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    stopped, _, error = call(capfd, *command, "--overwrite")
    sender.join()
    assert stopped == status
    assert f"Resume with: python launch.py {' '.join(command)}\n" in error
    assert (out / "lr=0.1" / "saved").exists()
    assert (out / "lr=0.2" / "saved").exists()
    states = [cell["status"] for cell in json.loads((out / "sweep.json").read_text())["cells"]]
    assert states == ["stopped", "stopped", "waiting"]
    (out / "lr=0.3").mkdir()
    (out / "lr=0.3" / "saved").touch()
    assert call(capfd, *command)[0] == 0
    assert starts(out) == {"lr=0.1": 2, "lr=0.2": 2, "lr=0.3": 1}


def test_a_sweep_or_a_cell_that_is_still_running_holds_the_directory(capfd, stand_in, tmp_path):
    out = tmp_path / "sweep"
    command = ["sweep", "fcn-vs-cnn", "--grid", "lr=0.1", "--out", out]
    assert call(capfd, *command)[0] == 0
    for held, arguments in (
        (out, command),
        (out, [*command, "--overwrite"]),
        (out / "lr=0.1", [*command, "--overwrite"]),
    ):
        with runs.Run(held, "", {}).locked():
            status, _, error = call(capfd, *arguments)
        assert status == 2
        assert f"{held} is in use by process" in error
        assert starts(out) == {"lr=0.1": 1}


def test_cells_share_the_gpus_that_are_free(tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\ncase $1 in *compute-apps*) echo GPU-b;; *) printf "0, GPU-a\\n1, GPU-b\\n2, GPU-c\\n";; esac\n'
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert sweep.slots(None) == [{"CUDA_VISIBLE_DEVICES": "GPU-a"}, {"CUDA_VISIBLE_DEVICES": "GPU-c"}]
    assert sweep.slots(1) == [{"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-c"}]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in sweep.slots(3)] == ["GPU-a", "GPU-c", "GPU-a"]
    assert sweep.slots(3)[0]["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert sweep.free_gpus() == ["GPU-c"]
    monkeypatch.setenv("PATH", "")
    assert sweep.slots(None) == [{}]
    assert sweep.slots(2) == [{}, {}]


def test_a_sweep_in_slurm_is_one_array(capfd, submitit, tmp_path):
    out = tmp_path / "sweep"
    options = ["--slurm", "--time", "30", "--dry-run", "--jobs", "2", "--out", str(out)]
    status, printed, _ = call(capfd, "sweep", "fcn-vs-cnn", "--grid", "lr=0.1,0.2", "seed=0,1,2", *options)
    assert status == 0
    assert "#SBATCH --array=0-5%2" in printed
    assert f"#SBATCH --output={out}/slurm/%A_%a_0_log.out" in printed
    assert not Path(out).exists()


@pytest.mark.parametrize(("tasks", "joined"), [("1", []), ("2", ["--distributed"])])
def test_the_tasks_of_a_cell_in_slurm_are_one_run(capfd, tmp_path, monkeypatch, tasks, joined):
    commands, out = [], tmp_path / "sweep"
    monkeypatch.setattr(sweep, "make_executor", lambda *_: "an executor")
    monkeypatch.setattr(sweep, "submit", lambda _, given: commands.extend(given) or ["41_0", "41_1"])
    options = ["--slurm", "--time", "30", "--tasks-per-node", tasks, "--out", str(out)]
    status, _, error = call(capfd, "sweep", "fcn-vs-cnn", "--grid", "lr=0.1,0.2", *options)
    assert status == 0, error
    expected = [["fcn-vs-cnn", "--lr", lr, *joined, "--out", f"{out}/lr={lr}"] for lr in ("0.1", "0.2")]
    assert [command[len(workspace.find().launcher) :] for command in commands] == expected
