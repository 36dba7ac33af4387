"""Every page in a browser, at the width of a phone and of a desk."""

import pytest

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
