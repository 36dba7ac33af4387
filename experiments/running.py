"""One run of an experiment, in its directory, from its command line to its report."""

import contextlib
import dataclasses
import logging
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from cnnjax import train
from cnnjax.errors import RunError, UserError
from cnnjax.train import hosts
from cnnjax.train.checkpoints import hide_late_complaints
from cnnjax.train.devices import (
    describe_device,
    describe_versions,
    peak_memory,
    use_compilation_cache,
)
from experiments import Claim, load_experiment
from experiments.command_line import Directory, Execution, check_shares, find_run, going_on, parse, problem, say
from experiments.site import Entry

FIGURE_SUFFIXES = (".png", ".gif", ".svg")


def run_experiment(name: str, arguments: list[str]) -> int:
    """Run an experiment in its directory: start, go on, or say that it is finished."""
    experiment = load_experiment(name)
    parts = (experiment.Config, Directory, Execution)
    config, directory, execution = parse(name, experiment.__doc__, arguments, *parts)
    if execution.distributed is not None:
        _join(name, config, execution)
    run = find_run(name, config, directory, execution)
    try:
        with train.raised_signals(), hosts.together():
            if hosts.count() > 1:
                _check_same(run, directory, execution)
            if hosts.from_first(partial(_finished_before, experiment, run, directory.overwrite)):
                return 0
            use_compilation_cache()
            hide_late_complaints()
            parallel = train.Parallel(execution.parallel)
            if isinstance(config, train.Recipe):
                parallel.check_batch(config.batch_size)
            loaded = experiment.load(config)
            with _opened(run), _told_how_to_go_on(run):
                _execute(experiment, config, loaded, run, parallel)
    except train.Interrupted as stop:
        if run.writes:
            done = "is saved" if stop.saved else "since the last state that could be saved is lost"
            say(f"\nstopped; what is done {done}. Go on with: {going_on([name, *arguments])}")
        return 128 + stop.signum
    if run.writes:
        print(f"\nResults: {run.path} (report.md, figures/, summary.json)")
    return 0


def _join(name: str, config: Any, execution: Execution) -> None:
    check_shares(name, type(config))
    hosts.join(execution.distributed or (), execution.distributed_wait)
    logging.basicConfig(format=f"{hosts.label()}%(message)s", level=logging.WARNING, force=True)


def _check_same(run: train.Run, directory: Directory, execution: Execution) -> None:
    options = dataclasses.asdict(execution) | {"out": str(run.path.absolute()), "overwrite": directory.overwrite}
    del options["distributed"], options["distributed_wait"]
    hosts.check_same({"experiment": run.experiment, **run.config, **options, **describe_versions()})


def _finished_before(experiment: ModuleType, run: train.Run, overwrite: bool) -> bool:
    if overwrite:
        run.clear()
    run.check()
    summary = run.summary()
    if summary is not None:
        _show(experiment, summary)
        print(f"\nFinished before: {run.path} (--overwrite starts over)")
    return summary is not None


@contextlib.contextmanager
def _opened(run: train.Run) -> Iterator[None]:
    """Own the directory inside the block, in the process that writes; the others wait for it."""
    if run.writes:
        run.create()
    with run.locked() if run.writes else contextlib.nullcontext():
        hosts.exchange("locked")
        if not run.figures.exists():
            raise UserError(f"process 0 made {run.path}, this one does not see it: choose an --out that every host has")
        yield


@contextlib.contextmanager
def _told_how_to_go_on(run: train.Run) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(
            f"{problem(error)}. Training is saved up to the newest state in {run.checkpoints}: put this right, and "
            "the same command goes on from there"
        ) from error


def _execute(experiment: ModuleType, config: Any, loaded: Any, run: train.Run, parallel: train.Parallel) -> None:
    started = time.perf_counter()
    summary = experiment.run(config, loaded, run, parallel)
    if not run.writes:
        return
    summary |= {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_bytes": peak_memory(),
        "device": describe_device(),
        "versions": describe_versions(),
    }
    whole = {**summary, "config": run.config}
    entry = describe(run.experiment, experiment, whole, experiment.claims(whole), figures_in(run.figures))
    train.write_text(run.path / "report.md", report_page(entry))
    run.finish(summary)
    _show(experiment, summary)


def describe(
    name: str, experiment: ModuleType, summary: Mapping[str, Any], claims: Sequence[Claim], figures: Sequence[Path]
) -> Entry:
    """Return what a report and the site show of a run, whose config stands in the summary."""
    device, versions = (
        ", ".join(f"{what.replace('_', ' ')} {value}" for what, value in summary[part].items())
        for part in ("device", "versions")
    )
    return Entry(
        name=name,
        doc=experiment.__doc__ or "",
        command=command(name, summary["config"]),
        table=experiment.table(summary),
        claims=claims,
        figures=figures,
        made=f"The last start took {summary['seconds']:.0f} seconds. Device: {device}. Versions: {versions}.",
    )


def report_page(entry: Entry) -> str:
    """Return a run as Markdown, with its figures in the folder figures/ beside the page."""
    idea, _, rest = entry.doc.strip().partition("\n\n")
    parts = [
        f"# {entry.name}",
        idea,
        rest.split("\n\n")[0],
        f"    {entry.command}",
        entry.table,
        *([claims_table(entry.claims)] if entry.claims else []),
        *[f"![{path.stem.replace('-', ' ')}](figures/{path.name})" for path in entry.figures],
        entry.made,
    ]
    return "\n\n".join(parts) + "\n"


def figures_in(folder: Path) -> list[Path]:
    """Return a run's pictures by name."""
    return sorted(path for path in folder.glob("*") if path.suffix in FIGURE_SUFFIXES)


def command(experiment: str, config: Mapping[str, Any]) -> str:
    """Return the command line of a run; options that are off or not given are left out."""
    given = {
        f"--{key.replace('_', '-')}": value
        for key, value in config.items()
        if not (value in (None, "") or value is False)
    }
    options = (flag if value is True else f"{flag} {shlex.quote(str(value))}" for flag, value in given.items())
    return " ".join(["python launch.py", experiment, *options])


def claims_table(claims: Sequence[Claim]) -> str:
    """Return claims as a Markdown table; what does not simply hold stands out."""
    rows = [("claim", "what", "lecture", "here", "tolerance", "verdict"), ("---",) * 6]
    rows += [(*claim[:5], claim.verdict if claim.verdict == "holds" else _bold(claim.verdict)) for claim in claims]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _bold(verdict: str) -> str:
    word, colon, why = verdict.partition(":")
    return f"**{word}**{colon}{why}"


def _show(experiment: ModuleType, summary: dict[str, Any]) -> None:
    Console().print(Markdown(experiment.table(summary)))
