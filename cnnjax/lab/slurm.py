"""Submit an experiment to SLURM, as a job that saves and resumes by itself when it is preempted or out of time.

    python launch.py submit fcn-vs-cnn --data cifar10 --time 2:00:00 --gpus-per-node 1 --cpus-per-task 8
    python launch.py submit fcn-vs-cnn --time 60 --partition gpu --sbatch account=vision --dry-run

The command takes the options of the experiment (`python launch.py EXPERIMENT --help`) and those of the job. The files
and the output of the job are in slurm/ in the run directory, which every node has to see. Before its time is up, and
when it is preempted, the job gets a signal from SLURM: the experiment saves, and the job returns to the queue and
resumes later. A job that is cancelled (`scancel`) saves too; the same command submits it again.
"""

import contextlib
import getpass
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnjax import compat
from cnnjax.errors import UserError
from cnnjax.lab import experiments, workspace
from cnnjax.lab.options import (
    Directory,
    Execution,
    check_shares,
    experiment_name,
    find_run,
    parse,
    parse_known,
)
from cnnjax.options import Checked, Count, CountOrZero

INSTALL = 'pip install -e ".[slurm]"'
STOPPED = 128 + signal.SIGTERM  # exit status of launch.py after SIGTERM, once it has saved


@dataclass(frozen=True)
class Slurm(Checked):
    """The options of a job.

    Raises:
        UserError: an option out of range.
    """

    time: str | None = None
    """Longest time that it may run at once, as SLURM writes it: minutes, or D-HH:MM:SS."""
    nodes: Count = 1
    """Nodes."""
    gpus_per_node: CountOrZero = 0
    """GPUs on each node."""
    tasks_per_node: Count = 1
    """Processes on each node."""
    cpus_per_task: Count | None = None
    """CPU cores of each process."""
    partition: str | None = None
    """Partition; default: the cluster's own."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch, e.g. "account=vision qos=low exclusive"."""
    grace_seconds: CountOrZero = 120
    """How long before its time is up the job saves and returns to the queue."""
    max_timeouts: CountOrZero = 10
    """How often it resumes after its time was up."""
    dry_run: bool = False
    """Print the batch script and submit nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time is not None:
            minutes(self.time)


def main(arguments: list[str]) -> int:
    """Submit an experiment, or resume it."""
    name = experiment_name("submit", __doc__, arguments, Directory, Slurm)
    arguments = arguments[1:]
    parts = (experiments.config_of(experiments.load(name), arguments), Execution, Directory, Slurm)
    config, execution, directory, slurm = parse(f"submit {name}", __doc__, arguments, *parts)
    _, options = parse_known(arguments, Directory, Slurm)
    options += joining(slurm, name, type(config), arguments)
    run = find_run(name, config, directory, execution)
    folder = run.path.absolute() / "slurm"
    executor = make_executor(folder, experiments.title(name), slurm)
    if slurm.dry_run:
        print(script(executor))
        return 0
    active = queued(path.name.split("_")[0] for path in folder.glob("*_submission.sh"))
    if active:
        raise UserError(f"job {', '.join(active)} of {run.path} is in the queue: wait for it, or scancel it first")
    if directory.overwrite:
        run.clear()
    run.check()
    if run.summary() is not None:
        print(f"Finished before: {run.path} (--overwrite starts over)")
        return 0
    run.create()
    (job,) = submit(executor, [[*workspace.find().launcher, name, *options, "--out", str(run.path.absolute())]])
    print(f"submitted job {job}; its output: {folder}/{job}_0_log.out")
    return 0


def minutes(time: str) -> int:
    """Return the minutes of a time as SLURM writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S, rounded up."""
    written = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", time)
    days, clock = written.groups() if written else (None, "0")
    parts = [int(part) for part in clock.split(":")]
    units = (3600, 60, 1) if days or len(parts) == 3 else (60, 1)
    seconds = 86400 * int(days or 0) + sum(part * unit for part, unit in zip(parts, units, strict=False))
    if seconds == 0:
        raise UserError(f"--time must be minutes, MM:SS, HH:MM:SS, D-HH or D-HH:MM:SS, got {time!r}")
    return -(-seconds // 60)


# ---------------------------------------------------------------- the job as SLURM sees it


def joining(slurm: Slurm, name: str, config: type, arguments: Sequence[str]) -> list[str]:
    """Return the option that makes several processes of a job one run, unless it is given already.

    Raises:
        UserError: the experiment has nothing that several processes could share.
    """
    if slurm.nodes * slurm.tasks_per_node == 1:
        return []
    check_shares(name, config)
    return [] if "--distributed" in arguments else ["--distributed"]


def make_executor(folder: Path, name: str, slurm: Slurm, at_once: int | None = None) -> Any:
    """Return the `submitit.SlurmExecutor` of a job.

    Args:
        folder: of its script, its pickled calls and its output.
        name: of the job.
        slurm: its options.
        at_once: how many jobs of an array may run at once; default: all.

    Raises:
        UserError: no time is given, or submitit or SLURM is missing; a dry run needs no SLURM.
    """
    if slurm.time is None:
        raise UserError("a job needs --time, the longest it may run at once: e.g. --time 2:00:00")
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError(f"submitit is not installed: {INSTALL}") from None
    if not slurm.dry_run and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError("there is no sbatch on PATH: submit on a machine with SLURM, or see the script with --dry-run")

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:  # submitit itself writes no script where there is no SLURM
            return 2

    executor = Executor(folder, max_num_timeout=slurm.max_timeouts)
    more = dict(option.removeprefix("--").partition("=")[::2] for option in slurm.sbatch)
    executor.update_parameters(
        job_name=name,
        time=minutes(slurm.time),
        nodes=slurm.nodes,
        ntasks_per_node=slurm.tasks_per_node,
        gpus_per_node=slurm.gpus_per_node or None,
        cpus_per_task=slurm.cpus_per_task,
        partition=slurm.partition,
        signal_delay_s=slurm.grace_seconds,
        stderr_to_stdout=True,
        wckey=None,
        array_parallelism=at_once or sys.maxsize,
        # Since SLURM 22.05 srun does not take this from sbatch.
        srun_args=[f"--cpus-per-task={slurm.cpus_per_task}"] if slurm.cpus_per_task else None,
        additional_parameters={"requeue": True} | {option: value or True for option, value in more.items()},
    )
    return executor


def script(executor: Any, count: int = 1) -> str:
    """Return the batch script of a job, or of an array of `count` jobs."""
    if count > 1:
        executor.parameters["map_count"] = count
    return compat.submitit_script(executor)


def submit(executor: Any, commands: Sequence[list[str]]) -> list[str]:
    """Submit a job, or an array of jobs, one for each command; return the ids.

    Raises:
        UserError: SLURM refuses it.
    """
    import cloudpickle
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    # Pickled with its source, so that the job's own process imports only submitit and not this package with JAX.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints the error and raises it
            return [job.job_id for job in executor.submit_array([Job(command) for command in commands])]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"SLURM refused the job: {error}") from None


def queued(jobs: Iterable[str]) -> list[str]:
    """Return the ids of those jobs that wait or run, an array's jobs singly; none without SLURM."""
    jobs = set(jobs)
    if not jobs or not shutil.which("squeue"):
        return []
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"squeue does not answer after {error.timeout:g} seconds: try again later") from None
    if listed.returncode:
        raise UserError(f"squeue failed: {listed.stderr.strip()}")
    return sorted(jobs & set(listed.stdout.split()))


