"""What `verify` and `report` write about all published runs: the verdicts, `results/README.md`, and the site."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnnjax import data, runs, tasks, train
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import code, experiments, ledger, markdown, site, workspace
from cnnjax.lab.claims import Claim, Verdict, count, from_json
from cnnjax.lab.claims import table as claims_table
from cnnjax.lab.experiments import SummaryError, reading
from cnnjax.lab.options import describe as describe_options
from cnnjax.lab.page import Entry
from cnnjax.lab.report import describe, figures_in, page
from cnnjax.lab.terminal import say
from cnnjax.options import kinds
from cnnjax.runs.files import read_json
from cnnjax.runs.hardware import use_compilation_cache

NOTHING = (
    "Nothing is published yet: run an experiment, for example `python launch.py fcn-vs-cnn --data shapes`, then "
    "`python launch.py publish results/runs/RUN`, and build this page again."
)
STORED = "stored run"
CHANGED, UNKNOWN = "whose code has changed", "whose code was not recorded"
STYLES = {Verdict.HOLDS: "", Verdict.ERRATUM: "yellow", Verdict.FAILS: "red", Verdict.NOT_RUN: "red"}


# ---------------------------------------------------------------- claims


def verify(results: Path) -> int:
    """Check every claim, print and write the verdicts, and return how many claims fail.

    Cheap claims are computed now; those that need a long run are read from the published summaries.
    """
    started, checked, names = time.perf_counter(), {}, list(experiments.files())
    use_compilation_cache()
    with Console(stderr=True).status("") as status:
        for number, name in enumerate(names, 1):
            status.update(f"checking {name} ({number} of {len(names)})")
            checked[name] = _claims(results, name)
    claims = [claim for of_one in checked.values() for claim in of_one]
    table = Table("claim", "what", "lecture", "here", "verdict")
    for claim in claims:
        if claim.verdict is not Verdict.HOLDS:
            row = (*claim[:4], ": ".join(part for part in (claim.verdict, claim.reason) if part))
            table.add_row(*map(escape, row), style=STYLES[claim.verdict])
    if table.row_count:
        Console().print(table)
    runs.write_text(results / "CLAIMS.md", _claims_page(claims))
    stored = {name: {"of": _fingerprint(results, name), "claims": of_one} for name, of_one in checked.items()}
    runs.write_json(results / "claims.json", stored)
    page = results / "CLAIMS.md"
    print(f"{count(claims)}, in {time.perf_counter() - started:.0f} seconds; all of them are in {page}")
    for line in (_openness(claims), _staleness(claims)):
        print(line) if line else None
    return sum(not claim.ok for claim in claims)


def _claims(results: Path, name: str) -> list[Claim]:
    """Return an experiment's claims; with a damaged summary those that are computed, and say so."""
    experiment, summary = experiments.load(name), None
    try:
        with reading(_summary_path(results, name)):
            summary = published(results, name)
            claims = list(experiment.claims(summary))
    except SummaryError as error:
        say(f"{error}; claims that need it count as not run")
        summary, claims = None, list(experiment.claims(None))
    return [_with_note(results, name, summary, claim) if claim.stored else claim for claim in claims]


def _with_note(results: Path, name: str, summary: Mapping[str, Any] | None, claim: Claim) -> Claim:
    """Say of a claim about a stored result whether the code that measured it has changed since."""
    if claim.verdict is Verdict.NOT_RUN:
        return claim
    if claim.stored == name:
        recorded, path = (summary or {}).get("code"), experiments.files()[name]
    else:
        kind, _, what = claim.stored.partition(" ")
        recorded = (runs.read_json(results / kind / f"{what}.json") or {}).get("code")
        path = experiments.files()[name].parent / kind / f"{what}.py"
    changed = code.changed(path, recorded)
    since = f" since {recorded['commit'][:7]}" if recorded and recorded["commit"] else ""
    if changed is None:
        return claim._replace(note=f"{STORED}, {UNKNOWN}")
    if changed:
        return claim._replace(note=f"{STORED}, {CHANGED}{since}: {_some(changed)}")
    return claim._replace(note=f"{STORED}, whose code is the same")


def _some(files: Sequence[str], shown: int = 3) -> str:
    names = ", ".join(files[:shown])
    return names if len(files) <= shown else f"{names} and {len(files) - shown} more"


