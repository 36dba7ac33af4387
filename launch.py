"""Start an experiment, or look at what experiments produced: `python launch.py --help`."""

import importlib
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

if __name__ == "__main__":  # before the libraries below are read
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C meanwhile leaves no stack trace
    # XLA:CPU allocates the temporaries of every step anew, from its own threads. glibc returns them to Linux at once,
    # which hands them out again zeroed, 4 KB at a time: a tenth to a quarter of many networks' training step. So: huge
    # pages, and what is freed stays. Blocks above 1 GiB are still returned: a heap that kept them would grow to several
    # times a large network's step. glibc reads this as a process starts, so this one starts over; of what is said twice
    # the last counts, which is yours.
    heap = "glibc.malloc.hugetlb=1"
    heap += f":glibc.malloc.mmap_threshold={1 << 30}:glibc.malloc.trim_threshold={1 << 40}"
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and not tunables.startswith(heap):
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (heap, tunables)))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

from rich.console import Console
from rich.table import Table

from cnnjax import train
from cnnjax.errors import RunError, UserError, unknown_name
from cnnjax.train import hosts
from cnnjax.train.checkpoints import are_saves_stuck
from cnnjax.train.signals import STOPPING
from experiments import EXPERIMENTS, load_experiment
from experiments.command_line import problem, say
from experiments.running import run_experiment

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
USAGE = """\
usage: python launch.py EXPERIMENT [--option VALUE ...]   run an experiment, or go on with it; --help lists its options
       python launch.py sweep EXPERIMENT --grid lr=0.1,0.01 seed=0,1,2   run every cell of a grid; --help says more
       python launch.py submit EXPERIMENT --time 2:00:00  submit an experiment to SLURM; --help says more
       python launch.py list                              what there is
       python launch.py verify                            check the lectures' claims, write results/CLAIMS.md; exit 1
                                                          if one fails
       python launch.py report                            write the published runs' reports and site, README's tables
       python launch.py publish RUN                       replace results/EXPERIMENT by a finished run
       python launch.py bench ops                         time the primitives against plain lax and torch
       python launch.py bench train                       time whole training steps against plain Flax, Keras and torch
       python launch.py bench models                      time and compare the zoo with plain Flax and torch
       python launch.py bench augment                     time every augmentation beside a training step
       python launch.py bench run                         time the whole of fcn-vs-cnn against Keras on torch and torch
       python launch.py bench stream                      train from 100,000 streamed images: waiting, and memory
       python launch.py bench resume                      what saving costs, and how soon a killed run trains again
       python launch.py bench scaling                     split a step over virtual devices and over processes
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("list", [])
    try:
        status = _command(name, rest)
        sys.stdout.flush()
        return status
    except (UserError, RunError) as error:
        say(f"{hosts.label()}error: {error}")
        return 2 if isinstance(error, UserError) else 1
    except BrokenPipeError:  # whoever read the output, `| head` for one, has seen enough
        return 0
    except OSError as error:
        say(f"error: {problem(error)}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped")
        return 128 + signal.SIGINT
    finally:
        for stream in (sys.stdout, sys.stderr):
            _give_up_unwritable(stream)


def _command(name: str, arguments: list[str]) -> int:
    if name in ("-h", "--help"):
        print((__doc__ or "").split(":")[0] + ".\n\n" + USAGE)
        return 0
    if name in COMMANDS:
        return COMMANDS[name](arguments)
    if name not in EXPERIMENTS:
        raise unknown_name("experiment or command", name, [*EXPERIMENTS, *COMMANDS])
    return run_experiment(name, arguments)


def _give_up_unwritable(stream: TextIO) -> None:
    """Drop what a stream holds if nobody takes it; Python would try again as it ends, and exit with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def list_experiments(arguments: list[str]) -> int:
    """Print every experiment with a line."""
    _no_arguments("list", arguments)
    print(USAGE)
    table = Table(box=None, pad_edge=False)
    table.add_column("experiment", style="bold", no_wrap=True)
    table.add_column("what it shows")
    for name in EXPERIMENTS:
        table.add_row(name, (load_experiment(name).__doc__ or "").splitlines()[0])
    Console().print(table)
    return 0


def verify(arguments: list[str]) -> int:
    """Check every claim: cheap ones are computed now, measured ones read from the published runs."""
    _no_arguments("verify", arguments)
    return 1 if importlib.import_module("experiments.reporting").verify(RESULTS) else 0


def report(arguments: list[str]) -> int:
    """Write the published runs as `results/README.md` and as a site, and README's two tables."""
    _no_arguments("report", arguments)
    importlib.import_module("experiments.reporting").report(RESULTS, README)
    return 0


def publish(arguments: list[str]) -> int:
    """Copy a finished run, without its checkpoints, to `results/EXPERIMENT`."""
    if len(arguments) != 1:
        raise UserError(f"publish takes one run directory, got {arguments}: python launch.py publish results/runs/RUN")
    source = Path(arguments[0])
    summary = train.read_json(source / "summary.json")
    if summary is None:
        raise UserError(f"{source} is no finished run (no summary.json): run it to its end first")
    name = str(summary.get("experiment"))
    if name not in EXPERIMENTS:  # which might be the path of anything, and what lies there is deleted
        raise unknown_name(f"experiment in {source / 'summary.json'}", name, EXPERIMENTS)
    target = RESULTS / name
    if source.resolve() == target.resolve():
        raise UserError(f"{source} is published already: publish takes a run, such as one in results/runs")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        source, target, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "profile", "slurm", ".*")
    )
    print(f"published {source} to {target}")
    return 0


def bench(arguments: list[str]) -> int:
    """Time something: `BENCHES` has what."""
    if not arguments:
        raise UserError(f"bench takes what to time: {', '.join(BENCHES)}")
    if arguments[0] not in BENCHES:
        raise unknown_name("bench", arguments[0], BENCHES)
    status: int = importlib.import_module(BENCHES[arguments[0]]).main(arguments[1:])
    return status


def sweep(arguments: list[str]) -> int:
    """Run an experiment with every combination of some options' values."""
    status: int = importlib.import_module("experiments.sweep").main(arguments)
    return status


def submit(arguments: list[str]) -> int:
    """Submit an experiment to SLURM."""
    status: int = importlib.import_module("experiments.submit").main(arguments)
    return status


def _no_arguments(command: str, arguments: list[str]) -> None:
    if arguments:
        raise UserError(f"{command} takes no arguments, got {' '.join(arguments)}")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "sweep": sweep,
    "submit": submit,
    "list": list_experiments,
    "verify": verify,
    "report": report,
    "publish": publish,
    "bench": bench,
}
BENCHES = {
    "ops": "experiments.bench_ops",
    "train": "experiments.bench_train",
    "models": "experiments.bench_models",
    "augment": "experiments.bench_augment",
    "run": "experiments.bench_run",
    "stream": "experiments.bench_stream",
    "resume": "experiments.bench_resume",
    "scaling": "experiments.bench_scaling",
}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    exit_status = main()
    for signum in STOPPING:  # which would give the process another exit status while Python ends
        signal.signal(signum, signal.SIG_IGN)
    if are_saves_stuck() or hosts.have_joined():  # whom Python would wait for
        os._exit(exit_status)
    sys.exit(exit_status)
