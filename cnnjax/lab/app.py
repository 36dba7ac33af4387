"""The command line: `python launch.py` in this repository, `cnnjax` where the package is installed."""

import contextlib
import dataclasses
import importlib
import logging
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnjax import __version__
from cnnjax.errors import RunError, UserError, unknown_name
from cnnjax.lab import experiments, workspace
from cnnjax.lab.terminal import give_up_unwritable, in_words, problem, say

if TYPE_CHECKING:  # what takes seconds to import is imported where a command needs it
    from cnnjax import runs
    from cnnjax.lab.options import Directory, Execution


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which launch.py leaves to the system meanwhile
    name, rest = (arguments[0], list(arguments[1:])) if arguments else ("list", [])
    try:
        if name in ("list", "report", "publish") and {"-h", "--help"} & set(rest):
            name, rest = "--help", []
        status = command(name)(rest)
        sys.stdout.flush()
        return status
    except (UserError, RunError) as error:
        say(in_words(error))
        return 2 if isinstance(error, UserError) else 1
    except BrokenPipeError:  # the reader of the output, such as `| head`, has ended
        return 0
    except OSError as error:
        say(f"error: {problem(error)}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped")
        return 128 + signal.SIGINT
    finally:
        for stream in (sys.stdout, sys.stderr):
            give_up_unwritable(stream)


def command(name: str) -> Callable[[list[str]], int]:
    """Return what runs the command, or the experiment, of this name.

    Raises:
        UserError: there is none.
    """
    if name in ("-h", "--help", "help"):
        return help_page
    if name == "--version":
        return version
    if name in COMMANDS:
        if name in OF_A_CHECKOUT and not workspace.find().experiments:
            raise UserError(f"{name} is for a checkout of the cnnjax repository, whose experiments it reads")
        return COMMANDS[name]
    known = experiments.files()
    if name not in known and not name.endswith(".py"):
        raise unknown_name("experiment or command", name, [*known, *COMMANDS])
    return partial(run_experiment, name)


# ---------------------------------------------------------------- an experiment


def run_experiment(name: str, arguments: list[str], callbacks: Sequence[Any] = ()) -> int:
    """Run an experiment in its directory: start it, resume it, or say that it is finished.

    Args:
        name: of the experiment, or the path of its file.
        arguments: its options, as they stand on the command line.
        callbacks: observers of every training in it.
    """
    experiment = experiments.load(name)

    from cnnjax import runs, train
    from cnnjax.lab import options, report
    from cnnjax.runs import processes
    from cnnjax.runs.hardware import use_compilation_cache
    from cnnjax.train.checkpoints import hide_late_complaints

    parts = (experiments.config_of(experiment, arguments), options.Directory, options.Execution)
    config, directory, execution = options.parse(name, experiment.__doc__, arguments, *parts)
    if execution.distributed is not None:
        _join(name, config, execution)
    run = dataclasses.replace(options.find_run(name, config, directory, execution), callbacks=callbacks)
    try:
        with runs.raised_signals(), processes.together():
            if processes.count() > 1:
                _check_same(run, directory, execution)
            if processes.from_first(partial(_finished_before, experiment, config, run, directory.overwrite)):
                return 0
            use_compilation_cache()
            hide_late_complaints()
            # A trace is of ten steps, which the host must see.
            parallel = train.Parallel(execution.parallel, epoch_program=False if execution.profile else None)
            if isinstance(config, train.Recipe):
                parallel.check_batch(config.batch_size)
            data = experiment.load(config)
            with _opened(run), _explained(run):
                started = time.perf_counter()
                summary = experiment.run(config, data, run, parallel)
                if not isinstance(summary, dict):
                    raise UserError(f"{name}: run must return a dict, the summary, got {summary!r}")
                if run.writes:
                    report.finish(experiment, run, summary, time.perf_counter() - started)
    except runs.Interrupted as stop:
        if run.writes:
            done = "is saved" if stop.saved else "since the last state that could be saved is lost"
            say(f"\nstopped; what is done {done}. Resume with: {options.resuming([name, *arguments])}")
        return 128 + stop.signum
    if run.writes:
        print(f"\nResults: {run.path} (index.html, figures/, summary.json)")
    return 0


