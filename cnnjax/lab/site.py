"""The published results as a site of plain files: pure functions from results to pages.

These functions read only the templates in assets/ and write nothing: `published.report` reads runs and writes the site.
"""

import json
import re
from collections.abc import Sequence
from html import escape

from cnnjax.lab.claims import Claim, Verdict
from cnnjax.lab.explorer import explorer_data
from cnnjax.lab.ledger import Lecture
from cnnjax.lab.page import (
    ASSETS,
    CLASSES,
    STYLE,
    WORDS,
    Entry,
    Figure,
    about,
    claims_table,
    fill_template,
    idea,
    inline,
    to_html,
)

COPIED = (STYLE, "arithmetic.js", "explorer.js")
PAGES = {"index.html": "Experiments", "claims.html": "Claims", "explorer.html": "Explorer"}
FOOTER = (
    "Written by <code>python launch.py report</code> from the published runs. You can move this folder anywhere: it "
    "loads nothing from outside."
)


def pages(
    entries: Sequence[Entry],
    unchecked: Sequence[Claim] = (),
    notices: Sequence[str] = (),
    lectures: Sequence[Lecture] = (),
) -> dict[str, str]:
    """Return every page's HTML by its file name.

    Args:
        entries: the published runs, in the order of the listing.
        unchecked: claims of experiments without a published run.
        notices: sentences for the reader, about damaged results or that nothing is published yet.
        lectures: what the names of the lectures in all texts mean.
    """
    claims = [claim for entry in entries for claim in entry.claims] + list(unchecked)
    home = "What lectures say about convolution, checked"
    return {
        "index.html": _page("index.html", "cnnjax", home, _index(entries, claims, notices, lectures)),
        "claims.html": _page("claims.html", "Claims", "Claims of the lectures", _claims_page(claims, lectures)),
        "explorer.html": _explorer(),
        **{f"{entry.name}.html": _page("", entry.name, entry.name, about(entry, _folder(entry))) for entry in entries},
    }


def assets() -> dict[str, str]:
    """Return the files that every page loads, by name."""
    return {name: (ASSETS / name).read_text() for name in COPIED}


def figure_path(entry: Entry, figure: Figure) -> str:
    """Return the path of a figure in the site."""
    return f"{_folder(entry)}/{figure.path.name}"


def _folder(entry: Entry) -> str:
    return f"figures/{entry.name}"


def _page(file: str, title: str, heading: str, body: str, scripts: str = "") -> str:
    links = (
        f'<a href="{name}"{" aria-current=page" if name == file else ""}>{label}</a>' for name, label in PAGES.items()
    )
    head = f'<a class="brand" href="index.html">cnnjax</a>\n<nav aria-label="Pages">{"".join(links)}</nav>'
    style = f'<link rel="stylesheet" href="{STYLE}">'
    return fill_template(title, heading, body, head=head, style=style, footer=FOOTER, scripts=scripts)


# ---------------------------------------------------------------- pages


def _index(
    entries: Sequence[Entry], claims: Sequence[Claim], notices: Sequence[str], lectures: Sequence[Lecture]
) -> str:
    verdicts = [claim.verdict for claim in claims]
    counts = {
        "experiments": len(entries),
        "claims checked": len(claims) - verdicts.count(Verdict.NOT_RUN),
        "of them hold": verdicts.count(Verdict.HOLDS),
        "are errata": verdicts.count(Verdict.ERRATUM),
        "fail": verdicts.count(Verdict.FAILS),
    }
    numbers = "".join(f"<li><strong>{n}</strong><span>{what}</span></li>" for what, n in counts.items() if n)
    cards = "".join(_card(entry) for entry in entries)
    return (
        '<p class="lead">What five lectures state about convolutional networks, computed again or measured in a run. '
        "Each experiment shows its results, and the command that repeats it.</p>"
        + "".join(f'<p class="notice">{to_html(notice)[3:-5]}</p>' for notice in notices)
        + (f'<ul class="counts">{numbers}</ul>' if numbers else "")
        + '<p class="invitation">Or try it yourself: the <a href="explorer.html">explorer</a> moves a kernel '
        "over an image and shows every product and sum.</p>"
        + (f'<h2>Experiments</h2><ul class="cards">{cards}</ul>' if cards else "")
        + _lectures(lectures)
    )


def _card(entry: Entry) -> str:
    picture = ""
    if entry.figures:
        source = escape(figure_path(entry, entry.figures[0]))
        picture = f'<img src="{source}" alt="" loading="lazy">'
    found = [claim.verdict for claim in entry.claims]
    verdicts = " ".join(
        f'<span class="verdict {CLASSES[verdict]}">{found.count(verdict)} {words[found.count(verdict) > 1]}</span>'
        for verdict, words in WORDS.items()
        if verdict in found
    )
    return (
        f'<li class="card">{picture}<div><h3><a href="{entry.name}.html">{escape(entry.name)}</a></h3>'
        f'<p>{inline(idea(entry.doc))}</p><p class="verdicts">{verdicts}</p></div></li>'
    )


def _experiment(entry: Entry) -> str:
    return f'{about(entry, _folder(entry))}\n<p class="meta"><a href="claims.html#lectures">What S0 to S4 are</a></p>'


def _lectures(lectures: Sequence[Lecture]) -> str:
    rows = "".join(
        f"<div><dt>{escape(one.id)}</dt><dd><cite>{escape(one.title)}</cite>, {escape(one.where)}</dd></div>"
        for one in lectures
    )
    return f'<h2 id="lectures">The lectures</h2><dl class="lectures">{rows}</dl>' if rows else ""


def _claims_page(claims: Sequence[Claim], lectures: Sequence[Lecture]) -> str:
    claims = sorted(claims, key=claim_order)
    errata = "".join(_erratum(claim) for claim in claims if claim.verdict is Verdict.ERRATUM)
    parts = [
        '<p class="lead">What the lectures state, what was found here, and how much the two may differ.</p>',
        _lectures(lectures),
    ]
    if errata:
        parts.append(f'<h2>Errata: where a lecture is wrong</h2><ul class="errata">{errata}</ul>')
    parts.append("<h2>All claims</h2>")
    parts.append(claims_table(claims) if claims else "<p>No claim has been checked yet.</p>")
    return "\n".join(parts)


def _erratum(claim: Claim) -> str:
    """An erratum as text that needs no table around it."""
    right = claim.reason.rpartition("; right is ")[2]
    rows = {
        "The lecture says": claim.lecture,
        "Right is": right,
        "Found here": claim.ours if claim.ours != right else "",
    }
    said = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows.items() if text)
    return (
        f'<li><p><span class="verdict erratum">{escape(claim.id)}</span> {escape(claim.statement)}</p>'
        f"<dl>{said}</dl></li>"
    )


def _explorer() -> str:
    body = (ASSETS / "explorer.html").read_text()
    data = json.dumps(explorer_data()).replace("<", "\\u003c")
    scripts = f'<script type="application/json" id="data">{data}</script>\n'
    scripts += "".join(f'<script src="{name}"></script>\n' for name in COPIED if name.endswith(".js"))
    return _page("explorer.html", "Explorer", "Watch a window move", body, scripts)


def claim_order(claim: Claim) -> tuple[str, int]:
    """Return the key that sorts claims: A2 before A10 before B1."""
    number = re.search(r"\d+", claim.id)
    return claim.id[:1], int(number[0]) if number else 0
