"""The site as files: what `report` writes of good, damaged and missing results, and what `verify` keeps for it."""

import html
import itertools
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from cnnjax.lab import experiments, ledger, published, site
from cnnjax.lab.claims import Verdict, check, erratum, not_run
from cnnjax.lab.experiments import SummaryError, reading
from cnnjax.lab.page import Entry, Figure, idea

CLAIMS = [
    check("B2", "two", "2", "2", True),
    check("B10", "ten", "3 | 4", "4", False),
    erratum("B1", "one <b>", "1", "7", True),
    not_run("Z1", "zero", "needs a run"),
]

ROOT = Path(__file__).parents[3]

PAGE = """above
<!-- options: written by launch.py report -->
{}
<!-- end of options -->
between
<!-- networks: written by launch.py report -->
{}
<!-- end of networks -->
below
"""


class Links(HTMLParser):
    """Everything that a page asks for or leads to, and the text of its elements."""

    def __init__(self, page):
        super().__init__()
        self.targets, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value for key, value in attrs if key in ("href", "src")]


@dataclass(frozen=True)
class Config:
    """Options."""

    seed: int = 0


class Experiments:
    """Experiments that exist for a test alone, in place of the real ones."""

    def __init__(self, monkeypatch, results):
        self.results, self.page, self.computed = results, results / "docs" / "page.md", []
        self.page.parent.mkdir()
        self.page.write_text(PAGE.format("old", "old"))
        (results / "bench").mkdir()
        (results / "bench" / "networks.md").write_text("| networks |\n")
        self.modules = {}
        monkeypatch.setattr(experiments, "files", lambda: self.modules)
        monkeypatch.setattr(experiments, "load", self.modules.__getitem__)

    def add(self, name, claims=(), published=True):
        def judge(summary):
            self.computed.append(name)
            missing = {claim.id for claim in claims if claim.id[0] == "M" and not summary}
            return [claim._replace(verdict=Verdict.NOT_RUN) if claim.id in missing else claim for claim in claims]

        self.modules[name] = SimpleNamespace(
            __doc__=f'What {name} shows, e.g. it.\n\nLecture S9, "A vs. B" (claim B1): it is <so>. More.\n\n    a b',
            table=lambda summary: f"| a |\n| --- |\n| {summary['value']} |",
            claims=judge,
            Config=Config,
        )
        if published:
            (self.results / name / "figures").mkdir(parents=True)
            Image.new("RGB", (60, 20)).save(self.results / name / "figures" / "1-first-one.png")
            self.write(
                name, {"value": 42, "config": {"seed": 3}, "seconds": 1.4, "device": {}, "versions": {"jax": "1"}}
            )

    def write(self, name, summary):
        text = summary if isinstance(summary, str) else json.dumps(summary)
        (self.results / name / "summary.json").write_text(text)

    def report(self):
        published.report(self.results, self.page.parent)
        return {path.name: path.read_text() for path in (self.results / "site").glob("*.html")}


@pytest.fixture
def lab(monkeypatch, tmp_path):
    return Experiments(monkeypatch, tmp_path)


