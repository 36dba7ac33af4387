"""The explorer in a browser: it shows what `ops` compute, refuses what they refuse, and works by keyboard."""

import math
import re

import numpy as np
import pytest

from cnnjax import geometry, ops, viz
from cnnjax.lab.explorer import explorer_data

pytestmark = pytest.mark.browser

DATA = explorer_data()
POOLS = {"max": ops.max_pool2d, "min": ops.min_pool2d, "average": ops.avg_pool2d}
READ_OUTPUT = """() => [...document.querySelectorAll("#output [data-row]")].map(
  (cell) => [Number(cell.dataset.row), Number(cell.dataset.column), cell.querySelector("text").textContent])"""
READ_TAPS = """() => [...document.querySelectorAll("#input [data-row]:has(.weight)")].map(
  (cell) => [Number(cell.dataset.row), Number(cell.dataset.column), cell.querySelector(".weight").textContent])"""

FILL_KERNEL = """(values) => {
  const inputs = [...document.querySelectorAll("#kernel input")];
  if (inputs.length !== values.length) throw Error(`${inputs.length} inputs for ${values.length} values`);
  inputs.forEach((input, n) => { input.value = values[n]; });
  inputs[0].dispatchEvent(new Event("input", { bubbles: true })); }"""


LETTERS = {"i": "size", "k": "window", "s": "stride", "p": "padding", "d": "dilation", "e": "extra"}


def number(text):
    return float(text.replace("−", "-").replace("∞", "inf"))


def random_setting(random):
    operation = random.choice(["convolution", "pooling", "transposed"])
    image = random.choice(list(DATA["images"]))
    largest = len(DATA["images"][image])
    pool = random.choice(list(POOLS))
    return {
        "operation": operation,
        "image": image,
        "pool": pool,
        "size": int(random.integers(1, (min(largest, 5) if operation == "transposed" else largest) + 1)),
        "window": int(random.choice([1, 2, 2, 3, 3, 4, 5, 7])),
        "stride": int(random.choice([1, 1, 2, 2, 3, 8])),
        "padding": int(random.choice([0, 0, 1, 2, 3])),
        "dilation": 1 if operation == "pooling" and pool == "average" else int(random.choice([1, 1, 2, 4])),
        "extra": int(random.integers(0, 2)) if operation == "transposed" else 0,
    }


def shown_fields(setting):
    hidden = {"convolution": ("pool", "extra"), "transposed": ("pool",), "pooling": ("extra",)}[setting["operation"]]
    if setting["operation"] == "pooling" and setting["pool"] == "average":
        hidden += ("dilation",)
    return {key: value for key, value in setting.items() if key not in hidden}


def choose(page, setting, kernel):
    """Fill the form as a person does, from top to bottom; the kernel at once, which saves hundreds of round trips."""
    for key, value in shown_fields(setting).items():
        if key in ("operation", "image", "pool"):
            page.select_option(f"#{key}", value)
        elif page.input_value(f"#{key}") != str(value):
            page.fill(f"#{key}", str(value))
    if setting["operation"] != "pooling":
        page.evaluate(FILL_KERNEL, kernel.ravel().tolist())


def computed(setting, kernel):
    """What ops give, (rows, columns), and the windows of a convolution; raises ValueError where ops do."""
    n, options = setting["size"], {key: setting[key] for key in ("stride", "padding", "dilation")}
    x = np.asarray(DATA["images"][setting["image"]], np.float32)[:n, :n]
    if setting["operation"] == "pooling":
        if setting["pool"] == "average":
            del options["dilation"]
        return POOLS[setting["pool"]](x[None, :, :, None], setting["window"], **options)[0, :, :, 0], None
    transposed = setting["operation"] == "transposed"
    slide = viz.slide(x, kernel, transposed=transposed, output_padding=setting["extra"], **options)  # by ops, all of it
    return slide.output, slide


def read_output(page):
    cells = page.evaluate(READ_OUTPUT)
    size = 1 + max(row for row, _, _ in cells)
    values = np.full((size, size), np.nan)
    for row, column, text in cells:
        values[row, column] = number(text)
    return values


def test_it_shows_what_ops_compute_and_refuses_what_they_refuse(open_page):
    page, random = open_page("explorer.html"), np.random.default_rng(0)
    agreed = {"convolution": 0, "pooling": 0, "transposed": 0, "refused": 0}
    while sum(agreed.values()) - agreed["refused"] < 50:
        setting = random_setting(random)
        kernel = random.integers(-3, 4, (setting["window"], setting["window"]))
        choose(page, setting, kernel)
        try:
            expected, slide = computed(setting, kernel)
        except ValueError:
            assert page.locator("#refusal").is_visible(), setting
            assert page.locator("#shown[inert]").count() == 1, setting
            agreed["refused"] += 1
            continue
        assert not page.locator("#refusal").is_visible(), (setting, page.inner_text("#refusal"))
        np.testing.assert_allclose(read_output(page), expected, atol=1e-3, err_msg=str(setting))
        check_formula(page, setting)
        check_window(page, setting, slide, expected, random)
        agreed[setting["operation"]] += 1
    assert min(agreed.values()) >= 5, agreed


