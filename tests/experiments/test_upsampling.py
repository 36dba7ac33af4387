"""Ways to enlarge, against their definitions, and transposed convolution, against sums written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.lab.worked import nhwc
from experiments import upsampling


def test_the_definitions_of_two_by_two_numbers_are_those_known_by_hand():
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    first_row = {"nearest": [1, 1, 2, 2], "bilinear": [1, 1.25, 1.75, 2], "bed of nails": [1, 0, 2, 0]}
    for name, (expected, ours) in upsampling.from_definitions(values, 2).items():
        np.testing.assert_allclose(ours, expected, atol=1e-6)
        if name in first_row:
            np.testing.assert_allclose(expected[0], first_row[name])
    np.testing.assert_array_equal(upsampling.unpooled_by_definition(values, 2), [[0, 0], [0, 4]])


def test_a_sub_pixel_layer_is_a_transposed_convolution():
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(1, 5, 6, 1)), "float32"), jnp.asarray(rng.normal(size=(4, 4)), "float32")
    np.testing.assert_allclose(upsampling.sub_pixel(x, kernel, 2), upsampling.transposed(x, kernel, 2), atol=1e-5)


def test_the_bilinear_kernel_interpolates_away_from_the_border():
    values = np.random.default_rng(1).normal(size=(6, 6))
    kernel = jnp.asarray(upsampling.bilinear_kernel(2), "float32")
    ours = np.asarray(upsampling.transposed(nhwc(values), kernel, 2))[0, ..., 0]
    np.testing.assert_allclose(ours[1:-1, 1:-1], upsampling.bilinear_by_definition(values, 2)[1:-1, 1:-1], atol=1e-5)


def test_learning_finds_the_kernel_of_least_squares(monkeypatch):
    monkeypatch.setattr(upsampling, "PART", slice(48, 80))
    image = upsampling.load(upsampling.Config())["china"]
    learned = upsampling.learn(image)
    part = image[48:80, 48:80].astype(np.float64)
    small = np.pad(part.reshape(16, 2, 16, 2).mean((1, 3)), 1)
    residual = 0.0
    for row, column in np.ndindex(2, 2):  # each phase of the output sees 2x2 pixels by taps of its own
        places = [(1 + row + a, 1 + column + b) for a in (0, 1) for b in (0, 1)]
        seen = np.stack([small[top : top + 14, left : left + 14] for top, left in places])
        target = part[2 + row : -2 : 2, 2 + column : -2 : 2]
        _, rest, *_ = np.linalg.lstsq(seen.reshape(4, -1).T, target.ravel(), rcond=None)
        residual += float(rest[0])
    assert learned["losses"][-1] == pytest.approx(residual / 28**2, rel=0.02)
    assert learned["losses"][-1] < 0.2 * learned["losses"][0]