def test_every_link_of_the_real_site_leads_somewhere_inside(built):
    pages = list(built.glob("*.html"))
    assert len(pages) >= 6
    for page in pages:
        for target in Links(page.read_text()).targets:
            assert not re.match(r"\w+://|//|/", target), target
            if not target.startswith(("#", "data:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
    loaded = "".join((built / name).read_text() for name in site.COPIED)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", loaded)
    assert sum(path.stat().st_size for path in built.rglob("*") if path.is_file()) < 15e6


def test_a_page_shows_idea_table_figures_claims_and_command(lab):
    lab.add("one", CLAIMS)
    pages = lab.report()
    page = pages["one.html"]
    assert "What one shows, e.g. it. Lecture S9, &quot;A vs. B&quot; (claim B1): it is &lt;so&gt;." in page
    assert "<td>42</td>" in page
    assert 'src="figures/one/1-first-one.png" width="60" height="20"' in page
    assert "<figcaption>First one</figcaption>" in page
    assert "python launch.py one --seed 3" in page
    assert "The last start took 1 seconds" in page
    assert (lab.results / "site" / "figures" / "one" / "1-first-one.png").exists()
    index = pages["index.html"]
    for expected in ("1 holds", "1 erratum", "1 fails", "1 not run", "<strong>3</strong><span>claims checked"):
        assert expected in index, expected


def test_the_reports_of_published_runs_are_written_from_their_summaries(lab):
    lab.add("one", CLAIMS)
    lab.report()
    report = (lab.results / "one" / "report.md").read_text()
    assert report.startswith("# one\n\nWhat one shows, e.g. it.")
    for part in ("    python launch.py one --seed 3\n", "| 42 |", "![First one](figures/1-first-one.png)", "| B1 |"):
        assert part in report, part


def test_claims_stand_in_their_order_and_errata_first(lab):
    lab.add("one", CLAIMS)
    page = lab.report()["claims.html"]
    assert re.findall(r'data-title="claim"><div>(\w+)', page) == ["B1", "B2", "B10", "Z1"]
    assert page.index("Errata") < page.index("one &lt;b&gt;") < page.index("All claims")
    said = "".join(part for part in re.split(r"<[^>]+>", page[page.index("Errata") : page.index("All claims")]))
    assert "B1 one &lt;b&gt;The lecture says1Right is7" in said
    assert page.index("All claims") < page.index("the lecture says 1; right is 7")
    assert "one &lt;b&gt;" in page
    assert "<b>" not in page


def test_text_of_a_summary_is_shown_and_not_obeyed(lab):
    lab.add("one")
    lab.write(
        "one",
        {
            "value": "<script>alert(1)</script> [x](javascript:alert(1))",
            "config": {},
            "seconds": 0,
            "device": {},
            "versions": {},
        },
    )
    page = lab.report()["one.html"]
    assert "script" not in Links(page).tags
    assert not any(target.startswith("javascript") for target in Links(page).targets)
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"value": 1, "config": [], "seconds": "x"}'])
def test_a_damaged_summary_is_named_and_left_out(lab, capsys, damage):
    lab.add("good")
    lab.add("bad", CLAIMS[:1])
    lab.write("bad", damage)
    pages = lab.report()
    said = capsys.readouterr().err
    assert f"{lab.results / 'bad' / 'summary.json'} is damaged: " in said
    assert set(pages) == {"index.html", "claims.html", "explorer.html", "good.html"}
    assert "bad/summary.json" in pages["index.html"]
    assert "bad" not in (lab.results / "README.md").read_text()


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_figure_is_named_and_left_out(lab, capsys, damage):
    lab.add("one")
    folder = lab.results / "one" / "figures"
    whole = sorted(path.name for path in folder.iterdir())
    (folder / "bad.png").write_bytes(damage)
    pages = lab.report()
    assert f"{folder / 'bad.png'} is damaged: " in capsys.readouterr().err
    assert all(f"figures/one/{name}" in pages["one.html"] for name in whole)
    assert "figures/one/bad.png" not in pages["one.html"]


def test_without_results_it_says_what_to_run(lab, capsys):
    lab.add("one", published=False)
    pages = lab.report()
    assert "python launch.py fcn-vs-cnn --data shapes" in capsys.readouterr().out
    assert "<code>python launch.py fcn-vs-cnn --data shapes</code>" in pages["index.html"]
    assert "explorer.html" in pages


def test_a_report_replaces_what_an_earlier_one_left(lab):
    lab.add("one")
    lab.add("two")
    assert "two.html" in lab.report()
    del lab.modules["two"]
    assert "two.html" not in lab.report()
    assert not (lab.results / "site" / "figures" / "two").exists()
    assert lab.page.read_text() == PAGE.format(published.option_table(), "| networks |")


def test_report_takes_what_verify_found_until_a_summary_changes(lab, capsys):
    lab.add("one", CLAIMS[:1])
    lab.add("two", CLAIMS[1:3])
    assert published.verify(lab.results) == 1
    assert lab.computed == ["one", "two"]
    lab.report()
    assert lab.computed == ["one", "two"]
    summary = json.loads((lab.results / "two" / "summary.json").read_text())
    lab.write("two", summary | {"value": 43})
    lab.report()
    assert lab.computed == ["one", "two", "two"]
    (lab.results / "claims.json").write_text("[]")
    lab.report()
    assert lab.computed == ["one", "two", "two", "one", "two"]


def test_verify_says_and_writes_every_verdict_and_counts_what_fails(lab, capsys):
    lab.add("one", CLAIMS)
    assert published.verify(lab.results) == 2
    printed = capsys.readouterr().out
    assert re.search(r"1 hold, 1 fail, 1 are errata, 1 not run, in \d+ seconds", printed)
    page = (lab.results / "CLAIMS.md").read_text()
    assert (
        page.index("## Errata")
        < page.index("**erratum**: the lecture says 1; right is 7")
        < page.index("## All claims")
    )
    assert "| B10 | ten | 3 \\| 4 | 4 | exact | **fails** |" in page
    assert "| **not run**: needs a run |" in page


def test_verify_names_a_damaged_summary_and_checks_what_needs_none(lab, capsys):
    lab.add("one", [CLAIMS[0], CLAIMS[0]._replace(id="M1")])
    assert published.verify(lab.results) == 0
    lab.write("one", "{")
    assert published.verify(lab.results) == 1
    assert f"{lab.results / 'one' / 'summary.json'} is damaged: " in capsys.readouterr().err


@pytest.mark.parametrize(("content", "what"), [({}, "there is no 'rows'"), ([], "list indices"), (None, "NoneType")])
def test_whatever_is_wrong_with_a_summary_is_one_error_that_names_the_file(content, what):
    with pytest.raises(SummaryError, match=f"^results is damaged: .*{what}"), reading(Path("results")):
        content["rows"]


def test_the_idea_ends_after_two_sentences_whatever_is_abbreviated():
    doc = (
        'First line, i.e. this.\n\nLecture S0, "CNNs vs. FCNs" (claims A1 to A6): both learn\nit. Not this. Nor this.\n'
    )
    assert idea(doc) == 'First line, i.e. this. Lecture S0, "CNNs vs. FCNs" (claims A1 to A6): both learn it.'
    assert idea("Only one line.") == "Only one line."


def test_a_picture_that_is_drawn_may_be_wide_a_moving_one_is_not(tmp_path):
    for name, size in {"wide.png": (400, 100), "tall.png": (100, 100), "wide.gif": (400, 100)}.items():
        Image.new("RGB", size).save(tmp_path / name)
    Path(tmp_path / "drawn.svg").write_text("<svg/>")
    figures = [Figure(tmp_path / name, name) for name in ("wide.png", "tall.png", "wide.gif", "drawn.svg")]
    page = site.pages([Entry("one", "One.", "python launch.py one", "", [], figures, "")])["one.html"]
    assert re.findall(r'<figure( class="wide")?>', page) == [' class="wide"', "", "", ""]


def test_every_published_figure_is_described_in_words(built):
    described = {(row["experiment"], row["figure"]): row["caption"] for row in ledger.rows_of("captions.csv")}
    shown = {(path.parents[1].name, path.stem) for path in (ROOT / "results").glob("*/figures/*.*")}
    assert shown == set(described)
    for (experiment, figure), caption in described.items():
        page = (built / f"{experiment}.html").read_text()
        assert f"<figcaption>{html.escape(caption)}</figcaption>" in page, figure
        assert f'alt="{html.escape(caption)}"' in page
        assert caption.endswith(".")
        assert len(caption.split()) >= 5


def test_the_site_says_which_lectures_its_names_mean(built):
    names = {one.id: one for one in ledger.lectures()}
    assert list(names) == sorted({name for entry in ledger.read() for name in entry.lectures})
    for page in ("index.html", "claims.html"):
        text = (built / page).read_text()
        for one in names.values():
            said = f"<dt>{one.id}</dt><dd><cite>{html.escape(one.title)}</cite>, {html.escape(one.where)}</dd>"
            assert said in text, one.id


def test_an_erratum_names_its_lecture_what_it_says_and_what_is_right(built):
    text = (built / "claims.html").read_text()
    errata = re.findall(r"<li><p>.*?</li>", text[text.index("Errata") : text.index("All claims")])
    assert len(errata) >= 10
    for erratum_ in errata:
        said = re.sub("<[^>]+>", " ", erratum_)
        assert re.search(r"\bS[0-4]\b", said), said
        assert "The lecture says" in said
        assert "Right is" in said


def test_pages_have_landmarks_labels_and_one_heading(built):
    for path in built.glob("*.html"):
        page = path.read_text()
        assert '<html lang="en">' in page
        for landmark in ("<header", '<nav aria-label="Pages">', '<main id="main"', "<footer"):
            assert page.count(landmark) == 1, f"{path.name}: {landmark}"
        levels = [int(level) for level in re.findall(r"<h([1-6])", page)]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), path.name
        assert not re.findall(r"<img (?![^>]*\balt=)[^>]*>", page)
