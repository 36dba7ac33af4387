"""The one template of the site and of every run's page, and the parts that pages share; nothing is written here."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from markdown_it import MarkdownIt
from PIL import Image

from cnnjax.lab.claims import Claim, Verdict

ASSETS = Path(__file__).parent / "assets"
STYLE = "style.css"
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bvs\.)(?<!e\.g\.)(?<!i\.e\.)(?<!\bcf\.)(?<!\bal\.)\s+(?=[A-Z`])")
WIDE = 1.7  # a figure with a larger width / height takes the whole page
LARGE = 1200  # a figure of more pixels in width takes it too: on half the page its letters would be too small


class Figure(NamedTuple):
    """A picture file, and what it shows in words."""

    path: Path
    caption: str


class Entry(NamedTuple):
    """A finished run as reports and pages show it.

    Attributes:
        name: of the experiment.
        doc: its module's docstring.
        command: the command line that repeats it.
        table: its results as Markdown.
        claims: with their verdicts.
        figures: its pictures.
        made: its time, device and versions, in one line.
    """

    name: str
    doc: str
    command: str
    table: str
    claims: Sequence[Claim]
    figures: Sequence[Figure]
    made: str


# ---------------------------------------------------------------- pages


def fill_template(title: str, heading: str, body: str, *, head: str, style: str, footer: str, scripts: str = "") -> str:
    """Return a page's HTML.

    Args:
        title: of the window.
        heading: of the page.
        body: its HTML.
        head: HTML of the line at the top.
        style: HTML of the style sheet, a link or the sheet itself.
        footer: HTML of the last line.
        scripts: HTML of scripts.
    """
    return Template((ASSETS / "template.html").read_text()).substitute(
        title=escape(title if title == "cnnjax" else f"{title} · cnnjax"),
        heading=escape(heading),
        navigation=head,
        body=body,
        style=style,
        footer=footer,
        scripts=scripts,
    )


def lone_page(title: str, body: str, footer: str) -> str:
    """Return a page that holds its own style sheet, to lie in a directory alone."""
    style = f"<style>\n{(ASSETS / STYLE).read_text()}</style>"
    head = '<span class="brand">cnnjax</span>'
    return fill_template(title, title, body, head=head, style=style, footer=footer)


def run_page(title: str, entry: Entry, files: Sequence[str]) -> str:
    """Return the page of a run, which lies in the run's directory.

    Args:
        title: of the page.
        entry: what the run found.
        files: names of files in the directory that the page leads to.
    """
    links = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in files)
    body = f'{about(entry, "figures")}\n<h2>Files</h2><ul class="files">{links}</ul>'
    footer = "Written as the run ended. You can move this directory anywhere: its page loads nothing from outside."
    return lone_page(title, body, footer)


def about(entry: Entry, folder: str) -> str:
    """Return what a page says of a run: idea, results, figures in `folder`, claims, and the command."""
    _, _, rest = entry.doc.strip().partition("\n\n")
    parts = [
        f'<p class="lead">{inline(idea(entry.doc))}</p>',
        f"<h2>Results</h2>{scrolling(to_html(entry.table), 'Results')}",
    ]
    parts.append(figures_html(entry.figures, f"{folder}/"))
    if entry.claims:
        parts.append(f"<h2>Claims</h2>{claims_table(entry.claims)}")
    parts.append(f"<h2>Repeat it</h2><pre><code>{escape(entry.command)}</code></pre>")
    if rest:
        parts.append(f"<h2>About</h2>{to_html(rest)}")
    parts.append(f'<p class="meta">{escape(entry.made)}</p>')
    return "\n".join(parts)


def figures_html(figures: Sequence[Figure], folder: str) -> str:
    """Return pictures under a heading, "" without any; their files lie in `folder`, which ends with a slash."""
    shown = "".join(_figure(figure, f"{folder}{figure.path.name}") for figure in figures)
    return f'<h2>Figures</h2><div class="figures">{shown}</div>' if shown else ""


def _figure(figure: Figure, source: str) -> str:
    size, kind_of = "", ""
    with suppress(OSError), Image.open(figure.path) as picture:  # not of SVG, nor of one's own damaged file
        width, height = picture.size
        size = f' width="{width}" height="{height}"'
        whole = (width / height > WIDE or width > LARGE) and figure.path.suffix != ".gif"
        kind_of = ' class="wide"' if whole else ""
    source, caption = escape(source), escape(figure.caption)
    return (
        f'<figure{kind_of}><a href="{source}" aria-label="{caption} Open the picture alone.">'
        f'<img src="{source}"{size} loading="lazy" alt="{caption}"></a><figcaption>{caption}</figcaption></figure>'
    )


# ---------------------------------------------------------------- text


def idea(doc: str) -> str:
    """Return the first line of a docstring and the first sentence of its next paragraph as plain text."""
    first, _, rest = doc.strip().partition("\n\n")
    paragraph = rest.partition("\n\n")[0]
    second = "" if paragraph.startswith("    ") else SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)[0]
    return " ".join(f"{first} {second}".split())


def words(path: Path) -> str:
    """Return the name of a file as a caption: "1-first-one.png" is "First one"."""
    name = path.stem.lstrip("0123456789-_").replace("-", " ").replace("_", " ")
    return f"{name[:1].upper()}{name[1:]}" or path.stem


def to_html(markdown: str) -> str:
    """Return Markdown as HTML; tags in it are escaped."""
    return str(_markdown().render(markdown))


def inline(text: str) -> str:
    """Return a line of Markdown as HTML; tags in it are escaped."""
    return str(_markdown().renderInline(text))


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def scrolling(table: str, label: str) -> str:
    """Wrap a table in an element that scrolls on narrow screens, with the keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


# ---------------------------------------------------------------- claims

COLUMNS = ("claim", "what", "lecture", "here", "tolerance", "verdict")
WORDS = {  # for a verdict, of one claim and of several
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.ERRATUM: ("erratum", "errata"),
    Verdict.FAILS: ("fails", "fail"),
    Verdict.NOT_RUN: ("not run", "not run"),
}
CLASSES = {verdict: verdict.replace("not run", "open") for verdict in Verdict}  # in the style sheet


def claims_table(claims: Sequence[Claim]) -> str:
    """Return claims as a table, which becomes a list of cards on narrow screens."""
    head = "".join(f'<th scope="col">{title}</th>' for title in COLUMNS)
    rows = "".join(f'<tr class="{CLASSES[claim.verdict]}">{_cells(claim)}</tr>' for claim in claims)
    table = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scrolling(table, "Claims")


def _cells(claim: Claim) -> str:
    contents = [*map(escape, claim[:5]), _verdict(claim)]
    return "".join(
        f'<td data-title="{title}"><div>{content}</div></td>' for title, content in zip(COLUMNS, contents, strict=True)
    )


def _verdict(claim: Claim) -> str:
    badge = f'<span class="verdict {CLASSES[claim.verdict]}">{WORDS[claim.verdict][0]}</span>'
    return badge + (f'<span class="why">{escape(claim.reason)}</span>' if claim.reason else "")
