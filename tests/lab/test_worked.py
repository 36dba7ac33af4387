"""Worked examples are read as lectures print them, and their formulas are those of SciPy."""

import numpy as np
import pytest
from scipy import signal

from cnnjax.errors import UserError
from cnnjax.lab import worked

RANDOM = np.random.default_rng(0)
IMAGE, KERNEL = RANDOM.normal(size=(6, 7)), RANDOM.normal(size=(3, 3))


@pytest.mark.parametrize("text", ["101/010", "1 0 1 / 0 1 0", "1,0,1/0,1,0"])
def test_rows_are_read_with_spaces_commas_or_neither(text):
    np.testing.assert_array_equal(worked.parse(text), [[1, 0, 1], [0, 1, 0]])


def test_numbers_with_several_digits_and_signs_are_read_as_numbers():
    np.testing.assert_array_equal(worked.parse("10 -1.5/0 2"), [[10, -1.5], [0, 2]])


@pytest.mark.parametrize("text", ["", "1 2/3", "a b", "1 nan", "12/345"])
def test_what_is_no_matrix_is_refused_by_the_name_of_its_option(text):
    with pytest.raises(UserError, match="--image"):
        worked.parse(text, "--image")


def test_what_is_shown_can_be_read_again():
    values = np.array([[1.5, -2], [0, 30]])
    np.testing.assert_array_equal(worked.parse(worked.show(values)), values)


def test_s0_s_sum_is_scipy_s_correlation():
    np.testing.assert_allclose(worked.s0_sum(IMAGE, KERNEL), signal.correlate2d(IMAGE, KERNEL, "valid"))


@pytest.mark.parametrize(("centred", "mode"), [(False, "full"), (True, "same")])
def test_s2_s_sums_are_scipy_s_convolution(centred, mode):
    np.testing.assert_allclose(worked.s2_sum(IMAGE, KERNEL, centred), signal.convolve2d(IMAGE, KERNEL, mode))


def test_ops_are_called_with_plain_images_and_kernels():
    np.testing.assert_allclose(worked.correlate(IMAGE, KERNEL), signal.correlate2d(IMAGE, KERNEL, "valid"), atol=1e-5)
    np.testing.assert_allclose(worked.convolve(IMAGE, KERNEL), signal.convolve2d(IMAGE, KERNEL, "valid"), atol=1e-5)
