"""The convolution experiment's measurements, against what is known of them."""

import numpy as np
import pytest

from cnnjax import ops
from cnnjax.errors import UserError
from experiments import convolution


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("conv2d", ops.convolve2d), ("convolve2d", ops.conv2d)],
)
def test_claims_fail_where_an_operation_takes_the_other_direction(monkeypatch, name, wrong):
    monkeypatch.setattr(ops, name, wrong)
    claims = convolution._both_directions(np.random.default_rng(0))
    assert "B2" in {claim.id for claim in claims if not claim.ok}


def test_a_convolution_moves_along_and_a_fully_connected_layer_does_not():
    layers = convolution.move_an_image(seed=1)
    assert layers["convolution"].error < 1e-6
    assert layers["fully connected"].error > 0.5
    assert (layers["convolution"].inputs, layers["fully connected"].inputs) == (9, 1024)


def test_the_small_photograph_has_no_mean():
    image = convolution.small_photograph()
    assert image.shape == (32, 32)
    assert abs(image.mean()) < 1e-6
    assert np.ptp(image) > 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image": "1 2/3"}, "`image`"),
        ({"kernel": "x"}, "`kernel`"),
        ({"image": "12/34"}, "a kernel that fits in it"),
        ({"image": "/".join(["1" * 13] * 13)}, "at most 12x12"),
        ({"seed": -1}, "`seed` must be from 0"),
    ],
)
def test_a_mistake_in_the_options_is_named(options, said):
    with pytest.raises(UserError, match=said):
        convolution.Config(**options)