def _join(name: str, config: Any, execution: "Execution") -> None:
    from cnnjax.lab.options import check_shares
    from cnnjax.runs import processes

    check_shares(name, type(config))
    processes.join(execution.distributed or (), execution.distributed_wait)
    logging.basicConfig(format=f"{processes.label()}%(message)s", level=logging.WARNING, force=True)
    if not processes.is_first():  # all find the same images and weights, and end after the same epoch
        for module in ("data.folders", "data.sources", "lab.starting", "train.lengths"):
            logging.getLogger(f"cnnjax.{module}").setLevel(logging.ERROR)


def _check_same(run: "runs.Run", directory: "Directory", execution: "Execution") -> None:
    from cnnjax.runs import processes
    from cnnjax.runs.hardware import describe_versions

    options = dataclasses.asdict(execution) | {"out": str(run.path.absolute()), "overwrite": directory.overwrite}
    del options["distributed"], options["distributed_wait"]
    processes.check_same({"experiment": run.experiment, **run.config, **options, **describe_versions()})


def _finished_before(experiment: experiments.Experiment, config: Any, run: "runs.Run", overwrite: bool) -> bool:
    from cnnjax.lab import longer, report

    if overwrite:
        run.clear()
    longer.lengthen(run, config)
    run.check()
    summary = run.summary()
    if summary is not None:
        with experiments.reading(run.path / "summary.json"):
            report.show(experiment, summary)
        more = f"; more --epochs with --out {run.path} go on" if hasattr(config, "epochs") else ""
        print(f"\nFinished before: {run.path} (--overwrite starts over{more})")
    return summary is not None


@contextlib.contextmanager
def _opened(run: "runs.Run") -> Iterator[None]:
    """Lock the directory inside the block, in the process that writes; the others wait for that."""
    from cnnjax.runs import processes

    if run.writes:
        run.create()
    with run.locked() if run.writes else contextlib.nullcontext():
        processes.exchange("locked")
        if not run.figures.exists():
            raise UserError(
                f"process 0 made {run.path}, but this process does not see it: choose a directory (`out`) of all hosts"
            )
        yield


@contextlib.contextmanager
def _explained(run: "runs.Run") -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(
            f"{problem(error)}. Training is saved up to the newest state in {run.checkpoints}: repair this, and the "
            "same command resumes from there"
        ) from error


# ---------------------------------------------------------------- other commands


def usage() -> str:
    """Return how each command is called, with a line on what it does."""
    rows = {
        "EXPERIMENT [--OPTION VALUE ...]": "Run an experiment, or resume it; --help lists its options.",
        "PATH/TO/FILE.py [--OPTION VALUE ...]": "Run an experiment of your own.",
    }
    for name, function in COMMANDS.items():
        if name in OF_A_CHECKOUT and not workspace.find().experiments:
            continue
        rows[f"{name} {WORDS.get(name, '')}"] = (function.__doc__ or "").partition("\n")[0]
    return "\n".join(f"  {workspace.find().typed} {words:<43} {what}" for words, what in rows.items())


def list_experiments(arguments: list[str]) -> int:
    """Print every experiment with a line."""
    from rich.console import Console
    from rich.table import Table

    _no_arguments("list", arguments)
    print(f"usage:\n{usage()}\n")
    table = Table(box=None, pad_edge=False)
    table.add_column("experiment", style="bold", no_wrap=True)
    table.add_column("what it shows")
    for name, path in experiments.files().items():
        table.add_row(name, experiments.first_line(path))
    Console().print(table)
    return 0


def help_page(arguments: list[str]) -> int:
    """Print how each command is called."""
    print("Start an experiment, or look at what experiments produced.\n\nusage:\n" + usage())
    return 0


def version(arguments: list[str]) -> int:
    """Print the version of the package, and of JAX and Python below it."""
    _no_arguments("--version", arguments)
    print(f"cnnjax {__version__}, jax {metadata.version('jax')}, Python {platform.python_version()}")
    return 0