# ---------------------------------------------------------------- the job as it runs


class Job:
    """A command that saves when a signal of SLURM comes, and resumes in a requeued job; submitit calls it.

    SLURM signals all processes of a step. SIGUSR2 announces the end of the time, or on some clusters a preemption: the
    command does not see it and gets a SIGTERM in its place. SIGTERM means a preemption or a `scancel`, and the command
    gets it from SLURM. If the command has saved and exits while the job still counts as running, it is requeued.

    Args:
        command: the program and its arguments; it exits with 143 once it has saved.
    """

    def __init__(self, command: list[str]):
        self.command = command

    def __call__(self) -> None:
        requeue: Any = signal.getsignal(signal.SIGUSR2)  # submitit's
        warned = []
        # The command and the processes that it starts inherit the mask and never see the signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        process = subprocess.Popen(self.command)

        def tell(signum: int, frame: Any) -> None:
            warned.append(signum)
            process.terminate()

        signal.signal(signal.SIGUSR2, tell)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        status = process.wait()
        status = 128 - status if status < 0 else status
        if status == STOPPED and (warned or _running()):
            try:
                requeue(signal.SIGUSR2, None)  # exits, in the first of several processes
            except RuntimeError as error:
                sys.exit(f"{error} The run is saved: submit it again, with a larger --max-timeouts if need be.")
        if status:
            sys.exit(status)

    def checkpoint(self) -> Any:
        """Return the call for a requeued job: the same command, which resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _running() -> bool:
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={os.environ['SLURM_JOB_ID']}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() == "RUNNING"