def _staleness(claims: Sequence[Claim]) -> str:
    """Return which claims are about stored results of other code than today's, and how to measure them anew."""
    stale = [claim for claim in claims if claim.note.startswith((f"{STORED}, {CHANGED}", f"{STORED}, {UNKNOWN}"))]
    ids = " ".join(dict.fromkeys(claim.id for claim in stale if " " not in claim.stored))
    benches = sorted({claim.stored for claim in stale if " " in claim.stored})
    command = workspace.find().command
    ways = [*([f"{command} verify --again {ids}"] if ids else []), *(f"{command} {bench}" for bench in benches)]
    verb = "is" if len(stale) == 1 else "are"
    return f"{len(stale)} {verb} about stored results of code that may differ; anew: {'; '.join(ways)}" if stale else ""


def _openness(claims: Sequence[Claim]) -> str:
    entries, missing = ledger.read(), ledger.open_entries(claims)
    ids = " ".join(entry.id for entry in missing)
    return (
        f"open: {len(missing)} of the ledger's {len(entries)} statements have no claim yet ({ids})" if missing else ""
    )


def _claims_page(claims: Sequence[Claim]) -> str:
    parts = ["# The lectures' claims", f"Written by `python launch.py verify`: {count(claims)}."]
    parts += [line for line in (_openness(claims), _staleness(claims)) if line]
    errata = [claim for claim in claims if claim.verdict is Verdict.ERRATUM]
    if errata:
        parts += ["## Errata: where a lecture is wrong", claims_table(errata), "## All claims"]
    return "\n\n".join([*parts, claims_table(claims)]) + "\n"


def _known_claims(results: Path, name: str) -> list[Claim]:
    """Return the claims as `verify` stored them if the summary is still the same; else check them again."""
    path = results / "claims.json"
    try:
        with reading(path):
            stored = (runs.read_json(path) or {})[name]
            if stored["of"] == _fingerprint(results, name):
                return [from_json(claim) for claim in stored["claims"]]
    except SummaryError:
        pass  # `verify` did not write it, or not for this experiment: check them as if it had never run
    return _claims(results, name)


def _fingerprint(results: Path, name: str) -> str | None:
    path = _summary_path(results, name)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


# ---------------------------------------------------------------- report


def report(results: Path, docs: Path) -> None:
    """Write the report of every published run, `results/README.md`, the site, and the tables in the pages of docs."""
    entries: list[Entry] = []
    notices: list[str] = []
    for name in experiments.files():
        try:
            with reading(_summary_path(results, name)):
                entry = _entry(results, name, notices)
        except SummaryError as error:
            notices.append(f"{error}; left out")
        else:
            entries += [entry] if entry else []
    for notice in notices:
        say(notice)
    if not entries:
        notices.append(NOTHING)
        print(NOTHING)
    for entry in entries:
        runs.write_text(results / entry.name / "report.md", page(entry))
    runs.write_text(results / "README.md", _readme(entries))
    tables = {path.stem: path.read_text().strip() for path in sorted((results / "bench").glob("*.md"))}
    tables["options"] = option_table()
    for document in sorted(docs.glob("*.md")):
        runs.write_text(document, with_tables(document.read_text(), tables))
    shown = {entry.name for entry in entries}
    others = [claim for name in experiments.files() if name not in shown for claim in _known_claims(results, name)]
    _write_site(results / "site", entries, others, notices)
    print(f"wrote {results / 'README.md'}, the tables in {docs}, and {results / 'site' / 'index.html'}")


def _entry(results: Path, name: str, notices: list[str]) -> Entry | None:
    """Return what is published of an experiment, or None; add a notice for each damaged figure."""
    summary, experiment = published(results, name), experiments.load(name)
    if summary is None:
        return None
    figures = []
    for path in figures_in(results / name / "figures"):
        try:
            if path.suffix != ".svg":
                with Image.open(path) as picture:
                    picture.verify()
            figures.append(path)
        except (OSError, SyntaxError) as error:  # both are Pillow's
            notices.append(f"{path} is damaged: {error}; left out")
    return describe(name, experiment, summary, _known_claims(results, name), figures)


