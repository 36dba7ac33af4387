"""Submitting to SLURM, without one: the script, what the job does with its signals, and what is refused."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from cnnjax.errors import UserError
from cnnjax.lab import app, workspace
from cnnjax.lab import slurm as submit

SMALL = ["fcn-vs-cnn", "--data", "digits", "--epochs", "2"]


def call(capfd, *arguments):
    try:
        status = app.main(["submit", *map(str, arguments)])
    except SystemExit as stop:  # tyro ends the process itself
        status = stop.code
    captured = capfd.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands in the place of SLURM's: a queue that is a file, and an sbatch that notes what it gets."""
    folder = tmp_path / "slurm-commands"
    folder.mkdir()
    commands = {
        "sbatch": f"cp $1 {folder}/script; echo Submitted batch job 41; echo 41 >> {folder}/queue",
        "squeue": f"cat {folder}/queue",
        "srun": "",
    }
    (folder / "queue").touch()
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_help_has_the_options_of_the_experiment_and_the_job(capfd):
    for arguments in (["fcn-vs-cnn", "--help"], ["--help"]):
        status, out, _ = call(capfd, *arguments)
        assert status == 0
        for option in ("--nodes", "--gpus-per-node", "--time", "--partition", "--cpus-per-task", "--tasks-per-node"):
            assert option in out
        assert ("--batch-size" in out) == (len(arguments) == 2)


def test_a_dry_run_prints_the_script_and_needs_no_slurm(capfd, submitit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    out = tmp_path / "run"
    job = "--time 1-02:00:00 --nodes 2 --gpus-per-node 4 --cpus-per-task 8 --tasks-per-node 1 --partition gpu"
    more = ["--grace-seconds", "300", "--sbatch", "account=vision", "exclusive"]
    status, printed, _ = call(capfd, *SMALL, *job.split(), *more, "--out", out, "--dry-run")
    assert status == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", printed, re.MULTILINE))
    assert options == {
        "job-name": "fcn-vs-cnn",
        "time": "1560",
        "nodes": "2",
        "gpus-per-node": "4",
        "cpus-per-task": "8",
        "ntasks-per-node": "1",
        "partition": "gpu",
        "account": "vision",
        "exclusive": "",
        "signal": "USR2@300",
        "requeue": "",
        "open-mode": "append",
        "output": f"{out}/slurm/%j_0_log.out",
    }
    assert f"srun --unbuffered --output {out}/slurm/%j_%t_log.out --cpus-per-task=8 " in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "submit takes an experiment: activations"),
        (["fcn-vs-cn"], "unknown experiment 'fcn-vs-cn': did you mean fcn-vs-cnn?"),
        (["--time", "5"], "unknown experiment '--time'"),
        ([*SMALL], "a job needs --time"),
        ([*SMALL, "--time", "soon"], "--time must be minutes, MM:SS, HH:MM:SS, D-HH or D-HH:MM:SS, got 'soon'"),
        ([*SMALL, "--time", "5", "--nodes", "0"], "--nodes must be an integer of at least 1, got 0"),
        ([*SMALL, "--time", "5", "--gpus-per-node", "-1"], "--gpus-per-node must be an integer of at least 0, got -1"),
        ([*SMALL, "--time", "5", "--node", "2"], "--nodes"),
        (
            ["convolution", "--time", "5", "--nodes", "2", "--dry-run"],
            "convolution trains nothing that processes could",
        ),
        ([*SMALL, "--time", "5", "--lr", "0"], "--lr must be larger than 0 and finite, got 0"),
    ],
)
def test_a_mistake_gets_one_message_and_leaves_nothing(capfd, tmp_path, arguments, said):
    out = tmp_path / "run"
    status, printed, error = call(capfd, *arguments, *(["--out", out] if len(arguments) > 2 else []))
    assert status == 2
    assert said in re.sub(r"[│\s]+", " ", error)
    assert "Traceback" not in printed + error
    assert not out.exists()


