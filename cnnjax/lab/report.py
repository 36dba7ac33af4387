"""The results of a finished run: its summary, its report and page, and its table in the terminal."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.lab import code, experiments, ledger, workspace
from cnnjax.lab.claims import Claim
from cnnjax.lab.claims import table as claims_table
from cnnjax.lab.experiments import Experiment
from cnnjax.lab.page import Entry, Figure, run_page, words
from cnnjax.lab.terminal import print_markdown
from cnnjax.runs import Run, write_text
from cnnjax.runs.hardware import describe_device, describe_versions, peak_memory

FIGURE_SUFFIXES = (".png", ".gif", ".svg")
CAPTIONS = {  # of figures that experiments share
    "curves": "Loss and accuracy over the epochs.",
    "confusion": "How the test images of each class (row) were classified (column), in per cent of the row.",
    "mistakes": "The most confident mistakes on the test images: predicted class, its probability, and true class.",
}
CHOOSING = {"task": "classification"}  # options that decide which others there are, with their defaults
FILES = ("summary.json", "metrics.jsonl", "config.json", "model.json", "weights.safetensors", "report.md")


def finish(experiment: Experiment, run: Run, summary: dict[str, Any], seconds: float) -> None:
    """Write a run's summary and report, and print its table."""
    summary |= {
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory(),
        "device": describe_device(),
        "versions": describe_versions(),
        "code": code.describe(Path(str(experiment.__file__))),
    }
    whole = {**summary, "config": run.config}
    write_pages(run.path, run.experiment, experiment, whole)
    run.finish(summary)
    show(experiment, summary)


def write_pages(folder: Path, name: str, experiment: Experiment, summary: dict[str, Any]) -> None:
    """Write a finished run's `report.md` and `index.html`; the summary must include its config."""
    entry = describe(name, experiment, summary, experiment.claims(summary), figures_in(folder / "figures"))
    write_text(folder / "report.md", page(entry))
    files = [file for file in FILES if file == "summary.json" or (folder / file).exists()]
    network = summary["config"].get("model")
    title = f"{entry.name}: {network}" if network else entry.name
    write_text(folder / "index.html", run_page(title, entry, files))


def show(experiment: Experiment, summary: dict[str, Any]) -> None:
    """Print a run's table."""
    print_markdown(experiment.table(summary))


def describe(
    name: str, experiment: Experiment, summary: Mapping[str, Any], claims: Sequence[Claim], figures: Sequence[Path]
) -> Entry:
    """Return what a report and the site show of a run; the summary must include its config."""
    device, versions = (
        ", ".join(f"{what.replace('_', ' ')} {value}" for what, value in summary[part].items())
        for part in ("device", "versions")
    )
    captions = CAPTIONS | ledger.captions(name) | getattr(experiment, "CAPTIONS", {})
    return Entry(
        name=name,
        doc=experiment.__doc__ or "",
        command=command(name, experiments.config_of(experiment, config=summary["config"]), summary["config"]),
        table=experiment.table(dict(summary)),
        claims=claims,
        figures=[Figure(path, captions.get(path.stem, words(path))) for path in figures],
        made=f"The last start took {summary['seconds']:.0f} seconds. Device: {device}. Versions: {versions}.",
    )


def page(entry: Entry) -> str:
    """Return a run as a Markdown page, beside which the figures lie in the folder figures/."""
    idea, _, rest = entry.doc.strip().partition("\n\n")
    parts = [
        f"# {entry.name}",
        idea,
        rest.split("\n\n")[0],
        f"    {entry.command}",
        entry.table,
        *([claims_table(entry.claims)] if entry.claims else []),
        *[f"![{figure.caption}](figures/{figure.path.name})" for figure in entry.figures],
        entry.made,
    ]
    return "\n\n".join(parts) + "\n"


def figures_in(folder: Path) -> list[Path]:
    """Return a run's picture files in the order of their names, its curves first."""
    files = (path for path in folder.glob("*") if path.suffix in FIGURE_SUFFIXES)
    return sorted(files, key=lambda path: (path.stem != "curves", path.name))


def command(name: str, options: type, config: Mapping[str, Any]) -> str:
    """Return the command line of a run, with the options that differ from their defaults.

    An option whose default depends on the machine, such as the data set, is always written.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    defaults |= {option: value for option, value in CHOOSING.items() if option in defaults}
    words = [workspace.find().command, config.get("file", name)]
    for option, value in config.items():
        if option not in defaults:  # the file of a person's own experiment
            continue
        flag = option.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}" if value else f"--no-{flag}"] if value != defaults.get(option) else []
        elif value is not None and value != defaults.get(option):
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *(shlex.quote(str(part)) for part in values)]
    return " ".join(words)
