"""Changing values: colours against Pillow and `colorsys`, noise against its distribution."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from cnnjax.data import augment
from cnnjax.data.augment import Sample, pixels, policy
from cnnjax.errors import UserError

KEY = jax.random.key(5)
BYTES = np.random.default_rng(0).integers(0, 256, (6, 16, 18, 3)).astype(np.uint8)
BYTES[1] = BYTES[1] // 4 + 60  # low contrast
BYTES[2] = BYTES[2, :1, :1]  # one colour
BYTES[3, ..., 1] = np.where(BYTES[3, ..., 1] > 200, 255, 0)  # few levels
IMAGES = jnp.float32(BYTES / 255)
FACTORS = np.float32([0.1, 0.6, 1.0, 1.3, 1.9, 0.0])


def applied(augmentation, images):
    return np.asarray(jax.jit(augmentation)(KEY, Sample(images)).images)


def of_pillow(change):
    return np.stack([np.asarray(change(Image.fromarray(image), k)) for k, image in enumerate(BYTES)]) / 255


@pytest.mark.parametrize(
    ("adjust", "enhance"),
    [
        (pixels.adjust_brightness, ImageEnhance.Brightness),
        (pixels.adjust_contrast, ImageEnhance.Contrast),
        (pixels.adjust_saturation, ImageEnhance.Color),
        (policy.adjust_sharpness, ImageEnhance.Sharpness),
    ],
)
def test_adjustments_are_pillows_to_its_rounding(adjust, enhance):
    ours = np.clip(jax.jit(adjust)(IMAGES, FACTORS), 0, 1)
    theirs = of_pillow(lambda image, k: enhance(image).enhance(float(FACTORS[k])))
    np.testing.assert_allclose(ours, theirs, atol=2.1 / 255)  # Pillow rounds the mean or the luma, and the result


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (policy.autocontrast, ImageOps.autocontrast),
        (policy.equalize, ImageOps.equalize),
        (lambda images: policy.posterize(images, 3), lambda image: ImageOps.posterize(image, 3)),
        (lambda images: policy.posterize(images, 8), lambda image: ImageOps.posterize(image, 8)),
        (lambda images: policy.solarize(images, 128 / 255), lambda image: ImageOps.solarize(image, 128)),
    ],
    ids=["autocontrast", "equalize", "posterize to 3 bits", "posterize to 8 bits", "solarize"],
)
def test_tone_operations_are_pillows(ours, theirs):
    rounding = 1.01 / 255 if theirs is ImageOps.autocontrast else 1e-5  # Pillow cuts off fractions there
    np.testing.assert_allclose(jax.jit(ours)(IMAGES), of_pillow(lambda image, _: theirs(image)), atol=rounding)


def test_hue_is_that_of_hsv_with_saturation_and_value_kept():
    turns = np.float32([0, 0.1, -0.3, 0.5, -0.5, 0.25])
    ours = np.asarray(jax.jit(pixels.adjust_hue)(IMAGES, turns))
    for image, turn, result in zip(np.asarray(IMAGES), turns, ours, strict=True):
        for pixel, got in zip(image.reshape(-1, 3), result.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            np.testing.assert_allclose(got, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "adjust", "low", "high"),
    [
        (augment.brightness, lambda x, f: f * x, 0.7, 1.3),
        (augment.contrast, lambda x, f: (x @ [0.299, 0.587, 0.114]).mean() * (1 - f) + f * x, 0.7, 1.3),
        (augment.saturation, lambda x, f: (x @ [0.299, 0.587, 0.114])[..., None] * (1 - f) + f * x, 0.7, 1.3),
    ],
)
def test_every_image_gets_a_factor_of_its_own_uniform_in_the_range(make, adjust, low, high):
    image = np.array([[[0.5, 0.4, 0.3], [0.45, 0.6, 0.5]]])
    changed = applied(make(0.3), jnp.tile(jnp.float32(image), (2000, 1, 1, 1)))
    at = [adjust(image, factor) for factor in (low, high)]
    factors = low + (high - low) * ((changed - at[0]) / (at[1] - at[0]))[:, 0, 0, 0]
    for factor, result in zip(factors[:50], changed, strict=False):
        np.testing.assert_allclose(result, adjust(image, factor), atol=1e-5)
    assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 0.01


def test_hue_turns_uniformly_both_ways():
    changed = applied(augment.hue(0.1), jnp.tile(jnp.float32([0.8, 0.4, 0.2]), (2000, 1, 1, 1)))
    hues = (
        np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in changed[:, 0, 0]]) - colorsys.rgb_to_hsv(0.8, 0.4, 0.2)[0]
    )
    assert stats.kstest((hues + 0.5) % 1 - 0.5, stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


def test_rgb_intensity_adds_one_normal_mixture_of_the_principal_colours_to_an_image():
    colours = np.array([[0.3, 0.1, 0.1], [0.1, -0.2, 0.0], [0.0, 0.05, -0.1]])
    changed = applied(augment.rgb_intensity(0.2, colours), jnp.full((4000, 2, 2, 3), 0.5))
    added = changed - 0.5
    assert np.ptp(added, axis=(1, 2)).max() < 1e-6
    weights = added[:, 0, 0] @ np.linalg.inv(colours)
    assert stats.kstest(weights.ravel() / 0.2, stats.norm.cdf).pvalue > 0.01
    assert np.abs(np.corrcoef(weights.T) - np.eye(3)).max() < 0.06


def test_principal_colours_are_those_of_the_pixels():
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # columns
    deviations = np.array([0.15, 0.06, 0.02])
    drawn = 0.5 + (rng.normal(size=(400, 16, 16, 3)) * deviations) @ axes.T
    found = augment.principal_colours(np.clip(np.round(drawn * 255), 0, 255).astype(np.uint8))
    for row, axis, deviation in zip(found, axes.T, deviations, strict=True):
        assert np.linalg.norm(row) == pytest.approx(deviation**2, rel=0.02)
        assert abs(row @ axis) == pytest.approx(np.linalg.norm(row), rel=1e-3)
    default = np.linalg.norm(pixels.IMAGENET_COLOURS, axis=1)
    np.testing.assert_allclose(default, [0.2175, 0.0188, 0.0045], rtol=2e-3)
    across = pixels.IMAGENET_COLOURS / default[:, None]
    np.testing.assert_allclose(across @ across.T, np.eye(3), atol=2e-3)


@pytest.mark.parametrize("shape", [(40, 30, 30, 3), (9, 7, 5, 1)])  # an even and an odd number of values
def test_gaussian_noise_is_normal_and_independent(shape):
    noise = (applied(augment.gaussian_noise(0.1), jnp.full(shape, 0.5)) - 0.5) / 0.1
    assert noise.shape == shape
    assert stats.kstest(noise.ravel()[:20000], stats.norm.cdf).pvalue > 0.01
    assert np.abs(noise).max() < 4.33
    for axis in range(1, 3):
        ahead, behind = (
            np.take(noise, range(*ends), axis).ravel() for ends in ((1, shape[axis]), (0, shape[axis] - 1))
        )
        assert abs(np.corrcoef(ahead, behind)[0, 1]) < 5 / np.sqrt(len(ahead))


def test_salt_and_pepper_turn_whole_pixels_white_or_black_and_leave_the_others():
    images = jnp.full((30, 33, 31, 3), jnp.float32([0.3, 0.4, 0.5]))
    changed = applied(augment.salt_and_pepper(0.3), images)
    white, black = ((changed == value).all(-1) for value in (1, 0))
    for turned in (white, black):
        assert turned.mean() == pytest.approx(0.15, abs=0.01)
        assert (turned[:, :-1] & turned[:, 1:]).mean() == pytest.approx(0.15**2, abs=4e-3)  # each on its own
    np.testing.assert_array_equal(changed[~white & ~black], np.broadcast_to(images, changed.shape)[~white & ~black])
    np.testing.assert_array_equal(applied(augment.salt_and_pepper(0), images), images)
    assert set(np.unique(applied(augment.salt_and_pepper(1), images))) == {0, 1}


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_fills_one_square_around_any_pixel_and_cuts_it_off_at_the_border(size):
    images = jnp.full((3000, 9, 12, 2), 0.25)
    changed = applied(augment.cutout(size, fill=0.75), images)
    assert set(np.unique(changed)) == {0.25, 0.75}
    hole = (changed == 0.75).all(-1)
    expected = set()
    for y in range(9):
        for x in range(12):
            square = np.zeros((9, 12), bool)
            square[max(y - size // 2, 0) : y - size // 2 + size, max(x - size // 2, 0) : x - size // 2 + size] = True
            expected.add(square.tobytes())
    found, counts = np.unique(hole.reshape(3000, -1), axis=0, return_counts=True)
    assert {row.tobytes() for row in found} == expected
    assert counts.max() < 3 * 3000 / 108


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augment.brightness(1.2), r"amount=1\.2: expected a number from 0 to 1"),
        (lambda: augment.contrast(-0.1), r"amount=-0\.1: expected a number from 0 to 1"),
        (lambda: augment.saturation("a"), r"amount='a': expected a number"),
        (lambda: augment.hue(0.6), r"amount=0\.6: expected a number from 0 to 0\.5"),
        (lambda: augment.rgb_intensity(-1), r"std=-1: expected a number from 0 up"),
        (lambda: augment.gaussian_noise(-1), r"std=-1: expected a number from 0 up"),
        (lambda: augment.salt_and_pepper(2), r"share=2: expected a number from 0 to 1"),
        (lambda: augment.cutout(0), r"size=0: expected an integer of at least 1"),
        (lambda: augment.cutout(8, 1.5), r"fill=1\.5: expected a number from 0 to 1"),
        (lambda: augment.brightness()(KEY, Sample(jnp.asarray(BYTES))), r"divide bytes by 255"),
        *[
            (lambda make=make: make()(KEY, Sample(IMAGES[..., :1])), r"expected three channels")
            for make in (augment.hue, augment.saturation, augment.contrast, augment.rgb_intensity, augment.rand_augment)
        ],
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