def _readme(entries: Sequence[Entry]) -> str:
    parts = [
        "# Results",
        "Published runs, written by `python launch.py report`; the claims are in [CLAIMS.md](CLAIMS.md).",
    ]
    for entry in entries:
        parts += [f"## [{entry.name}]({entry.name}/report.md)", entry.doc.splitlines()[0], entry.table]
        parts += [f"![{figure.caption}]({entry.name}/figures/{figure.path.name})" for figure in entry.figures]
    return "\n\n".join(parts) + "\n"


def _write_site(folder: Path, entries: Sequence[Entry], others: Sequence[Claim], notices: Sequence[str]) -> None:
    """Replace the folder, with all that an earlier report left there."""
    files = site.pages(entries, others, notices, ledger.lectures()) | site.assets()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for entry in entries:
        for figure in entry.figures:
            target = folder / site.figure_path(entry, figure)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(figure.path, target)


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """Return a page's text in which the lines between a table's two comments are replaced by the table."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by launch.py report -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(f"{begin}\n")
        if found:
            text = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def option_table() -> str:
    """Return the table of the options that experiments share, generated from their dataclasses."""
    rows = []
    for part in (train.Recipe, tasks.ClassificationLoss, data.Source):
        texts, defaults = describe_options(part), part()
        for name, kind in kinds(part).items():
            default = getattr(defaults, name)
            shown = "" if default in (None, "") else f"`{default}`"
            choices = f" One of {', '.join(kind.choices)}." if kind.choices else ""
            rows.append((f"`--{name.replace('_', '-')}`", shown, texts[name] + choices))
    return markdown.table(("option", "default", "what"), rows)


# ---------------------------------------------------------------- summaries


def published(results: Path, name: str) -> dict[str, Any] | None:
    """Return an experiment's published summary, or None if there is none.

    Raises:
        UserError: it cannot be read.
    """
    return runs.read_json(_summary_path(results, name))


def publish(results: Path, source: Path) -> Path:
    """Replace the published result of an experiment by a finished run, without its checkpoints; return its directory.

    Args:
        results: where published results are.
        source: the run's directory.

    Raises:
        UserError: it is no finished run of an experiment of this repository, or confirms less than what it replaces.
    """
    summary = read_json(source / "summary.json")
    if summary is None:
        raise UserError(f"{source} is no finished run (no summary.json): run it to its end first")
    name, known = str(summary.get("experiment")), experiments.files()
    if "file" in summary.get("config", {}):
        raise UserError(f"{source} is a run of your own {summary['config']['file']}: publish takes this repository's")
    if name not in known:  # it might be any path, and the folder there is deleted
        raise unknown_name(f"experiment in {source / 'summary.json'}", name, known)
    target = results / name
    if source.resolve() == target.resolve():
        raise UserError(f"{source} is published already: publish takes a run, such as one in results/runs")
    check_replaces(results, name, source, summary)
    left_out = shutil.ignore_patterns("checkpoints", "trainings", "tensorboard", "profile", "slurm", "index.html", ".*")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results) as partial:  # so that nothing is lost if the copy fails
        shutil.copytree(source, Path(partial) / name, ignore=left_out)
        shutil.rmtree(target, ignore_errors=True)
        (Path(partial) / name).rename(target)
    return target


def check_replaces(results: Path, name: str, source: Path, summary: dict[str, Any]) -> None:
    """Raise a UserError if a run with other options would replace a result that confirms more of the lectures' claims.

    Args:
        results: where results are published.
        name: of the experiment.
        source: the run's directory.
        summary: the run's.
    """
    there = published(results, name)
    ours, theirs = summary.get("config", {}), (there or {}).get("config", {})
    other = [f"{option} {ours[option]}" for option in ours if option in theirs and ours[option] != theirs[option]]
    if there is None or not other:
        return
    experiment = experiments.load(name)
    with reading(source / "summary.json"):
        lost = {claim.id for claim in experiment.claims(summary) if not claim.ok}
    with reading(_summary_path(results, name)):
        lost &= {claim.id for claim in experiment.claims(there) if claim.ok} if lost else set()
    if lost:
        raise UserError(
            f"{source} has other options than the published {name} ({', '.join(other)}) and does not confirm what that "
            f"does of the lectures ({', '.join(sorted(lost))}): it is not published in its place. Its own report is "
            f"{source / 'report.md'}"
        )


def _summary_path(results: Path, name: str) -> Path:
    return results / name / "summary.json"