def check_formula(page, setting):
    options = {key: setting[key] for key in ("stride", "padding", "dilation")}
    if setting["operation"] == "transposed":
        size = geometry.conv_transpose_output_size(
            setting["size"], setting["window"], output_padding=setting["extra"], **options
        )
    else:
        size = geometry.conv_output_size(setting["size"], setting["window"], **options)
    letters = {letter: setting[name] for letter, name in LETTERS.items()}
    values = [page.inner_text("#letters").removeprefix("o = "), *page.inner_text("#numbers").split(" = ")]
    assert {evaluated(text, letters) for text in values} == {size}, values
    assert set(map(int, re.findall(r"\d+", values[1]))) <= {1, 2, *letters.values()}, values
    assert page.inner_text("#output-name") == f"Output {size} × {size}"


def evaluated(formula, letters):
    """The value of a formula of the page: whole numbers, letters, floors, and products with or without a dot."""
    python = formula.replace("−", "-").replace("·", "*").replace("⌊", "floor(").replace("⌋", ")")
    return eval(re.sub(r"(\d)([a-z])", r"\1*\2", python), {"floor": math.floor, **letters})


def check_pooling(page, setting, row, column):
    """What is written of a pooling's window are its values, and of a mean how many."""
    pad, n, dilation = setting["padding"], setting["size"], setting["dilation"]
    average = setting["pool"] == "average"
    x = np.full((n + 2 * pad, n + 2 * pad), 0.0 if average else np.nan)  # the mean counts the padding's zeros
    x[pad : pad + n, pad : pad + n] = np.asarray(DATA["images"][setting["image"]])[:n, :n]
    top, left = row * setting["stride"], column * setting["stride"]
    taps = dilation * np.arange(setting["window"])
    window = x[top + taps[:, None], left + taps].ravel()
    expected = window[~np.isnan(window)]
    written = page.inner_text("#factors").split("\n")[0]
    if not expected.size:
        assert written == "nothing but padding"
        return
    listed, _, count = written.rpartition(" / ") if average else (written, "", "")
    np.testing.assert_allclose([number(text) for text in re.findall(r"[−\d.]+", listed)], expected, atol=1e-3)
    assert int(count) == expected.size if average else written.startswith(f"{setting['pool']}(")


def check_window(page, setting, slide, expected, random):
    """At a pixel of the output: the taps under the window, and that what is written adds up to the result."""
    row, column = (int(random.integers(0, n)) for n in expected.shape)
    page.locator(f'#output [data-row="{row}"][data-column="{column}"]').click()
    assert page.inner_text("#place") == f"Row {row + 1}, column {column + 1}"
    assert number(page.inner_text("#result")) == pytest.approx(float(expected[row, column]), abs=1e-3)
    if slide is None:
        check_pooling(page, setting, row, column)
        return
    rows, columns = slide.taps(row * expected.shape[1] + column)
    taps = {(y, x): number(text[1:]) for y, x, text in page.evaluate(READ_TAPS)}
    assert taps == {(rows[a, 0], columns[0, b]): weight for (a, b), weight in np.ndenumerate(slide.kernel)}
    factors, products = page.inner_text("#factors").split("\n= ")
    terms = [number(text.strip("()")) for text in products.split(" + ")]
    np.testing.assert_array_equal(terms, slide.products[row, column].ravel())
    pairs = [[number(part.strip("()")) for part in term.split("·")] for term in factors.split(" + ")]
    np.testing.assert_array_equal([value * weight for value, weight in pairs], terms)


@pytest.mark.parametrize(
    ("field", "wrong", "said"),
    [
        ("window", "7", "The kernel spans 7 pixels, but the padded input has only 5"),
        ("window", "9", "Kernel size must be a whole number from 1 to 7, not 9"),
        ("stride", "0", "Stride must be a whole number from 1 to 8, not 0"),
        ("stride", "", "Stride is empty"),
        ("padding", "-1", "Padding must be a whole number from 0 to 8, not −1"),
        ("padding", "1.5", "Padding must be a whole number from 0 to 8, not “1.5”"),
        ("dilation", "3", "The kernel spans 7 pixels (3 taps, dilation 3), but the padded input has only 5"),
        ("size", "6", "Image size must be a whole number from 1 to 5, not 6"),
    ],
)
def test_an_impossible_setting_is_refused_in_words_and_recovers(open_page, field, wrong, said):
    page = open_page("explorer.html")
    before, right = read_output(page), page.input_value(f"#{field}")
    page.fill(f"#{field}", wrong)
    assert said in page.inner_text("#refusal")
    assert page.locator("#shown[inert]").count() == 1
    assert page.locator("[aria-invalid=true]").get_attribute("id") == field
    page.fill(f"#{field}", right)
    assert not page.locator("#refusal").is_visible()
    assert page.locator("[aria-invalid], #shown[inert]").count() == 0
    np.testing.assert_array_equal(read_output(page), before)


