"""Overlaps are counts of windows, peaks are of known spectra, and verdicts follow from them."""

import numpy as np
import pytest

from cnnjax.errors import UserError
from experiments import checkerboard


def test_overlaps_count_windows():
    for (kernel, stride), count in checkerboard.overlaps().items():
        expected = np.zeros_like(count)
        for row, column in np.ndindex(checkerboard.ONES, checkerboard.ONES):
            top, left = stride * row, stride * column
            expected[top : top + kernel, left : left + kernel] += 1
        np.testing.assert_array_equal(count, expected)
        assert checkerboard.is_even(count, kernel) == (kernel % stride == 0)


def test_a_checkerboard_is_a_peak_and_noise_is_none():
    noise = np.random.default_rng(0).normal(size=(32, 48, 48, 1))
    stripes = np.arange(48) % 2 - 0.5
    assert checkerboard.peak(noise) == pytest.approx(1, abs=0.5)
    assert checkerboard.peak(noise + stripes[:, None]) > 5
    assert checkerboard.share(noise + stripes[:, None]) > 2 * checkerboard.share(noise)
    assert checkerboard.unevenness(noise) < 0.05
    assert checkerboard.unevenness(noise * (1 + stripes[:, None])) > 0.5


@pytest.mark.parametrize("name", checkerboard.DECODERS)
def test_every_decoder_doubles_the_size(name):
    enlarge, size = checkerboard.DECODERS[name]
    assert enlarge(np.ones((1, 8, 8, 2), np.float32), np.ones((size, size, 2, 3), np.float32)).shape == (1, 16, 16, 3)


def test_training_brings_the_error_down(monkeypatch):
    images = checkerboard.load(checkerboard.Config())
    unseen = images[checkerboard.IMAGES :]
    monkeypatch.setattr(checkerboard, "STEPS", 20)
    outputs = checkerboard.trained_outputs("resize, then 3x3", images, seed=0)
    assert outputs.shape == unseen.shape
    assert np.square(outputs - unseen).mean() < 0.5 * unseen.var()  # more than before the first step


EVEN_ON_AVERAGE = (0.2, 0.2, 0.3, 0.01)  # with random weights


@pytest.mark.parametrize(
    ("shares", "random", "verdict"),
    [
        ((0.1, 0.2, 0.1, 0.01), EVEN_ON_AVERAGE, "holds"),
        ((0.16, 0.2, 0.1, 0.01), EVEN_ON_AVERAGE, "fails"),  # one of the two, or hardly
        ((0.1, 0.2, 0.2, 0.01), EVEN_ON_AVERAGE, "fails"),
        ((0.2, 0.2, 0.3, 0.01), EVEN_ON_AVERAGE, "fails"),
        ((0.1, 0.2, 0.1, 0.01), (0.1, 0.2, 0.3, 0.01), "fails"),
        ((0.1, 0.2, 0.1, 0.01), (0.2, 0.2, 0.3, 0.3), "fails"),
        ((), EVEN_ON_AVERAGE, "not run"),
    ],
)
def test_the_verdict_on_reduction_follows_from_the_power(shares, random, verdict):
    trained, drawn = (
        # The peak stands beside and decides nothing.
        dict(zip(checkerboard.DECODERS, [{"share": share, "peak": 1 - share} for share in row], strict=False))
        for row in (shares, random)
    )
    assert checkerboard._reduced(trained, drawn).verdict == verdict


def test_a_seed_out_of_range_is_refused():
    with pytest.raises(UserError, match="`seed` must be from 0"):
        checkerboard.Config(seed=-1)
