"""Grids of numbered cells show the numbers they are given."""

import numpy as np
import pytest

from cnnjax import viz
from cnnjax.viz import Grid
from cnnjax.viz.grids import number


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text()]


def test_every_cell_shows_its_value_and_every_grid_its_title_and_sign():
    figure = viz.number_grids([[Grid(np.eye(2), "image"), Grid(np.array([[-3.5]]), "kernel", "*")]])
    assert texts(figure) == ["1", "0", "0", "1", "image", "−3.5", "kernel", "*"]


def test_cells_that_are_not_known_are_empty():
    assert texts(viz.number_grids([[Grid(np.array([[np.nan, 2]]))]])) == ["2"]


def test_equal_values_have_one_colour_and_opposite_ones_two():
    figure = viz.number_grids([[Grid(np.array([[1.0, 1.0, -1.0, 0.0]]))]])
    same, also, negative, zero = figure.axes[0].images[0].get_array()[0]
    np.testing.assert_array_equal(same, also)
    assert np.abs(same - negative).max() > 0.3
    np.testing.assert_allclose(zero, 1, atol=0.01)


def test_only_the_cells_of_a_ring_are_hatched():
    cells = viz.number_grids([[Grid(np.zeros((4, 4)), ring=1)]]).axes[0].patches
    hatched = np.array([bool(cell.get_hatch()) for cell in cells]).reshape(4, 4)
    np.testing.assert_array_equal(hatched, np.pad(np.zeros((2, 2), bool), 1, constant_values=True))


def test_a_box_outlines_the_cells_that_it_names():
    *_, box = viz.number_grids([[Grid(np.zeros((5, 5)), boxes=[(1, 2, 3, 3)])]]).axes[0].patches
    corner = viz.number_grids([[Grid(np.zeros((5, 5)))]]).axes[0].patches[5 + 2]
    assert box.get_xy() == corner.get_xy()
    assert (box.get_height(), box.get_width()) == (3, 3)


@pytest.mark.parametrize(
    ("value", "shown"), [(-13.0, "−13"), (0.123456, "0.123"), (1234.5, "1234"), (float("nan"), ""), (-0.0, "0")]
)
def test_a_number_is_written_with_three_digits_or_all_before_the_point(value, shown):
    assert number(value) == shown
