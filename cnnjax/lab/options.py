"""From a command line to an experiment's options and its run directory; what `launch.py` and its commands share."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cnnjax import runs, train
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import experiments, workspace
from cnnjax.train.parallel import MODES


@dataclass(frozen=True)
class Directory:
    """Where a run lies."""

    out: Annotated[
        Path | None, tyro.conf.arg(help="Run directory; default: results/runs/EXPERIMENT-<hash of the options>.")
    ] = None
    overwrite: Annotated[bool, tyro.conf.arg(help="Delete what an earlier run left in the directory.")] = False


@dataclass(frozen=True)
class Execution:
    """How to run it; none of this changes the result."""

    parallel: Annotated[str, tyro.conf.arg(help="How a step is mapped over the devices: shard_map or pmap.")] = (
        "shard_map"
    )
    distributed: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            metavar="[HOST:PORT PROCESSES INDEX]",
            help="Run as one of several processes: those of the SLURM, Open MPI, Kubernetes or TPU job; or as INDEX, "
            "from 0, of so many PROCESSES, the first of which listens at HOST:PORT.",
        ),
    ] = None
    distributed_wait: Annotated[
        float,
        tyro.conf.arg(help="Seconds that a start of several processes waits for all of them, from 1 to a day's 86400."),
    ] = 300.0
    profile: Annotated[
        bool,
        tyro.conf.arg(help="Write a trace of ten steps of every training to profile/, for TensorBoard."),
    ] = False
    save_every: Annotated[
        float,
        tyro.conf.arg(help="Minutes, above 0, after which the state is saved within an epoch, besides at its end."),
    ] = 10.0

    def __post_init__(self) -> None:
        if self.parallel not in MODES:
            raise unknown_name("parallel mode", self.parallel, MODES)
        if not self.save_every > 0:
            raise UserError(f"--save-every must be above 0 minutes, got {self.save_every}")
        if not 1 <= self.distributed_wait <= 86400:
            raise UserError(f"--distributed-wait must be from 1 to 86400 seconds, got {self.distributed_wait}")


def parse(command: str, description: str | None, arguments: Sequence[str], *parts: type) -> tuple[Any, ...]:
    """Return an instance of each dataclass, whose options stand side by side; help and mistakes exit as tyro does.

    Args:
        command: what stands before the options, after `launch.py`.
        description: for the help.
        arguments: to parse.
        parts: dataclasses of options; no two of one name.
    """
    description = (description or "").strip()
    return _instances(tyro.cli(_joined(parts), args=arguments, prog=f"launch.py {command}", description=description))


def parse_known(arguments: Sequence[str], *parts: type) -> tuple[tuple[Any, ...], list[str]]:
    """Return an instance of each dataclass, and the arguments that none of them knows, as they were given."""
    options: Any = _joined(parts)
    parsed, rest = tyro.cli(options, args=arguments, prog="launch.py", return_unknown_args=True, add_help=False)
    return _instances(parsed), rest


def _joined(parts: Sequence[type]) -> type:
    omit: Any = tyro.conf.OmitArgPrefixes
    return dataclasses.make_dataclass("Options", [(part.__name__.lower(), omit[part]) for part in parts])


def _instances(parsed: Any) -> tuple[Any, ...]:
    return tuple(getattr(parsed, field.name) for field in dataclasses.fields(parsed))


def experiment_name(command: str, description: str | None, arguments: Sequence[str], *parts: type) -> str:
    """Return the experiment that a command's arguments begin with; in its place, --help shows the command's options."""
    known = experiments.files()
    if not arguments:
        raise UserError(f"{command} takes an experiment: {', '.join(known)}")
    if arguments[0] in ("-h", "--help"):
        parse(f"{command} EXPERIMENT", description, ["--help"], *parts)
    if arguments[0] not in known and not arguments[0].endswith(".py"):
        raise unknown_name("experiment", arguments[0], known)
    return arguments[0]


def check_shares(name: str, config: type) -> None:
    """Raise a UserError if an experiment of these options has nothing that several processes could share."""
    if not issubclass(config, train.Recipe):
        raise UserError(f"{name} trains nothing that processes could share: run it as one, without --distributed")


def find_run(name: str, config: Any, directory: Directory, execution: Execution) -> runs.Run:
    """Return the run of an experiment's options; nothing is made or checked."""
    options = runs.as_config(config)
    name = experiments.title(name)
    out = directory.out or workspace.find().runs / f"{name}-{runs.config_hash(options)}"
    return runs.Run(out, name, options, execution.profile, execution.save_every, runs.processes.is_first())


def resuming(arguments: Sequence[str]) -> str:
    """Return the command with these arguments that resumes what they began: without --overwrite."""
    words = [argument for argument in arguments if argument != "--overwrite"]
    return f"{workspace.find().command} {shlex.join(words)}"