def test_without_sbatch_or_submitit_it_says_what_to_do(capfd, submitit, tmp_path, monkeypatch):
    command = [*SMALL, "--time", "5", "--out", tmp_path / "run"]
    monkeypatch.setenv("PATH", "")
    status, _, error = call(capfd, *command)
    assert status == 2
    assert (
        error == "error: there is no sbatch on PATH: submit on a machine with SLURM, or see the script with --dry-run\n"
    )
    monkeypatch.setitem(sys.modules, "submitit", None)
    status, _, error = call(capfd, *command, "--dry-run")
    assert status == 2
    assert error == 'error: submitit is not installed: pip install -e ".[slurm]"\n'
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("time", "minutes"), [("90", 90), ("1:30", 2), ("2:00:00", 120), ("1-0", 1440), ("1-2:30", 1590), ("0-0:0:1", 1)]
)
def test_times_are_written_as_slurm_writes_them(time, minutes):
    assert submit.minutes(time) == minutes


@pytest.mark.parametrize("time", ["0", "", "-1", "1:2:3:4", "1-1:2:3:4", "2h"])
def test_other_times_are_refused(time):
    with pytest.raises(UserError, match="--time must be"):
        submit.minutes(time)


def test_a_job_gets_the_run_directory_and_is_submitted_once(capfd, submitit, slurm, tmp_path):
    out = tmp_path / "run"
    command = [*SMALL, "--time", "5", "--nodes", "2", "--overwrite", "--out", out]
    status, printed, error = call(capfd, *command)
    assert status == 0, error
    assert printed == f"submitted job 41; its output: {out}/slurm/41_0_log.out\n"
    assert json.loads((out / "config.json").read_text())["epochs"] == 2
    pickled = submitit.core.utils.DelayedSubmission.load(out / "slurm" / "41_submitted.pkl")
    # Not --overwrite: the requeued job would start over. --distributed: it has two tasks.
    assert pickled.function.command == [
        sys.executable,
        workspace.find().launcher[1],
        *SMALL,
        "--distributed",
        "--out",
        str(out),
    ]
    status, _, error = call(capfd, *command)
    assert status == 2
    assert f"job 41 of {out} is in the queue: wait for it, or scancel it first" in error
    (slurm / "queue").write_text("")
    (out / "summary.json").write_text("{}")
    status, printed, _ = call(capfd, *command[:-3], "--out", out)
    assert status == 0
    assert "Finished before" in printed


def test_what_sbatch_refuses_is_said(capfd, submitit, slurm, tmp_path):
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: gpu' >&2; exit 1\n")
    status, _, error = call(capfd, *SMALL, "--time", "5", "--partition", "gpu", "--out", tmp_path / "run")
    assert status == 2
    assert error == "error: SLURM refused the job: sbatch: error: invalid partition: gpu\n"


# A job's process, which SLURM would start: the handler in the place of submitit's says so and exits.
# The class as cloudpickle takes it along: its text alone, without what this package imports.
PROCESS = f"""
import os, signal, subprocess, sys
from typing import Any
STOPPED = {submit.STOPPED}
{inspect.getsource(submit._running)}
{inspect.getsource(submit.Job)}
def requeue(signum, frame):
    if len(sys.argv) > 2:
        raise RuntimeError(sys.argv[2])
    print("requeued", flush=True)
    sys.exit(1)
signal.signal(signal.SIGUSR2, requeue)
signal.signal(signal.SIGTERM, lambda signum, frame: None)
Job([sys.executable, "-c", sys.argv[1]])()
"""
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("on", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("signals", "program", "state", "requeued", "status"),
    [
        ([signal.SIGUSR2], SAVES, "", True, 1),
        ([signal.SIGTERM], SAVES, "RUNNING", True, 1),  # preempted: SLURM gives it time
        ([signal.SIGTERM], SAVES, "COMPLETING", False, 143),  # cancelled
        ([], "print('on')", "RUNNING", False, 0),
        ([], "print('on'); raise SystemExit(3)", "RUNNING", False, 3),
    ],
    ids=["out of time", "preempted", "cancelled", "finished", "failed"],
)
def test_a_job_that_saved_is_requeued_unless_it_was_cancelled(
    slurm, monkeypatch, signals, program, state, requeued, status
):
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    (slurm / "queue").write_text(state)
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, program], stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout.readline() == "on\n"
    for signum in signals:  # as SLURM does, to all processes of the step
        os.killpg(process.pid, signum)
    assert process.communicate()[0] == ("requeued\n" if requeued else "")
    assert process.returncode == status


def test_a_job_that_was_out_of_time_too_often_says_so(slurm):
    command = [sys.executable, "-c", PROCESS, SAVES, "too many times."]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGUSR2)
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.startswith("too many times. The run is saved: submit it again")
