"""A site built from the published results, and a browser to look at it."""

import os
import shutil
from pathlib import Path

import pytest

from cnnjax.lab import experiments, published

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The folder of the site of the results that are committed."""
    results = tmp_path_factory.mktemp("results")
    for name in [*experiments.files(), "claims.json"]:
        source = ROOT / "results" / name
        if source.is_dir():
            shutil.copytree(source, results / name)
        elif source.exists():
            shutil.copy(source, results / name)
    published.report(results, results / "docs")
    return (results / "site").rename(tmp_path_factory.mktemp("moved") / "a site, elsewhere")


@pytest.fixture(scope="session")
def chromium():
    """Debian's chromium, driven by Playwright; skips where one of them is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium: apt-get install chromium")
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with driver.sync_playwright() as playwright:
        # Its own sandbox refuses to be started by root, as in a container.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, built):
    """Open a page at a width and height; fails at the end if it said an error, or asked for anything else's file."""
    pages, wrong = [], []

    def opened(name, width=1280, height=900):
        page = chromium.new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith((home, "data:")) else wrong.append(request.url)
        )
        page.goto(f"{home}/{name}")
        return page

    home = built.as_uri()
    yield opened
    for page in pages:
        page.close()
    assert not wrong
