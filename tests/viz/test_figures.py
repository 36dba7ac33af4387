"""Figures show what they are given: checked on the artists, and by drawing them."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from cnnjax import viz
from cnnjax.viz.figures import Curve


def test_a_saved_figure_is_a_picture(tmp_path):
    viz.save(viz.image_grid(np.zeros((9, 4, 4, 3), np.uint8), list("abcdefghi"), 3), tmp_path / "new" / "grid.png")
    with Image.open(tmp_path / "new" / "grid.png") as picture:
        assert min(picture.size) > 300


def test_image_grid_shows_every_image_with_its_title():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    figure = viz.image_grid(images, list("abcd"), 2)
    for axes, image, title in zip(figure.axes, images, "abcd", strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert axes.get_title() == title


def test_curves_draw_the_mean_of_runs_and_their_band():
    figure = viz.curves({"loss": [Curve("a", np.array([[1.0, 2.0], [3.0, 4.0]]), 0)]})
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2, 3])
    (band,) = axes.collections
    extent = band.get_paths()[0].get_extents()
    assert (extent.ymin, extent.ymax) == (1, 4)


def test_confusion_matrices_are_shares_of_the_true_class():
    figure = viz.confusion_matrices({"net": np.array([[3, 1], [0, 0]])}, ["cat", "dog"])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])


def test_kernels_stretch_each_to_its_own_range():
    weights = np.stack([np.arange(27.0).reshape(3, 3, 3), 100 * np.arange(27.0).reshape(3, 3, 3)], axis=-1)
    pictures = [axes.images[0].get_array() for axes in viz.kernels(weights, columns=2).axes]
    np.testing.assert_allclose(pictures[0], pictures[1])
    assert pictures[0].max() == pytest.approx(1)


def test_tradeoff_places_parameters_against_accuracy():
    figure = viz.tradeoff({"a": (2e6, 0.5)}, {"ref": (3e6, 0.6)})
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].lines]
    assert points == [(2, 50), (3, 60)]


def test_bubbles_have_labels_that_do_not_lie_on_each_other():
    points = {f"net{number}": (1.0, 70 + number / 100, 5.0) for number in range(6)} | {"far": (10.0, 90.0, 50.0)}
    figure = viz.bubbles(points)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in figure.axes[0].texts]
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_ratio_bars_start_at_one():
    (axes,) = viz.ratio_bars(["a", "b"], {"plain lax": [4.0, 2.0], "cnnjax": [0.5, 1.0]}, "ratio").axes
    assert {bar.get_x() for bar in axes.patches} == {1}
    assert [bar.get_x() + bar.get_width() for bar in axes.patches] == [4, 2, 0.5, 1]
    assert [text.get_text() for text in axes.texts] == ["4", "2", "0.5", "1"]


def test_option_effect_draws_the_mean_of_runs_over_numbers_in_their_order_and_leaves_out_what_is_missing():
    runs = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    (axes,) = viz.option_effect("lr", ["1", "0.01", "0.1"], {"seed=0": runs}, "accuracy").axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [0.01, 0.1, 1])
    np.testing.assert_array_equal(np.ma.filled(line.get_ydata(), np.nan), [2, np.nan, 2])
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "0.01", "0.1"]
    assert len(axes.collections) == 1


def test_option_effect_gives_words_a_place_each(tmp_path):
    figure = viz.option_effect("optimizer", ["sgd", "adam"], {"": np.array([[0.5, 0.25]])}, "accuracy")
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), [0.5, 0.25])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["sgd", "adam"]
    assert figure.axes[0].get_legend() is None
    viz.save(figure, tmp_path / "effect.png")
