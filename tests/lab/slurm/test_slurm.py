"""Jobs in a real SLURM of one node: they save when they are told to, and end as if nobody had disturbed them.

`pytest -n 0 -m slurm tests/slurm` takes about five minutes on two cores.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[3]
NODE = Path(__file__).parent / "one_node.sh"
SMALL = ["fcn-vs-cnn", "--data", "digits", "--epochs", "4", "--batch-size", "256"]
MINUTES = 4  # that a job may take


def launch(*arguments):
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start the daemons; yield, and stop them."""
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([NODE, "start", folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("CNNJAX_CACHE_DIR", str(folder / "cache"))
        if started.returncode == 0:
            yield folder
    subprocess.run([NODE, "stop", folder], check=True)
    if started.returncode:
        pytest.skip(f"SLURM cannot be had here: {started.stderr.strip()}")


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    launch(*SMALL, "--out", out)
    return sha256(out)


def sha256(out):
    return json.loads((out / "summary.json").read_text())["params_sha256"]


def submit(out, *options):
    return re.match(r"submitted job (\d+)", launch("submit", *SMALL, "--time", "10", "--out", out, *options))[1]


def state(job):
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(JobState|Restarts|ExitCode)=(\S+)", shown))


def wait(condition, out):
    deadline = time.monotonic() + 60 * MINUTES
    while not condition():
        logs = "\n".join(log.read_text() for log in (out / "slurm").glob("*.out"))
        assert time.monotonic() < deadline, logs
        time.sleep(0.2)


def wait_until_it_trains(out):
    metrics = out / "metrics.jsonl"
    wait(lambda: metrics.exists() and metrics.read_text().count("\n") >= 9, out)


def wait_until_it_ended(job, out):
    wait(lambda: state(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), out)
    return state(job)


@pytest.mark.parametrize(
    "preempt",
    [
        "scancel --signal=USR2 {}",
        "scancel --signal=TERM {}",
        "scontrol requeue {}",
        "sbatch -p urgent -n 2 --wrap=true",
    ],
)
def test_a_preempted_job_is_requeued_and_ends_with_the_parameters_of_an_undisturbed_run(
    preempt, cluster, undisturbed, tmp_path
):
    out = tmp_path / "run"
    job = submit(out)
    wait_until_it_trains(out)
    subprocess.run(preempt.format(job).split(), cwd=tmp_path, check=True)
    assert wait_until_it_ended(job, out) == {"JobState": "COMPLETED", "Restarts": "1", "ExitCode": "0:0"}
    assert sha256(out) == undisturbed
    log = (out / "slurm" / f"{job}_0_log.out").read_text()
    assert log.count("stopped; what is done is saved") == 1


def test_two_tasks_are_one_run_and_a_preempted_pair_ends_with_the_parameters_of_an_undisturbed_one(cluster, tmp_path):
    runs = [tmp_path / name for name in ("undisturbed", "preempted")]
    for out in runs:
        job = submit(out, "--tasks-per-node", "2")
        if out.name == "preempted":
            wait_until_it_trains(out)
            subprocess.run(["scancel", "--signal=USR2", job], check=True)
        restarts = str(runs.index(out))
        assert wait_until_it_ended(job, out) == {"JobState": "COMPLETED", "Restarts": restarts, "ExitCode": "0:0"}
        assert json.loads((out / "summary.json").read_text())["device"]["processes"] == 2
    assert sha256(runs[0]) == sha256(runs[1])


def test_a_cancelled_job_saves_and_the_same_command_goes_on(cluster, undisturbed, tmp_path):
    out = tmp_path / "run"
    job = submit(out)
    wait_until_it_trains(out)
    subprocess.run(["scancel", job], check=True)
    assert wait_until_it_ended(job, out)["JobState"] == "CANCELLED"
    assert state(job)["Restarts"] == "0"
    assert "stopped; what is done is saved" in (out / "slurm" / f"{job}_0_log.out").read_text()
    again = submit(out)
    assert wait_until_it_ended(again, out)["JobState"] == "COMPLETED"
    assert sha256(out) == undisturbed


def test_a_sweep_is_an_array_that_the_same_command_reports_on(cluster, tmp_path):
    out = tmp_path / "sweep"
    command = ["sweep", *SMALL[:3], "--epochs", "1", "--batch-size", "512", "--grid", "lr=0.001,1e-9", "--slurm"]
    command += ["--time", "10", "--out", out]
    jobs = re.findall(r"submitted as job (\d+_\d+)", launch(*command))
    assert len(jobs) == 2
    assert len({job.split("_")[0] for job in jobs}) == 1
    assert "submitted" not in launch(*command)  # while they are in the queue
    for job in jobs:
        assert wait_until_it_ended(job, out)["JobState"] == "COMPLETED"
    assert re.search(r"0\.001.*finished", launch(*command))
    found = json.loads((out / "sweep.json").read_text())
    assert found["best"] == "lr=0.001"
    assert [cell["status"] for cell in found["cells"]] == ["finished", "finished"]