def test_letters_in_the_kernel_are_refused_and_fractions_are_not(open_page):
    page = open_page("explorer.html")
    box = page.get_by_label("Kernel, row 1, column 2")
    for text in ("a", "", "1/0", "--1", "1e9"):
        box.fill(text)
        assert f"Kernel, row 1, column 2 must be a number from −1000 to 1000, like −1, 0.5 or 1/9, not “{text}”" in (
            page.inner_text("#refusal")
        )
    box.fill("1/4")
    assert not page.locator("#refusal").is_visible()
    assert page.input_value("#preset") == "your own"
    assert number(page.inner_text("#result")) == 12 - 3 + 3 / 4


def test_more_than_half_a_pooling_window_of_padding_and_pictures_too_large_are_refused(open_page):
    page = open_page("explorer.html")
    page.get_by_role("button", name="Max pooling").click()
    page.fill("#padding", "2")
    assert "Padding 2 is more than half of the pooling window, 1" in page.inner_text("#refusal")
    page.select_option("#operation", "transposed")
    page.fill("#padding", "0")
    page.fill("#stride", "2")
    page.fill("#extra", "2")
    assert "Output padding 2 must be smaller than the stride or the dilation" in page.inner_text("#refusal")
    page.fill("#extra", "0")
    page.fill("#padding", "8")
    assert "Padding 8 cuts off the whole output" in page.inner_text("#refusal")
    page.fill("#padding", "0")
    page.select_option("#image", "flower")
    page.fill("#stride", "8")
    assert "this page draws up to 32 × 32" in page.inner_text("#refusal")
    page.get_by_role("button", name="Convolution", exact=True).click()
    assert not page.locator("#refusal").is_visible()


def test_the_keyboard_reaches_everything_and_moves_the_window(open_page):
    page = open_page("explorer.html")
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):  # past the last
            break
        focus = page.evaluate(
            """() => { const e = document.activeElement, style = getComputedStyle(e);
            return [e.id || e.textContent || e.getAttribute("aria-label"), style.outlineStyle,
              parseFloat(style.outlineWidth),
              e.matches("a, button") || e.labels?.length > 0 || e.hasAttribute("aria-label")]; }"""
        )
        reached.append(focus[0])
        assert focus[1] == "solid", f"{focus[0]} does not show that it has the focus"
        assert focus[2] >= 2, focus
        assert focus[3], f"{focus[0]} has no label"
    order = ["To the content", "Claims", "Half padding", "grids", "back", "play", "next", "operation", "image", "size"]
    places = [reached.index(name) for name in [*order, "window", "stride", "padding", "dilation", "preset"]]
    assert places == sorted(places)
    assert sum(name.startswith("Kernel, row") for name in reached) == 9

    page.focus("#grids")
    keys = {"ArrowRight": "Row 1, column 2", "ArrowDown": "Row 2, column 2", "ArrowLeft": "Row 2, column 1"}
    keys |= {"ArrowUp": "Row 1, column 1", "End": "Row 3, column 3", "Home": "Row 1, column 1"}
    for key, place in keys.items():
        page.keyboard.press(key)
        assert page.inner_text("#place") == place
        assert page.inner_text("#live").startswith(f"{place}: ")
    page.keyboard.press("ArrowUp")  # stays inside
    assert page.inner_text("#place") == "Row 1, column 1"


def test_playing_moves_through_every_window_and_pauses(open_page):
    page = open_page("explorer.html")
    page.clock.install(time=0)
    page.clock.pause_at(3_600_000)  # from here on only `run_for` lets time pass
    page.get_by_role("button", name="Play").click()
    seen = []
    for _ in range(10):
        page.clock.run_for(700)
        seen.append(page.inner_text("#place"))
    assert seen[:3] == ["Row 1, column 2", "Row 1, column 3", "Row 2, column 1"]
    assert len(set(seen)) == 9  # around at the end
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(3000)
    assert page.inner_text("#place") == seen[-1]
    page.get_by_role("button", name="Back").click()
    assert page.inner_text("#place") == seen[-2]


def test_every_example_works_and_a_reload_shows_the_same(open_page):
    page = open_page("explorer.html", 390, 844)
    for name in DATA["examples"]:
        page.get_by_role("button", name=name, exact=True).click()
        assert not page.locator("#refusal").is_visible(), name
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        before = read_output(page)
        page.reload()
        np.testing.assert_array_equal(read_output(page), before, err_msg=name)


def test_the_lectures_convolution_is_the_first_example(open_page):
    expected = [[12, 12, 17], [10, 17, 19], [9, 6, 14]]  # claim B6
    np.testing.assert_array_equal(read_output(open_page("explorer.html")), expected)


def test_what_the_last_step_leaves_over_is_said(open_page):
    page = open_page("explorer.html")
    page.get_by_role("button", name="Stride and padding").click()
    assert re.sub(r"\s+", " ", page.inner_text("#note")) == (
        "5 / 2 leaves 1: the last row and column of the padded input stay unread."
    )
