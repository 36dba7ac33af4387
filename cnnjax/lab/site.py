"""The published results as a site of plain files: pure functions from results to pages.

These functions read only the templates in assets/ and write nothing: `published.report` reads runs and writes the site.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt
from PIL import Image

from cnnjax.lab.claims import Claim, Verdict
from cnnjax.lab.explorer import explorer_data
from cnnjax.lab.report import Entry

ASSETS = Path(__file__).parent / "assets"
COPIED = ("style.css", "arithmetic.js", "explorer.js")
PAGES = {"index.html": "Experiments", "claims.html": "Claims", "explorer.html": "Explorer"}
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bvs\.)(?<!e\.g\.)(?<!i\.e\.)(?<!\bcf\.)(?<!\bal\.)\s+(?=[A-Z`])")
WIDE = 1.7  # a figure with a larger width / height takes the whole page
LARGE = 1200  # a figure of more pixels in width takes it too: on half the page its letters would be too small


def pages(entries: Sequence[Entry], unchecked: Sequence[Claim] = (), notices: Sequence[str] = ()) -> dict[str, str]:
    """Return every page's HTML by its file name.

    Args:
        entries: the published runs, in the order of the listing.
        unchecked: claims of experiments without a published run.
        notices: sentences for the reader, about damaged results or that nothing is published yet.
    """
    claims = [claim for entry in entries for claim in entry.claims] + list(unchecked)
    return {
        "index.html": _page(
            "index.html", "cnnjax", "What lectures say about convolution, checked", _index(entries, claims, notices)
        ),
        "claims.html": _page("claims.html", "Claims", "Claims of the lectures", _claims_page(claims)),
        "explorer.html": _explorer(),
        **{f"{entry.name}.html": _page("", entry.name, entry.name, _experiment(entry)) for entry in entries},
    }


def assets() -> dict[str, str]:
    """Return the files that every page loads, by name."""
    return {name: (ASSETS / name).read_text() for name in COPIED}


def figure_path(entry: Entry, figure: Path) -> str:
    """Return the path of a figure in the site."""
    return f"figures/{entry.name}/{figure.name}"


def idea(doc: str) -> str:
    """Return the first line of a docstring and the first sentence of its next paragraph as plain text."""
    first, _, rest = doc.strip().partition("\n\n")
    second = SENTENCE_END.split(" ".join(rest.partition("\n\n")[0].split()), maxsplit=1)[0]
    return " ".join(f"{first} {second}".split())


def to_html(markdown: str) -> str:
    """Return Markdown as HTML; tags in it are escaped."""
    return str(_markdown().render(markdown))


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _page(file: str, title: str, heading: str, body: str, scripts: str = "") -> str:
    links = (
        f'<a href="{name}"{" aria-current=page" if name == file else ""}>{label}</a>' for name, label in PAGES.items()
    )
    return Template((ASSETS / "template.html").read_text()).substitute(
        title=escape(title if title == "cnnjax" else f"{title} · cnnjax"),
        heading=escape(heading),
        navigation="".join(links),
        body=body,
        scripts=scripts,
    )


# ---------------------------------------------------------------- pages


def _index(entries: Sequence[Entry], claims: Sequence[Claim], notices: Sequence[str]) -> str:
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
        '<p class="lead">The lectures\' statements about convolution, computed again or measured in a run. Each '
        "experiment shows its results, and the command that repeats it.</p>"
        + "".join(f'<p class="notice">{to_html(notice)[3:-5]}</p>' for notice in notices)
        + (f'<ul class="counts">{numbers}</ul>' if numbers else "")
        + '<p class="invitation">Or try it yourself: the <a href="explorer.html">explorer</a> moves a kernel '
        "over an image and shows every product and sum.</p>"
        + (f'<h2 class="unseen">Experiments</h2><ul class="cards">{cards}</ul>' if cards else "")
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
        f'<p>{_inline(idea(entry.doc))}</p><p class="verdicts">{verdicts}</p></div></li>'
    )


def _experiment(entry: Entry) -> str:
    parts = [
        f'<p class="lead">{_inline(idea(entry.doc))}</p>',
        f"<h2>Results</h2>{_scrolling(to_html(entry.table), 'Results')}",
    ]
    if entry.figures:
        figures = "".join(_figure(entry, path) for path in entry.figures)
        parts.append(f'<h2>Figures</h2><div class="figures">{figures}</div>')
    if entry.claims:
        parts.append(f"<h2>Claims</h2>{_claims_table(entry.claims)}")
    parts.append(f"<h2>Repeat it</h2><pre><code>{escape(entry.command)}</code></pre>")
    about = entry.doc.strip().partition("\n\n")[2]
    parts.append(f"<h2>About</h2>{to_html(about)}")
    parts.append(f'<p class="meta">{escape(entry.made)}</p>')
    return "\n".join(parts)


def _figure(entry: Entry, path: Path) -> str:
    name, source = path.stem.lstrip("0123456789-").replace("-", " "), escape(figure_path(entry, path))
    size, kind_of = "", ""
    if path.suffix != ".svg":
        with Image.open(path) as picture:
            width, height = picture.size
        size = f' width="{width}" height="{height}"'
        whole = (width / height > WIDE or width > LARGE) and path.suffix != ".gif"
        kind_of = ' class="wide"' if whole else ""
    return (
        f'<figure{kind_of}><a href="{source}"><img src="{source}"{size} loading="lazy" alt="{escape(name)}"></a>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def _claims_page(claims: Sequence[Claim]) -> str:
    lead = '<p class="lead">What the lectures state, what was found here, and how much the two may differ.</p>'
    claims = sorted(claims, key=claim_order)
    errata = [claim for claim in claims if claim.verdict is Verdict.ERRATUM]
    parts = [lead]
    if errata:
        parts.append(f"<h2>Errata: where a lecture is wrong</h2>{_claims_table(errata)}<h2>All claims</h2>")
    parts.append(_claims_table(claims) if claims else "<p>No claim has been checked yet.</p>")
    return "\n".join(parts)


def _explorer() -> str:
    body = (ASSETS / "explorer.html").read_text()
    data = json.dumps(explorer_data()).replace("<", "\\u003c")
    scripts = f'<script type="application/json" id="data">{data}</script>\n'
    scripts += "".join(f'<script src="{name}"></script>\n' for name in COPIED if name.endswith(".js"))
    return _page("explorer.html", "Explorer", "Watch a window move", body, scripts)


# ---------------------------------------------------------------- claims

COLUMNS = ("claim", "what", "lecture", "here", "tolerance", "verdict")
WORDS = {  # for a verdict, of one claim and of several
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.ERRATUM: ("erratum", "errata"),
    Verdict.FAILS: ("fails", "fail"),
    Verdict.NOT_RUN: ("not run", "not run"),
}
CLASSES = {verdict: verdict.replace("not run", "open") for verdict in Verdict}  # in the style sheet


def claim_order(claim: Claim) -> tuple[str, int]:
    """Return the key that sorts claims: A2 before A10 before B1."""
    number = re.search(r"\d+", claim.id)
    return claim.id[:1], int(number[0]) if number else 0


def _claims_table(claims: Sequence[Claim]) -> str:
    head = "".join(f"<th>{title}</th>" for title in COLUMNS)
    rows = "".join(f'<tr class="{CLASSES[claim.verdict]}">{_cells(claim)}</tr>' for claim in claims)
    table = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return _scrolling(table, "Claims")


def _cells(claim: Claim) -> str:
    contents = [*map(escape, claim[:5]), _verdict(claim)]
    return "".join(
        f'<td data-title="{title}"><div>{content}</div></td>' for title, content in zip(COLUMNS, contents, strict=True)
    )


def _verdict(claim: Claim) -> str:
    badge = f'<span class="verdict {CLASSES[claim.verdict]}">{WORDS[claim.verdict][0]}</span>'
    return badge + (f'<span class="why">{escape(claim.reason)}</span>' if claim.reason else "")


def _scrolling(table: str, label: str) -> str:
    """Wrap a table in an element that scrolls on narrow screens, with the keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _inline(text: str) -> str:
    return str(_markdown().renderInline(text))
