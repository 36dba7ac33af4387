"""Contrast of text, by the formula of WCAG 2.2: in the style sheet, and as a browser shows it."""

import re

import pytest

from cnnjax.lab.page import ASSETS

CSS = re.sub(r"/\*.*?\*/", "", (ASSETS / "style.css").read_text(), flags=re.S)
SCRIPT = (ASSETS / "explorer.js").read_text()
TEXT, EDGE = 4.5, 3.0  # least contrast of text, and of the edges of what can be operated (AA)
# Text that has no surface of its own lies on any of these.
SURFACES = ("paper", "shade", "warn-row", "bad-row")
PLAIN = ("ink", "soft", "accent", "warn-ink")


def luminance(colour):
    digits = colour.lstrip("#")
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def colours(block):
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})\b", block))


LIGHT, DARK = (colours(block) for block in re.findall(r":root \{(.*?)\}", CSS, re.S))
THEMES = {"light": LIGHT, "dark": LIGHT | DARK}


def test_the_formula_is_that_of_wcag():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)  # the lightest grey that passes on white
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read_on_what_it_lies_on(theme):
    known = THEMES[theme]
    pairs = {(text, surface) for text in PLAIN for surface in SURFACES}
    for _, body in re.findall(r"([^{}]+)\{([^{}]*)\}", CSS):
        rule = dict(re.findall(r"(?:^|[;\s])(background|color):\s*var\(--([\w-]+)\)", body))
        if {"background", "color"} <= rule.keys():
            pairs.add((rule["color"], rule["background"]))
        elif "color" in rule:
            pairs.update((rule["color"], surface) for surface in SURFACES if rule["color"] != "accent-ink")
        elif "background" in rule:
            pairs.add(("ink", rule["background"]))
    pairs |= {("tap-ink", "tap"), ("tap-ink", "winner"), ("weight-ink", "tap"), ("weight-ink", "winner")}
    assert {("good-ink", "good"), ("accent-ink", "accent"), ("accent-ink", "accent-hover")} < pairs
    faint = {pair: round(contrast(known[pair[0]], known[pair[1]]), 2) for pair in pairs}
    assert not {pair: ratio for pair, ratio in faint.items() if ratio < TEXT}


@pytest.mark.parametrize("theme", THEMES)
def test_edges_and_the_focus_can_be_seen(theme):
    known = THEMES[theme]
    for edge in ("edge", "accent", "alarm"):
        assert contrast(known[edge], known["paper"]) >= EDGE, edge


def test_every_colour_of_the_style_sheet_has_a_name():
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.S)
    assert re.findall(r"#[0-9a-f]{3,8}\b(?![\w-]*[^;}]*\{)", rules) == ["#ffffff"]  # behind figures, drawn on white
    assert not re.findall(r"\b(?:rgb|hsl)a?\(", rules)


def test_numbers_can_be_read_on_every_shade_of_a_pixel():
    lows = [int(n) for n in re.search(r"mix\((\d+)\)} \$\{mix\((\d+)\)} \$\{mix\((\d+)\)", SCRIPT).groups()]
    threshold = float(re.search(r"BLACK_FROM = ([\d.]+)", SCRIPT)[1])
    for step in range(1001):
        share = step / 1000
        fill = "#" + "".join(f"{int(low + share * (255 - low) + 0.5):02x}" for low in lows)
        assert contrast(fill, "#ffffff" if share < threshold else "#000000") >= TEXT, share


# Of every text: its colour, what lies below it, and its words; of a number in the explorer, its cell.
READ_TEXTS = """() => {
  const rgba = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const below = (element) => {
    for (let at = element; at; at = at.parentElement) {
      if (at instanceof SVGElement && at.tagName === "g") {
        const box = at.querySelector("rect");
        if (box) return rgba(getComputedStyle(box).fill);
      }
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, style, noscript, .unseen, .skip")) continue;
    if (!element.checkVisibility?.()) continue;
    const style = getComputedStyle(element);
    found.push([rgba(element instanceof SVGElement ? style.fill : style.color), below(element),
      walker.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found; }"""


@pytest.mark.browser
@pytest.mark.parametrize("theme", THEMES)
def test_a_browser_shows_no_text_that_is_hard_to_read(theme, open_page):
    for name in ("index.html", "claims.html", "fcn-vs-cnn.html", "explorer.html"):
        page = open_page(name)
        page.emulate_media(color_scheme=theme)
        if name == "explorer.html":  # with cells of padding under the window and beside it
            page.get_by_role("button", name="Max pooling").click()
            page.fill("#padding", "1")
        texts = page.evaluate(READ_TEXTS)
        assert len(texts) > 30
        for text, surface, words in texts:
            ratio = contrast(*("#" + "".join(f"{round(c):02x}" for c in part[:3]) for part in (text, surface)))
            assert ratio >= TEXT, f"{name}: {words!r} {text} on {surface}: {ratio:.2f}"
