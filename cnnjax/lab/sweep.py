"""Run an experiment with every combination of the values of some options, and compare the results.

    python launch.py sweep fcn-vs-cnn --data digits --grid lr=0.01,0.001 seed=0,1,2
    python launch.py sweep fcn-vs-cnn --grid optimizer=adam,lion 'augment=,mirror,"zoom:scale=1..2,fill=1"' --epochs 5
    python launch.py sweep fcn-vs-cnn --grid lr=0.1,0.01 --slurm --time 2:00:00 --gpus-per-node 1

Every cell of the grid is a run in a directory of its own, with all other options of the experiment (`python launch.py
EXPERIMENT --help`) as given. A value with commas stands in quotes. Ctrl-C and SIGTERM reach the cells, which save. The
same command resumes a sweep: finished cells stay, failed ones run again. With --slurm the cells are an array of jobs:
the command submits cells that are neither finished nor in the queue, reports the finished ones, and ends.

The sweep directory has report.md (the table, best cell first, and the best cell's command), figures/sweep.png (the
metric against the first option, a line for each value of the second, mean and range over all others), sweep.json,
logs/ and the cells' runs.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from cnnjax import runs
from cnnjax.errors import UserError
from cnnjax.lab import experiments, workspace
from cnnjax.lab.grid import Cell, identity, make_cells, parse_grid
from cnnjax.lab.options import Execution, experiment_name, parse, parse_known, resuming
from cnnjax.lab.slurm import Slurm, joining, make_executor, queued, script, submit
from cnnjax.lab.sweep_report import STATE, value_of, write_report, write_state
from cnnjax.lab.terminal import problem
from cnnjax.options import Checked, Count
from cnnjax.runs.progress import number
from cnnjax.runs.signals import deferred_signals

LINES = 8  # of a failed cell's log that are shown
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Sweep(Checked):
    """What is swept, and how the cells are run and compared."""

    grid: tuple[str, ...] = ()
    """Values of options of the experiment, OPTION=VALUE,VALUE: e.g. "lr=0.1,0.01 seed=0,1,2"."""
    metric: str | None = None
    """Number that cells are compared by, as its path in summary.json, e.g. models.lecture-cnn.test_accuracy; default:
    the last test_accuracy there, else test_mean_iou, test_joint_iou or test_loss."""
    minimize: bool = False
    """The lowest metric is the best; always so for a metric whose name ends in loss."""
    jobs: Count | None = None
    """Cells at once; default: one for each free GPU, 1 without GPUs, and with --slurm as many as there are."""
    slurm: bool = False
    """Submit the cells to SLURM, with the options of the job below."""
    out: Path | None = None
    """Sweep directory; default: results/runs/sweep-EXPERIMENT-<hash of the grid>."""
    overwrite: bool = False
    """Delete what an earlier sweep left in the directory."""


def main(arguments: list[str]) -> int:
    """Start or resume a sweep; return 1 if a cell failed."""
    name = experiment_name("sweep", __doc__, arguments, Sweep, Slurm)
    try:
        with runs.raised_signals():
            return _sweep(name, arguments[1:])
    except runs.Interrupted as stop:
        print(f"\nstopped; what is done is saved. Resume with: {resuming(['sweep', *arguments])}", file=sys.stderr)
        return 128 + stop.signum


def _sweep(name: str, arguments: list[str]) -> int:
    (options, slurm), given = parse_known(arguments, Sweep, Slurm)
    config = experiments.config_of(experiments.load(name), given)

    def to_config(flags: list[str]) -> Any:
        return parse(f"sweep {name}", __doc__, [*arguments, *flags], config, Execution, Sweep, Slurm)[0]

    if {"-h", "--help"} & set(given):
        to_config([])
    if slurm != Slurm() and not options.slurm:
        raise UserError("options of a job, such as --time, need --slurm")
    cells = make_cells(name, parse_grid(options.grid, config), given, config, to_config)
    joined = joining(slurm, name, config, given)
    title, shared = experiments.title(name), identity(cells) | experiments.identity(name)
    folder = options.out or workspace.find().runs / f"sweep-{title}-{runs.config_hash({'experiment': title, **shared})}"
    for cell in cells:
        cell.path = folder / cell.path
    executor = make_executor(folder.absolute() / "slurm", title, slurm, options.jobs) if options.slurm else None
    if slurm.dry_run:
        print(script(executor, len(cells)))
        return 0
    _find_jobs(cells, folder, options.overwrite)
    sweep = runs.Run(folder, f"sweep {title}", shared)
    if options.overwrite:
        with contextlib.ExitStack() as held:  # locks out cells that a killed sweep has left
            for lock in folder.glob("*/.lock"):
                held.enter_context(runs.Run(lock.parent, name, {}).locked())
            sweep.clear()
    sweep.check()
    sweep.create()
    with sweep.locked():
        for cell in cells:
            cell.status = "finished" if cell.summary() else cell.status
        waiting = [cell for cell in cells if cell.status == "waiting"]
        signum = None
        if executor is not None and waiting:
            _submit(executor, waiting, joined, folder)
        elif waiting:
            signum = _run(cells, folder, options)
        write_report(cells, options.metric, options.minimize, folder, resuming(["sweep", name, *arguments]))
    if signum is not None:
        raise runs.Interrupted(signum)
    return 1 if any(cell.status == "failed" for cell in cells) else 0


# ---------------------------------------------------------------- on this machine


def _run(cells: Sequence[Cell], folder: Path, options: Sweep) -> int | None:
    """Run the waiting cells as processes; return the signal that stopped them, or None."""
    (folder / "logs").mkdir(exist_ok=True)
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(cells), completed=sum(cell.status != "waiting" for cell in cells))

        def start(cell: Cell, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
            cell.job = None
            with _log(cell, folder).open("ab") as log:
                return subprocess.Popen(
                    [*workspace.find().launcher, *cell.arguments, "--out", str(cell.path.absolute())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    process_group=0,  # a Ctrl-C of the terminal reaches the sweep alone, which passes it on once
                )

        def show(cell: Cell, code: int | None) -> None:
            text = f"[{cells.index(cell) + 1}/{len(cells)}] {cell.name}: {_outcome(cell, code, folder, options.metric)}"
            progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
            progress.update(task, advance=cell.status in ("finished", "failed"))
            try:
                write_state(cells, folder)
            except OSError as error:  # such as a full disk: the cells run on, and the record is written again later
                print(f"{problem(error)}: the sweep continues", file=sys.stderr)

        return run_side_by_side([cell for cell in cells if cell.status == "waiting"], slots(options.jobs), start, show)


def run_side_by_side(
    cells: Sequence[Cell],
    slots: Sequence[Mapping[str, str]],
    start: Callable[[Cell, Mapping[str, str]], subprocess.Popen[bytes]],
    show: Callable[[Cell, int | None], None],
) -> int | None:
    """Run a process for every cell, as many at once as there are slots; pass SIGINT and SIGTERM on to them.

    Args:
        cells: what to run, in this order.
        slots: environment variables of each of the processes that run at once.
        start: returns a cell's process.
        show: called with every cell that has started, and again with its exit code when it has ended.

    Returns:
        the signal that stopped them, or None.
    """
    waiting, free = list(cells), list(slots)
    running: dict[subprocess.Popen[bytes], tuple[Cell, Mapping[str, str]]] = {}
    passed_on = False
    with deferred_signals() as stop, _ended(running):
        while running or (waiting and stop.signum is None):
            try:
                while waiting and free and stop.signum is None:
                    cell, slot = waiting.pop(0), free.pop(0)
                    running[start(cell, slot)] = cell, slot
                    cell.status = "running"
                    show(cell, None)
                for process in [process for process in running if process.poll() is not None]:
                    cell, slot = running.pop(process)
                    free.append(slot)
                    cell.status = _status(cell, process.returncode, stop.signum)
                    show(cell, process.returncode)
                if stop.signum is not None and not passed_on:
                    passed_on = True
                    _signal(running, stop.signum)
                time.sleep(POLL_SECONDS)
            except runs.Interrupted as again:  # at a second signal cells end at once, without saving
                _signal(running, again.signum)
    return stop.signum


@contextlib.contextmanager
def _ended(running: Mapping[subprocess.Popen[bytes], Any]) -> Iterator[None]:
    """Whatever ends the block, let the processes save, and wait until they have ended."""
    try:
        yield
    finally:
        _signal(running, signal.SIGTERM)
        for process in running:
            process.wait()


def _signal(processes: Iterable[subprocess.Popen[bytes]], signum: int) -> None:
    for process in processes:
        process.send_signal(signum)


def _status(cell: Cell, code: int, signum: int | None) -> str:
    if code == 0 and cell.summary():
        return "finished"
    return "failed" if signum is None else "stopped"


def _outcome(cell: Cell, code: int | None, folder: Path, metric: str | None) -> str:
    """Describe how a cell stands that has started or ended."""
    if cell.status == "failed":
        return f"failed with exit status {code}; {_end(_log(cell, folder))}"
    if cell.status != "finished":
        return {"running": "started"}.get(cell.status, cell.status)
    path, value = value_of(cell, metric)
    result = "" if value is None else f", {path} {number(value)}"
    return f"finished in {cell.summary()['seconds']:.0f} s{result}"


def _log(cell: Cell, folder: Path) -> Path:
    return folder / "slurm" / f"{cell.job}_0_log.out" if cell.job else folder / "logs" / f"{cell.path.name}.log"


def _end(log: Path) -> str:
    """The last lines of a log and its name."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n    ".join([f"the end of {log}:", *lines[-LINES:]])