def verify(arguments: list[str]) -> int:
    """Check the lectures' claims and write results/CLAIMS.md; exit with 1 if one fails."""
    from cnnjax.lab import again, published

    results = workspace.find().results
    for name, (options, directory) in again.commands(results, again.parse(arguments)).items():
        status = run_experiment(name, options)
        if status:
            return status
        publish([str(directory)])
    return 1 if published.verify(results) else 0


def publish(arguments: list[str]) -> int:
    """Replace results/EXPERIMENT by a finished run, without its checkpoints."""
    from cnnjax.lab import published

    place = workspace.find()
    if len(arguments) != 1:
        raise UserError(f"publish takes one run directory, got {arguments}: {place.typed} publish results/runs/RUN")
    source = Path(arguments[0])
    print(f"published {source} to {published.publish(place.results, source)}")
    return 0


def bench(arguments: list[str]) -> int:
    """Time something: ops, train, models, augment, run, stream, resume, scaling or heap."""
    known = benches()
    if not arguments or arguments[0] in ("-h", "--help"):
        raise UserError(f"bench takes what to time: {', '.join(known)}")
    if arguments[0] not in known:
        raise unknown_name("bench", arguments[0], known)
    status: int = importlib.import_module(f"experiments.bench.{arguments[0]}").main(arguments[1:])
    return status


def benches() -> list[str]:
    """Return what `bench` can time: the files of a checkout's `experiments/bench` that are commands."""
    folders = [folder / "bench" for folder in workspace.find().experiments]
    files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return [path.stem for path in files if f"bench {path.stem}" in path.read_text().partition('"""\n')[0]]


def _of_experiment(name: str, does: str) -> Callable[[list[str]], int]:
    """Return a command that runs an experiment of the package."""

    def command(arguments: list[str]) -> int:
        return run_experiment(name, arguments)

    command.__doc__ = does
    return command


def _of_module(module: str, does: str) -> Callable[[list[str]], int]:
    """Return a command whose module is imported when it is called."""

    def command(arguments: list[str]) -> int:
        status: int = importlib.import_module(f"cnnjax.lab.{module}").main(arguments)
        return status

    command.__doc__ = does
    return command


def _no_arguments(command: str, arguments: list[str]) -> None:
    if arguments:
        raise UserError(f"{command} takes no arguments, got {' '.join(arguments)}")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": list_experiments,
    "train": _of_experiment("train", "Train a network of the zoo on images of your own, or on any data set."),
    "find-lr": _of_experiment("find-lr", "Find a learning rate for train, by a sweep that raises it step by step."),
    "evaluate": _of_module("evaluating", "Evaluate a trained network on data."),
    "predict": _of_module("predicting", "Classify images, or their pixels, with a trained network."),
    "export": _of_module("exporting", "Write a trained network for other programs."),
    "compare": _of_module("comparing", "Compare runs: a table, and their curves in one figure."),
    "models": _of_module("zoo", "List the networks."),
    "summary": _of_module("layers", "Print the layers of a network with their shapes and parameters."),
    "sweep": _of_module("sweep", "Run every cell of a grid of options; --help says more."),
    "submit": _of_module("slurm", "Submit an experiment to SLURM; --help says more."),
    "verify": verify,
    "report": _of_module("own_runs", "Write the site of the published runs, and an index of your own."),
    "publish": publish,
    "bench": bench,
}
OF_A_CHECKOUT = ("verify", "publish", "bench")  # commands that read its experiments
WORDS = {  # what follows a command in the help
    "train": "--model NAME --data DATA ...",
    "find-lr": "--model NAME --data DATA ...",
    "evaluate": "RUN|NAME|FILE [--data DATA]",
    "predict": "RUN|NAME|FILE IMAGE ...",
    "export": "RUN|NAME|FILE --to FORMAT",
    "models": "[PATTERN] [--task TASK]",
    "summary": "NAME|RUN [--image-size N]",
    "sweep": "EXPERIMENT --grid OPTION=VALUE,...",
    "submit": "EXPERIMENT --time TIME",
    "compare": "RUN RUN ... [--out DIR]",
    "report": "[FOLDER]",
    "publish": "RUN",
    "bench": "WHAT",
    "verify": "[--again ID ...]",
}
