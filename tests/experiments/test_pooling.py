"""What pooling does, against NumPy: windows, winners and means written out."""

import numpy as np
import pytest

from cnnjax.errors import UserError
from experiments import pooling

CELLS = (slice(None, None, 2), slice(1, None, 2))  # the two rows, or columns, of every 2x2 window


def test_the_worked_examples_are_windows_maxima():
    for (numbers, window, stride), ours in zip(
        ((pooling.D1_INPUT, 2, 2), (pooling.D2_INPUT, 3, 1)),
        pooling.worked_examples(),
        strict=True,
    ):
        every = np.lib.stride_tricks.sliding_window_view(numbers, (window, window))[::stride, ::stride]
        np.testing.assert_array_equal(ours, every.max((2, 3)))


def test_max_pooling_keeps_light_lines_and_min_pooling_dark_ones():
    left = pooling.contrast(seed=5)
    assert left["light on dark"]["max"] > 0.8 > 0.2 > left["dark on light"]["max"]
    assert left["dark on light"]["min"] > 0.8 > 0.2 > left["light on dark"]["min"]
    lines, noise = pooling.drawings(5)
    picture = (np.where(lines, 0.9, 0.1) + noise).astype(np.float64)
    touched = np.logical_or.reduce([lines[:, a, b] for a in CELLS for b in CELLS])
    means = np.mean([picture[:, a, b] for a in CELLS for b in CELLS], 0)
    expected = (means[touched].mean() - means[~touched].mean()) / 0.8
    assert left["light on dark"]["average"] == pytest.approx(expected, rel=1e-4)


def test_a_light_dot_within_its_window_moves_unnoticed_by_max_pooling():
    image = np.zeros((pooling.PHOTOGRAPH + 4,) * 2, np.float32)
    image[8, 4 + 8] = 1  # at the left end of its window once 4 columns are cut off
    moved = pooling.translation(image)
    np.testing.assert_array_equal(moved["max"]["unchanged"][:4], 1)
    assert moved["max"]["unchanged"][4] < 1
    assert moved[pooling.EVERY]["unchanged"][1] < 1


def test_switches_are_where_numpy_finds_the_maximum():
    rng = np.random.default_rng(3)
    values, gradients = rng.permutation(64).reshape(8, 8), rng.normal(size=(4, 4)).astype(np.float32)
    reached = pooling.switches(values, gradients)
    expected = np.zeros((8, 8), np.float32)
    for row, column in np.ndindex(4, 4):
        cell = values[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        down, right = np.unravel_index(cell.argmax(), (2, 2))
        expected[2 * row + down, 2 * column + right] = gradients[row, column]
    np.testing.assert_array_equal(reached["max"], expected)
    np.testing.assert_array_equal(reached["winners"], expected != 0)
    np.testing.assert_allclose(reached["average"], np.kron(gradients, np.full((2, 2), 0.25)))


def test_uses_counts_the_windows_of_each_pixel():
    counted = np.zeros((7, 7), int)
    for row in range(0, 5, 2):
        for column in range(0, 5, 2):
            counted[row : row + 3, column : column + 3] += 1
    np.testing.assert_array_equal(pooling.uses(7, 3, 2), counted)


def test_what_large_windows_lose_is_the_variance_within_them():
    image = pooling.load(pooling.Config(photograph="flower"))
    original = image[: pooling.PHOTOGRAPH, : pooling.PHOTOGRAPH].astype(np.float64)
    cells = original.reshape(16, 8, 16, 8)
    within = cells.var((1, 3)).mean() / original.var()
    _, error = pooling.detail(image)["average"][pooling.WINDOWS.index(8)]
    assert error == pytest.approx(within, rel=1e-4)


def test_a_seed_out_of_range_is_refused():
    with pytest.raises(UserError, match="`seed`"):
        pooling.Config(seed=-1)
