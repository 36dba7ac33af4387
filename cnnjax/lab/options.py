"""From a command line to an experiment's options and its run directory; what `launch.py` and its commands share."""

import ast
import dataclasses
import inspect
import itertools
import re
import shlex
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec

from cnnjax import runs, train
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import experiments, workspace
from cnnjax.options import Checked, Kind, Range, kinds, within
from cnnjax.train.parallel import Mode

QUOTES = "\"'"
parsed: set[str] = set()  # names of the options of this process's command


@dataclass(frozen=True)
class Directory(Checked):
    """Where a run lies."""

    out: Path | None = None
    """Run directory; default: results/runs/EXPERIMENT-<hash of the options>."""
    overwrite: bool = False
    """Delete what an earlier run left in the directory."""


@dataclass(frozen=True)
class Execution(Checked):
    """How to run it; none of this changes the result."""

    parallel: Mode = "shard_map"
    """How a step is mapped over the devices."""
    distributed: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[HOST:PORT PROCESSES INDEX]")] = None
    """Run as one of several processes: those of the SLURM, Open MPI, Kubernetes or TPU job; or as INDEX, from 0, of so
    many PROCESSES, the first of which listens at HOST:PORT."""
    distributed_wait: Annotated[float, within(1, 86400)] = 300.0
    """Seconds that a start of several processes waits for all of them."""
    profile: bool = False
    """Write a trace of ten steps of every training to profile/, for TensorBoard."""
    save_every: Annotated[float, Range("larger than 0", lambda value: value > 0)] = 10.0
    """Minutes after which the state is saved within an epoch, besides at its end."""


def parse(command: str, description: str | None, arguments: Sequence[str], *parts: type) -> tuple[Any, ...]:
    """Return an instance of each dataclass, whose options stand side by side on the command line.

    Args:
        command: what stands before the options, after `launch.py`.
        description: for the help.
        arguments: to parse.
        parts: dataclasses of options, each with a name of its own.

    Raises:
        SystemExit: --help is given, or tyro cannot parse the arguments and has said why.
        UserError: a dataclass refuses the values.
    """
    typed = workspace.find().typed
    description = (description or "").strip().replace("python launch.py", typed)
    program = f"{typed.removeprefix('python ') if typed.endswith('.py') else typed} {command}"
    return _instances(_cli(parts, args=arguments, prog=program, description=description))


def parse_known(arguments: Sequence[str], *parts: type) -> tuple[tuple[Any, ...], list[str]]:
    """Return an instance of each dataclass, and the arguments that none of them knows, as they were given."""
    options, rest = _cli(parts, args=arguments, return_unknown_args=True, add_help=False)
    return _instances(options), rest


def _cli(parts: Sequence[type], **settings: Any) -> Any:
    """What `tyro.cli` parses, with a function that makes the instance in the place of every instance."""
    for part in parts:
        parsed.update(kinds(part))
    registry, specs = ConstructorRegistry(), {part: _spec(part) for part in parts}
    registry.struct_rule(lambda info: specs.get(info.type))
    omit: Any = tyro.conf.OmitArgPrefixes
    titles = {"Config": "experiment", "Options": "command"}  # of a group of options in the help
    names = [titles.get(part.__name__, part.__name__.lower()) for part in parts]
    joined: Any = dataclasses.make_dataclass(
        "Options", [(name, omit[part]) for name, part in zip(names, parts, strict=True)]
    )
    return tyro.cli(joined, registry=registry, **settings)


def _spec(part: type) -> StructConstructorSpec:
    texts, defaults = describe(part), part()
    fields = [
        StructFieldSpec(name, _annotation(kind, getattr(defaults, name)), getattr(defaults, name), texts[name])
        for name, kind in kinds(part).items()
    ]
    # Made here, a UserError would be printed by tyro, with the library's names for the options.
    return StructConstructorSpec(lambda **values: partial(part, **values), tuple(fields))


def _annotation(kind: Kind, default: Any) -> Any:
    annotation = _number(kind) if kind.type in (int, float) else kind.annotation
    if kind.words:
        annotation = tuple[str, ...] | None
    silent = tyro.conf.arg(help_behavior_hint="")  # of an option that is off, or whose text says what is the default
    return Annotated[annotation, silent] if default is None else annotation


