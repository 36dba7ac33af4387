"""Fields are what NumPy's convolutions of ones span, and claims follow from what was measured."""

import copy
from functools import partial

import numpy as np
import pytest
from flax import nnx

from cnnjax import data, models
from cnnjax.errors import UserError
from experiments import receptive_field

SUMMARY = {
    "data": {"name": "shapes"},
    "networks": {
        "three 3x3": {"test_accuracy": 0.8, "test_accuracy_by_seed": [0.79, 0.8, 0.81], "params": 9_000},
        "one 7x7": {"test_accuracy": 0.79, "test_accuracy_by_seed": [0.78, 0.79, 0.8], "params": 15_000},
    },
}


def spread(stack):
    """The gradient along one axis: taps of ones, dilated, convolved with each other."""
    field = np.ones(1)
    for kernel, _, dilation in stack:
        taps = np.zeros(dilation * (kernel - 1) + 1)
        taps[::dilation] = 1
        field = np.convolve(field, taps)
    return field


def test_measured_gradients_are_the_convolution_of_all_kernels():
    for name, fields in receptive_field.measured().items():
        for stack, field in zip(receptive_field.STACKS[name], fields, strict=True):
            axis = spread(stack)
            border = (receptive_field.SIZE - len(axis)) // 2
            np.testing.assert_allclose(field, np.pad(np.outer(axis, axis), border), rtol=1e-5)
            assert receptive_field.extent(field) == len(axis)


def test_the_extent_of_a_field_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="1 pixels high and 3 wide"):
        receptive_field.extent(np.array([[0, 0, 0], [1, 0, 1], [0, 0, 0]]))


def test_a_bell_s_deviation_and_area_are_described():
    places = np.arange(receptive_field.SIZE) - receptive_field.SIZE // 2
    bell = np.exp(-(places**2) / (2 * 3.0**2))
    field = np.outer(bell, bell) / bell.sum() ** 2
    described = receptive_field.describe(field, depth=10)
    assert described["deviation"] == pytest.approx(3, rel=1e-3)
    circle = 2 * np.pi * 3**2 * np.log(20)  # a bell's 95 %
    assert described["area_of_95_percent"] == pytest.approx(circle / 21**2, rel=0.05)


def test_an_effective_field_lies_within_the_theory_s_square(monkeypatch):
    monkeypatch.setattr(receptive_field, "DRAWS", 4)
    field = receptive_field.effective_field(3, seed=0)
    assert field.sum() == pytest.approx(1, rel=1e-5)
    assert receptive_field.extent(field) == 7
    assert field.max() > 2 / 7**2


def test_both_networks_see_as_much_and_differ_in_their_block_alone():
    blank = data.Split(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int32))
    dataset = data.Dataset("blank", "1", tuple("0123456789"), blank, blank)
    three, seven = (
        models.layer_rows(nnx.eval_shape(partial(receptive_field.build, kernels, dataset, 0)), dataset.image_shape)
        for kernels in receptive_field.NETWORKS.values()
    )
    assert [row.output_shape for row in three][-1] == [row.output_shape for row in seven][-1] == (10,)
    channels = receptive_field.CHANNELS
    saved = (49 - 27) * channels**2 - 2 * channels  # less weights, and two more vectors of biases
    assert sum(row.params for row in seven) - sum(row.params for row in three) == saved


def test_e2_holds_where_3x3_layers_keep_up_fails_where_they_fall_behind_and_is_open_without_a_run():
    assert receptive_field._trained(SUMMARY).verdict == "holds"
    behind = copy.deepcopy(SUMMARY)
    behind["networks"]["three 3x3"]["test_accuracy"] = 0.755
    assert receptive_field._trained(behind).verdict == "fails"
    noisy = copy.deepcopy(SUMMARY)  # whose difference is not known well enough, whatever it is
    noisy["networks"]["three 3x3"]["test_accuracy_by_seed"] = [0.7, 0.8, 0.9]
    assert receptive_field._trained(noisy).verdict == "fails"
    untrained = copy.deepcopy(SUMMARY)
    for network in untrained["networks"].values():
        network["test_accuracy"] = 0.1
    assert receptive_field._trained(untrained).verdict == "fails"
    assert receptive_field._trained(None).verdict.startswith("not run")


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="larger than the"):
        receptive_field.load(receptive_field.Config(data="digits", batch_size=4000))
