"""Sizes, twins, parameters and multiplications of convolutions, against the published guide and by hand."""

import numpy as np
import pytest

from cnnjax import ops
from cnnjax.errors import UserError
from cnnjax.lab.worked import Case, output_size
from experiments import arithmetic
from experiments.arithmetic import RELATIONSHIPS


def test_s0_s_formulas_3_to_6_are_errata():
    told = {claim.statement[:26]: claim.reason for claim in arithmetic._errata() if "erratum" in claim.verdict}
    assert list(told) == [f"S0 prints output size ({number}) " for number in (3, 4, 5, 6)]
    assert told["S0 prints output size (4) "] == "the lecture says 9; right is 7, by o = i + (k - 1)"


def test_a_relationship_is_checked_on_its_own_kind_of_convolution():
    half, full = (arithmetic.grid(RELATIONSHIPS[number]) for number in (3, 4))
    assert {case.padding - case.kernel // 2 for case in half} == {0}
    assert {case.kernel % 2 for case in half} == {1}
    assert {case.padding - case.kernel for case in full} == {-1}
    assert all(case.stride > 1 for case in arithmetic.grid(RELATIONSHIPS[5]))


def test_the_grid_has_cases_that_fit_and_cases_that_do_not():
    left_over = {arithmetic.cut_off(case) for case in arithmetic.grid(RELATIONSHIPS[6])}
    assert left_over == {0, 1, 2}


@pytest.mark.parametrize("case", [Case(8, 3, 2, 1), Case(10, 3, 3), Case(5, 4, 1, 2)])
def test_the_transposed_convolution_leads_back(case):
    assert arithmetic.transposed_size(case, output_size(case)) == case.size


def test_multiplications_are_counted_for_each_filter():
    np.testing.assert_array_equal(arithmetic.multiplications(4, 2, 3, 2), [2 * 2 * 9 * 2] * 2)


def test_multiplications_are_counted_not_computed(monkeypatch):
    monkeypatch.setattr(ops, "conv2d", lambda x, kernel: x[:, 1:-1, 1:-1, :1] * kernel.sum())
    assert arithmetic.multiplications(5, 3, 3, 1).tolist() == [9]


def test_layers_have_shapes_and_no_values():
    assert arithmetic.dense_params((10_000, 10_000, 3), 1000) == 3 * 10**11 + 1000
    assert arithmetic.conv_params(3, 10, 5, bias=False) == 750


@pytest.mark.parametrize(
    "options",
    [{"size": 0}, {"size": 5, "kernel": 6}, {"stride": 0}, {"padding": -1}, {"size": 17}],
)
def test_a_case_that_cannot_be_is_refused(options):
    with pytest.raises(UserError, match=r"a padded image of at most 16 rows|must be an integer of at least"):
        arithmetic.Config(**options)
