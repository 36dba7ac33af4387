"""Boxes over images: checked on the artists."""

import numpy as np

from cnnjax import viz


def test_boxes_lie_on_the_pixels_that_they_name(tmp_path):
    images = [np.zeros((8, 12, 3), np.uint8), np.zeros((20, 10, 1)), np.ones((6, 6, 3))]
    boxes = {
        "prediction": [np.array([[1, 2, 5, 7]]), np.zeros((0, 4)), np.array([[0, 0, 3, 3], [1, 1, 6, 5]])],
        "ground truth": [np.array([[2, 2, 6, 8]]), np.array([[0, 0, 0, 0]]), np.array([[0, 0, 6, 6]])],
    }
    figure = viz.boxed_images(images, boxes, ["a", "b", "c"], columns=2)
    first, second, third, empty = figure.axes
    assert first.images[0].get_extent() == [0, 12, 8, 0]  # pixel (0, 0) is the square from (0, 0) to (1, 1)
    found = [
        [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches] for axes in figure.axes
    ]
    assert found == [
        [(1, 2, 4, 5), (2, 2, 4, 6)],
        [],  # a box without area is none
        [(0, 0, 3, 3), (1, 1, 5, 4), (0, 0, 6, 6)],
        [],
    ]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", ""]
    assert not empty.axison
    assert second.images[0].get_array().shape == (20, 10)
    mine, theirs = first.patches
    assert mine.get_edgecolor() == third.patches[0].get_edgecolor() != theirs.get_edgecolor()
    assert mine.get_linestyle() != theirs.get_linestyle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["prediction", "ground truth"]
    viz.save(figure, tmp_path / "boxes.png")