def _number(kind: Kind) -> Any:
    """Return the annotation of a number whose range says what is expected: tyro would name Python's types."""
    what = "an integer" if kind.type is int else "a number"
    text = kind.range.text if kind.range else ""
    expected = text if text.startswith(what) else f"{what} {text}".strip()

    def parsed_as(words: list[str]) -> Any:
        if kind.optional and words == ["None"]:
            return None
        try:
            return kind.type(words[0])
        except ValueError:
            raise ValueError(f"expected {expected}, got {words[0]!r}") from None

    return Annotated[
        kind.annotation,
        PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{'{None}|' * kind.optional}{kind.type.__name__.upper()}",
            instance_from_str=parsed_as,
            is_instance=lambda value: value is None or isinstance(value, int | float),
            str_from_instance=lambda value: [str(value)],
        ),
    ]


def _instances(options: Any) -> tuple[Any, ...]:
    return tuple(getattr(options, field.name)() for field in dataclasses.fields(options))


def describe(options: type) -> dict[str, str]:
    """Return what --help says of each field of a dataclass: its docstring, and the range of its annotation."""
    docstrings: dict[str, str] = {}
    for parent in reversed(options.__mro__):
        if dataclasses.is_dataclass(parent):
            docstrings |= _docstrings(parent)
    ranges = {name: kind.range.text if kind.range else "" for name, kind in kinds(options).items()}
    said = {name: text and f"Must be {text}." for name, text in ranges.items()}
    return {name: with_flags(f"{docstrings.get(name, '')} {text}".strip(), ranges) for name, text in said.items()}


def _docstrings(options: type) -> dict[str, str]:
    """The string below each field in the source of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    found = {}
    for field, below in itertools.pairwise(getattr(definition, "body", ())):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def with_flags(message: str, names: Collection[str]) -> str:
    """Return a message of the library in the words of a command line.

    What stands in backticks and is an option becomes a flag: `lr` is --lr, `clip_norm=1` is --clip-norm 1, and
    `overwrite=True` is --overwrite.

    Args:
        message: names arguments in backticks.
        names: the command's options; other words stay as they are.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if name not in names:
            return found[0]
        words = name.replace("_", "-")
        if value in (None, "True", "False"):
            return f"--no-{words}" if value == "False" else f"--{words}"
        return f"--{words} {shlex.quote(value[1:-1]) if value[:1] in QUOTES else value}"

    return re.sub(r"`(?P<name>[a-z]\w*)(=(?P<value>[^`]*))?`", flag, message)


def experiment_name(command: str, description: str | None, arguments: Sequence[str], *parts: type) -> str:
    """Return the experiment that a command's arguments begin with; in its place, --help shows the command's options."""
    known = [*experiments.files(), *experiments.BUILT_IN]
    if not arguments:
        raise UserError(f"{command} takes an experiment: {', '.join([*known, 'or the path of your own'])}")
    if arguments[0] in ("-h", "--help"):
        parse(f"{command} EXPERIMENT", description, ["--help"], *parts)
    if arguments[0] not in known and not arguments[0].endswith(".py"):
        raise unknown_name("experiment", arguments[0], known)
    return str(Path(arguments[0]).absolute()) if arguments[0].endswith(".py") else arguments[0]


def check_shares(name: str, config: type) -> None:
    """Raise a UserError if an experiment of these options has nothing that several processes could share."""
    if not issubclass(config, train.Recipe):
        raise UserError(f"{name} trains nothing that processes could share: run it as one, without `distributed`")


def find_run(name: str, config: Any, directory: Directory, execution: Execution) -> runs.Run:
    """Return the run of an experiment's options; nothing is made or checked."""
    options = runs.as_config(config) | experiments.identity(name)
    options |= getattr(config, "identity", dict)()  # of its data
    name = experiments.title(name)
    out = directory.out or workspace.find().runs / f"{name}-{runs.config_hash(options)}"
    return runs.Run(out, name, options, execution.profile, execution.save_every, runs.processes.is_first())


def resuming(arguments: Sequence[str]) -> str:
    """Return the command with these arguments that resumes what they began: without --overwrite."""
    words = [argument for argument in arguments if argument != "--overwrite"]
    return f"{workspace.find().typed} {shlex.join(words)}"
