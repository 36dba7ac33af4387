"""Animations show what `ops` compute: every window's place, products and sum, and files that hold every frame."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from cnnjax import geometry, ops, viz
from cnnjax.viz import animation

RANDOM = np.random.default_rng(0)
SETTINGS = [  # kernel, stride, padding, dilation, and of the transposed convolution output padding
    (1, 1, 0, 1, 0),
    (1, 3, 0, 1, 2),
    (2, 1, 1, 1, 0),
    (2, 2, 0, 3, 1),
    (3, 1, 0, 1, 0),
    (3, 1, 1, 2, 1),
    (3, 2, 0, 1, 0),
    (3, 2, 1, 1, 1),
    (3, 2, 3, 1, 0),
    (3, 3, 2, 2, 2),
    (4, 1, 2, 1, 0),
    (4, 2, 1, 1, 0),
]


def numbers(*shape):
    return RANDOM.integers(-5, 6, shape).astype(np.float32)


def check_windows(slide):
    """Every frame's products are the picture under the window times the kernel, and add up to the output."""
    for frame in range(slide.output.size):
        place = divmod(frame, slide.output.shape[1])
        rows, columns = slide.taps(frame)
        for (a, b), weight in np.ndenumerate(slide.kernel):
            row, column = (
                place[0] * slide.step[0] + a * slide.dilation[0],
                place[1] * slide.step[1] + b * slide.dilation[1],
            )
            assert (rows[a, 0], columns[0, b]) == (row, column)
            assert slide.products[place][a, b] == slide.picture[row, column] * weight
        assert slide.products[place].sum() == slide.output[place]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "_"), SETTINGS)
def test_windows_products_and_sums_are_those_of_conv2d(kernel, stride, padding, dilation, _):
    x, weights = numbers(5, 6), numbers(kernel, kernel)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    slide = viz.slide(x, weights, **options)
    check_windows(slide)
    y = ops.conv2d(x[None, :, :, None], weights[:, :, None, None], **options)
    np.testing.assert_array_equal(slide.output, y[0, :, :, 0])
    np.testing.assert_array_equal(slide.picture, np.pad(x, padding))
    np.testing.assert_array_equal(slide.pixels, np.pad(np.ones_like(x), padding))
    assert slide.output.shape[0] == geometry.conv_output_size(5, kernel, **options)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "extra"), SETTINGS)
def test_windows_products_and_sums_are_those_of_conv_transpose2d(kernel, stride, padding, dilation, extra):
    x, weights = numbers(3, 4), numbers(kernel, kernel)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    slide = viz.slide(x, weights, transposed=True, **options)
    check_windows(slide)
    y = ops.conv_transpose2d(x[None, :, :, None], weights[:, :, None, None], **options)
    np.testing.assert_array_equal(slide.output, y[0, :, :, 0])
    shown = slide.picture[slide.pixels].tolist()
    assert sorted(shown) == sorted(x.ravel()) or padding > dilation * (kernel - 1)  # which cuts pixels off
    assert slide.output.shape[0] == geometry.conv_transpose_output_size(3, kernel, **options)


def test_what_no_window_reads_is_known():
    slide = viz.slide(numbers(6, 6), numbers(3, 3), stride=2, padding=1)
    unused = ~animation._used(slide)
    assert unused[7].all()
    assert unused[:, 7].all()
    assert unused.sum() == 15


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: viz.slide(numbers(4), numbers(3, 3)), r"x must have 2 axes \(height, width\), got shape \(4,\)"),
        (lambda: viz.slide(numbers(4, 4), numbers(5, 5)), "the window spans 5 pixels"),
        (lambda: viz.slide(numbers(4, 4), numbers(3, 3), stride=0), "stride must be at least 1, got 0"),
        (
            lambda: viz.slide(numbers(4, 4), numbers(3, 3), transposed=True, padding="HALF"),
            "padding must be an integer",
        ),
    ],
)
def test_what_cannot_slide_is_refused_as_by_the_operation(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.fixture(scope="module")
def slide():
    return viz.slide(np.arange(25.0).reshape(5, 5), np.arange(9.0).reshape(3, 3) - 4, stride=2, padding=1)


def test_a_gif_has_a_frame_for_every_window_and_repeats(slide, tmp_path):
    viz.save_animation(slide, tmp_path / "new" / "slide.gif", "A title", seconds=0.5)
    with Image.open(tmp_path / "new" / "slide.gif") as picture:
        assert picture.n_frames == slide.output.size
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == 500
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
        looks = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            looks.append(picture.convert("RGB").tobytes())
        assert len(set(looks)) == picture.n_frames
        assert picture.info["duration"] == 2000


def test_an_svg_shows_every_number_and_loads_nothing(slide, tmp_path):
    viz.save_animation(slide, tmp_path / "slide.svg", "A <title> & more")
    written = (tmp_path / "slide.svg").read_text()
    tree = ElementTree.fromstring(written)
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "A <title> & more" in texts
    for value in slide.output.ravel():
        assert f"= {value:g}".replace("-", "−") in texts
    assert "href" not in written
    assert "<script" not in written


def test_frames_follow_each_other_in_an_svg(slide, tmp_path):
    """Of what belongs to one window alone, exactly one is visible at any time."""
    viz.save_animation(slide, tmp_path / "slide.svg")
    tree = ElementTree.fromstring((tmp_path / "slide.svg").read_text())
    sums = {f"= {value:g}".replace("-", "−") for value in slide.output.ravel()}
    lives = [
        group[0].attrib if group[0].tag.endswith("animate") else {"keyTimes": "0", "values": "visible"}
        for group in tree
        if any(element.text in sums for element in group)
    ]
    assert len(lives) == slide.output.size
    for time in np.linspace(0.001, 0.999, 97):
        visible = 0
        for life in lives:
            changes = zip(map(float, life["keyTimes"].split(";")), life["values"].split(";"), strict=True)
            visible += [value for at, value in changes if at <= time][-1] == "visible"
        assert visible == 1


def test_other_suffixes_and_paces_are_refused(slide, tmp_path):
    with pytest.raises(ValueError, match=r"suffix of path must be one of \('.gif', '.svg'\), got '.mp4'"):
        viz.save_animation(slide, tmp_path / "slide.mp4")
    with pytest.raises(ValueError, match="seconds must be positive"):
        viz.save_animation(slide, tmp_path / "slide.gif", seconds=0)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(slide, tmp_path):
    (tmp_path / "slide.gif").mkdir()
    with pytest.raises(IsADirectoryError, match=r"slide\.gif"):
        viz.save_animation(slide, tmp_path / "slide.gif")
