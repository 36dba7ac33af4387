"""The order of examples is a function of seed and epoch, and every example comes once."""

import numpy as np
import pytest

from cnnjax import data


@pytest.mark.parametrize(("count", "batch"), [(35, 8), (32, 8), (5, 5), (7, 3)])
def test_every_example_has_weight_one_exactly_once(count, batch):
    indices, weights = data.epoch_order(0, 0, count, batch)
    assert indices.shape == weights.shape == (-(-count // batch), batch)
    assert sorted(indices[weights == 1]) == list(range(count))
    assert set(np.unique(weights)) <= {0, 1}


def test_the_order_depends_on_seed_and_epoch_alone():
    first, _ = data.epoch_order(3, 1, 100, 10)
    np.testing.assert_array_equal(first, data.epoch_order(3, 1, 100, 10)[0])
    assert not np.array_equal(first, data.epoch_order(3, 2, 100, 10)[0])
    assert not np.array_equal(first, data.epoch_order(4, 1, 100, 10)[0])
    assert not np.array_equal(data.epoch_order(1, 2, 100, 10)[0], data.epoch_order(2, 1, 100, 10)[0])
