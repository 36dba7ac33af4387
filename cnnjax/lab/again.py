"""`verify --again`: the stored runs behind some claims, anew with today's code."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cnnjax.errors import UserError
from cnnjax.lab import code, experiments, workspace
from cnnjax.lab.claims import Claim, from_json
from cnnjax.lab.experiments import reading
from cnnjax.lab.report import command
from cnnjax.runs.files import read_json

HELP = """Check the lectures' claims: print the verdicts, and write them to results/CLAIMS.md.

Most claims are computed now. Those that need a long run are read from the published run (results/EXPERIMENT); the table
says where the code that it measured with has changed since. Exit status: 0 if every claim holds or corrects a lecture,
1 if one fails or could not be checked."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"verify: {message}; expected nothing, or --again and ids of claims")


def parse(arguments: Sequence[str]) -> list[str]:
    """Return the claims whose stored runs are wanted anew."""
    parser = _Parser(
        prog=f"{workspace.find().typed} verify", description=HELP, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--again",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="first do the published runs behind these claims again, with the same options, and publish them.\n"
        "A run that is stopped resumes with the same command. Example: --again E2 F3",
    )
    return list(parser.parse_args(arguments).again)


def commands(results: Path, ids: Sequence[str]) -> dict[str, tuple[list[str], Path]]:
    """Return by experiment the options of the runs behind some claims, and the directory of the new run.

    Raises:
        UserError: a claim is unknown, is computed by `verify` itself, or has no published run.
    """
    wanted: dict[str, None] = {}
    known = _last_verdicts(results) if ids else []
    for id in ids:
        wanted |= dict.fromkeys(_measured_by(id, known))
    return {name: _command(results, name) for name in wanted}


def _last_verdicts(results: Path) -> list[Claim]:
    path = results / "claims.json"
    stored = read_json(path)
    if stored is None:
        raise UserError(f"there is no {path}, which names the runs: {workspace.find().typed} verify writes it")
    with reading(path):
        return [from_json(row) for of_one in stored.values() for row in of_one["claims"]]


def _measured_by(id: str, known: Sequence[Claim]) -> list[str]:
    """Return the experiments whose stored runs decide a claim."""
    if id not in {claim.id for claim in known}:
        raise UserError(f"no claim {id!r} in results/CLAIMS.md: expected an id as it stands there, such as A3")
    measured_by = [claim.stored for claim in known if claim.id == id and claim.stored]
    others = sorted({claim.id for claim in known if claim.stored and " " not in claim.stored})
    if not measured_by:
        raise UserError(
            f"{id} is computed anew by every verify: --again takes claims about stored runs ({', '.join(others)})"
        )
    for bench in (name for name in measured_by if " " in name):
        raise UserError(f"{id} is about a benchmark: {workspace.find().typed} {bench} measures it anew")
    return measured_by


def _command(results: Path, name: str) -> tuple[list[str], Path]:
    """Return the options of the published run with a directory of its own, which the same code finds again."""
    path = results / name / "summary.json"
    summary = read_json(path)
    if summary is None:
        raise UserError(f"{name} has no published run: {workspace.find().typed} {name}, then publish its directory")
    with reading(path):
        kind = experiments.config_of(experiments.load(name), config=summary["config"])
        words = shlex.split(command(name, kind, summary["config"]))
    options = words[len(shlex.split(workspace.find().command)) + 1 :]
    out = workspace.find().runs / f"again-{name}-{code.fingerprint(experiments.files()[name])}"
    return [*options, "--out", str(out)], out
