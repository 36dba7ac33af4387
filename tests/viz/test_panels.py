"""Panels show what they are given: checked on the artists."""

import numpy as np
import pytest

from cnnjax import viz
from cnnjax.viz import Lines, Picture


def test_pictures_stand_in_rows_with_their_titles_and_numbers(tmp_path):
    grid = np.array([[1.0, 2.0], [3.0, 0.25]])
    rows = {
        "numbers": [Picture(grid, "input", numbers=".3g", marked=grid > 2)],
        "": [Picture(np.zeros((4, 4, 3)), "a"), Picture(np.ones((4, 4)), "b", limits=(0, 2))],
    }
    figure = viz.picture_rows(rows)
    first, empty, second, third = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["input", "", "a", "b"]
    assert [text.get_text() for text in first.texts] == ["1", "2", "3", "0.25"]
    assert len(first.lines) == 1
    assert not empty.images
    assert second.images[0].get_array().shape == (4, 4, 3)
    assert third.images[0].get_clim() == (0, 2)
    viz.save(figure, tmp_path / "rows.png")


def test_numbers_that_would_not_be_legible_are_refused():
    with pytest.raises(ValueError, match=r"at most 200 cells, got \(20, 20\)"):
        viz.picture_rows({"": [Picture(np.zeros((20, 20)), numbers="g")]})


def test_a_label_has_one_colour_in_every_plot():
    x = np.arange(3)
    plots = [
        Lines("left", ("x", "y"), {"a": (x, x), "b": (x, 2 * x)}),
        Lines("right", ("x", "y"), {"b": (x, x)}, ("linear", "symlog"), styles={"b": "--"}),
    ]
    figure = viz.line_plots(plots)
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[1].get_ydata(), 2 * x)
    assert left.lines[1].get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    assert right.lines[0].get_linestyle() == "--"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
