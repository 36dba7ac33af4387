"""Sizes and uses of pixels, against windows that are counted one by one."""

import numpy as np
import pytest

from cnnjax import ops
from cnnjax.errors import UserError
from cnnjax.lab.worked import Case, output_size, uses
from experiments import strides_and_padding

CASES = [Case(7, 3, 3), Case(6, 3, 2, 1), Case(5, 4, 1, 2), Case(5, 2, 3), Case(4, 1)]


def count_one_by_one(case):
    padded = np.zeros((case.size + 2 * case.padding,) * 2, int)
    places = range(0, len(padded) - case.kernel + 1, case.stride)
    for row in places:
        for column in places:
            padded[row : row + case.kernel, column : column + case.kernel] += 1
    return padded[case.padding : case.padding + case.size, case.padding : case.padding + case.size], len(places)


def test_uses_and_sizes_are_those_of_windows_counted_one_by_one():
    for case, used in zip(CASES, uses(CASES), strict=True):
        expected, size = count_one_by_one(case)
        np.testing.assert_array_equal(used, expected)
        assert output_size(case) == size


def test_two_numbers_of_s0_s_padding_example_are_an_erratum():
    (claim,) = (row for row in strides_and_padding._padded_example() if "erratum" in row.verdict)
    assert claim.reason == "the lecture says -10 -13 1 / -9 3 0; right is -10 2 1 / -15 3 0"


def test_claims_fail_where_sizes_are_rounded_up(monkeypatch):
    right = ops.conv2d

    def too_large(x, kernel, *, stride=1, padding=0, **options):
        extra = (stride if isinstance(stride, int) else 1) - 1
        return right(x, kernel, stride=stride, padding=((padding, padding + extra),) * 2, **options)

    monkeypatch.setattr(ops, "conv2d", too_large)
    assert {"C1", "C2", "C11"} <= {claim.id for claim in strides_and_padding._sizes() if not claim.ok}


@pytest.mark.parametrize(("size", "kernel"), [(13, 3), (5, 6), (5, 0)])
def test_windows_that_do_not_fit_or_cannot_be_drawn_are_refused(size, kernel):
    with pytest.raises(UserError, match="must be"):
        strides_and_padding.Config(size, kernel)