def slots(jobs: int | None) -> list[dict[str, str]]:
    """Return environment variables for each cell that runs at once: its share of the free GPUs, if there are any.

    Args:
        jobs: cells at once; None for one per GPU, or one without GPUs.
    """
    gpus = free_gpus()
    if not gpus:
        return [{}] * (jobs or 1)
    jobs = jobs or len(gpus)
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if jobs > len(gpus) else {}
    shares = [gpus[slot::jobs] or [gpus[slot % len(gpus)]] for slot in range(jobs)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share), **shared} for share in shares]


def free_gpus() -> list[str]:
    """Return the UUIDs of the visible NVIDIA GPUs that are idle, or of all if none is."""
    gpus = [line.split(", ") for line in _nvidia_smi("--query-gpu=index,uuid")]
    busy = _nvidia_smi("--query-compute-apps=gpu_uuid")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ours = [uuid for index, uuid in gpus if visible is None or {index, uuid} & set(visible.split(","))]
    return [uuid for uuid in ours if uuid not in busy] or ours


def _nvidia_smi(query: str) -> list[str]:
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


# ---------------------------------------------------------------- in SLURM


def _find_jobs(cells: Sequence[Cell], folder: Path, overwrite: bool) -> None:
    """Read the job of each cell from the record of an earlier sweep, and mark those that still wait or run."""
    record = runs.read_json(folder / STATE) or {}
    jobs = {cell["name"]: cell["job"] for cell in record.get("cells", [])}
    for cell in cells:
        cell.job = jobs.get(cell.name)
    active = queued(filter(None, jobs.values()))
    for cell in cells:
        if cell.job in active:
            cell.status = "queued"
    if overwrite and active:
        raise UserError(f"--overwrite: jobs {', '.join(active)} of {folder} are in the queue: scancel them first")


def _submit(executor: Any, cells: Sequence[Cell], joined: Sequence[str], folder: Path) -> None:
    """Submit the cells as an array of jobs; report how earlier jobs of theirs ended."""
    for cell in cells:
        if cell.job:
            print(f"{cell.name}: job {cell.job} ended without a result; {_end(_log(cell, folder))}", file=sys.stderr)
    commands = [
        [*workspace.find().launcher, *cell.arguments, *joined, "--out", str(cell.path.absolute())] for cell in cells
    ]
    for cell, job in zip(cells, submit(executor, commands), strict=True):
        cell.job, cell.status = job, "queued"
        print(f"{cell.name}: submitted as job {job}; log {_log(cell, folder)}")
