"""Every page in a browser, at the width of a phone and of a desk."""

import pytest
from PIL import Image

from cnnjax.lab import comparing, own_runs, stored
from cnnjax.lab.claims import check
from cnnjax.lab.page import Entry, Figure, run_page
from tests.lab.test_comparing import make_run

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window_and_all_figures_load(open_page, built, width):
    names = sorted(path.name for path in built.glob("*.html"))
    assert {"index.html", "claims.html", "explorer.html"} < set(names)
    for name in names:
        page = open_page(name, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("h1").count() == 1
        page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)"), name


def test_one_gets_from_the_index_to_every_page_and_back(open_page, built):
    page = open_page("index.html")
    for name in page.locator(".card h3").all_inner_texts():
        page.get_by_role("link", name=name, exact=True).click()
        assert page.url.endswith(f"/{name}.html")
        assert page.inner_text("h1") == name
        page.get_by_role("link", name="Experiments").click()
    for label, name in {"Claims": "claims", "Explorer": "explorer"}.items():
        page.get_by_role("navigation").get_by_role("link", name=label).click()
        assert page.url.split("#")[0].endswith(f"/{name}.html")
        assert page.locator("nav [aria-current=page]").inner_text() == label


def test_the_first_tab_leads_past_the_navigation(open_page):
    page = open_page("claims.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_pages_of_runs_fit_into_the_window_and_load_nothing_else(chromium, tmp_path, width):
    long = "/a/folder/of/images/with/a/name/that/is/far/longer/than/a/telephone/is/wide"
    runs = [
        make_run(tmp_path / name, {"data": long, "epochs": number}, {"": [2.0, 1.0]}, {"test_accuracy": 0.5 * number})
        for number, name in enumerate(("first", "second-with-a-rather-long-name"), 1)
    ]
    (tmp_path / "first" / "figures").mkdir()
    Image.new("RGB", (3000, 400)).save(tmp_path / "first" / "figures" / "curves.png")
    figures = [Figure(tmp_path / "first" / "figures" / "curves.png", "Curves.")]
    claims = [check("Z1", long, long, long, True)]
    entry = Entry(
        "train", f"Trains.\n\n    python {long}", f"python {long}", f"| {long} |\n| --- |", claims, figures, long
    )
    (runs[0] / "index.html").write_text(run_page(f"train: {long}", entry, ["summary.json"]))
    compared = comparing.name_runs([stored.read(run) for run in runs])
    comparing.write(tmp_path / "compared", compared, comparing.table(compared))
    rows = [own_runs.Row(run, "first/index.html", f"--data {long} --epochs 2") for run in compared.values()]
    (tmp_path / "index.html").write_text(own_runs.index(tmp_path, rows))
    asked = []
    for name in ("index.html", "first/index.html", "compared/index.html"):
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontFamily").startswith("system-ui"), name
        page.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)"), name
        page.close()
    assert {url.rpartition("/")[2] for url in asked if not url.startswith("data:")} == {"index.html", "curves.png"}
