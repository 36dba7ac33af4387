"""Mixing images and labels, and RandAugment's dealing of operations."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cnnjax.data import augment
from cnnjax.data.augment import Sample, policy
from cnnjax.errors import UserError

KEY = jax.random.key(7)
COUNT = 400


def numbered(count=COUNT, **other):
    """Image k is of value k / count throughout, its label is class k."""
    images = jnp.broadcast_to(jnp.arange(count)[:, None, None, None] / count, (count, 12, 10, 3))
    return Sample(images, jnp.eye(count), **other)


@pytest.fixture(scope="module")
def uniform_mixup():
    return jax.jit(augment.mixup(1.0))(KEY, numbered())


def test_mixup_blends_two_images_and_their_labels_in_one_proportion(uniform_mixup):
    labels = np.asarray(uniform_mixup.labels, np.float64)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
    assert ((labels > 0).sum(1) <= 2).all()
    assert ((labels > 0).sum(0) <= 2).all()  # everyone is mixed into one other
    expected = labels @ np.arange(COUNT) / COUNT
    np.testing.assert_allclose(
        uniform_mixup.images, np.broadcast_to(expected[:, None, None, None], (COUNT, 12, 10, 3)), atol=1e-5
    )


def test_mixup_draws_a_share_of_beta_for_every_image(uniform_mixup):
    mixed = (np.asarray(uniform_mixup.labels) > 0).sum(1) == 2
    own = np.diag(np.asarray(uniform_mixup.labels))[mixed]
    assert mixed.mean() > 0.98
    assert stats.kstest(own, stats.uniform.cdf).pvalue > 0.01
    sharp = np.diag(np.asarray(jax.jit(augment.mixup(0.2))(KEY, numbered()).labels))
    assert stats.kstest(sharp, stats.beta(0.2, 0.2).cdf).pvalue > 0.01


@pytest.fixture(scope="module")
def mixed_by_cutmix():
    masks = jnp.broadcast_to(jnp.arange(COUNT)[:, None, None], (COUNT, 12, 10))
    return jax.jit(augment.cutmix())(KEY, numbered(masks=masks))


def test_cutmix_pastes_one_rectangle_of_another_image_and_its_mask(mixed_by_cutmix):
    number = np.round(np.asarray(mixed_by_cutmix.images) * COUNT).astype(int)
    assert (np.ptp(number, axis=-1) == 0).all()
    np.testing.assert_array_equal(number[..., 0], mixed_by_cutmix.masks)
    others = []
    for k, image in enumerate(number[..., 0]):
        pasted = image != k
        if pasted.any():
            rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert len(np.unique(image[pasted])) == 1
            others.append(image[pasted][0])
    assert len(others) > 0.8 * COUNT
    assert len(set(others)) == len(others)


def test_cutmix_mixes_labels_by_the_area_that_was_pasted(mixed_by_cutmix):
    masks, labels = np.asarray(mixed_by_cutmix.masks), np.asarray(mixed_by_cutmix.labels)
    for mask, label in zip(masks, labels, strict=True):
        np.testing.assert_allclose(label, np.bincount(mask.ravel(), minlength=COUNT) / mask.size, atol=1e-6)


def test_cutmix_rectangles_have_the_share_that_was_drawn_and_uniform_centres():
    """Those that the border does not cut: the area is near 1 - s, s uniform, so sides are as sqrt(1 - s)."""
    sample = Sample(jnp.broadcast_to(jnp.arange(2000)[:, None, None, None] / 2000, (2000, 60, 40, 1)), jnp.eye(2000))
    number = np.round(np.asarray(jax.jit(augment.cutmix())(KEY, sample).images)[..., 0] * 2000)
    pasted = number != np.arange(2000)[:, None, None]
    height, width = pasted.any(2).sum(1), pasted.any(1).sum(1)
    whole = ~(pasted[:, 0].any(1) | pasted[:, -1].any(1) | pasted[:, :, 0].any(1) | pasted[:, :, -1].any(1)) & (
        height > 0
    )
    assert np.abs(height[whole] / 60 - width[whole] / 40).max() < 1 / 40
    reaches_top = pasted[:, 0].any(1)
    # The top is reached when the centre is in the upper half side: for s uniform, with probability E[sqrt(1 - s)] / 2.
    assert reaches_top.mean() == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augment.mixup(0), r"alpha=0: expected a number from 0\.01 up"),
        (lambda: augment.cutmix(-1), r"alpha=-1: expected a number from 0\.01 up"),
        (lambda: augment.mixup()(KEY, replace(numbered(3), labels=None)), r"mixup needs labels as probabilities"),
        (lambda: augment.cutmix()(KEY, replace(numbered(3), labels=jnp.arange(3))), r"cutmix needs labels as"),
        (lambda: augment.mixup()(KEY, numbered(3, masks=jnp.zeros((3, 12, 10), int))), r"no meaning for masks"),
        (lambda: augment.cutmix()(KEY, numbered(3, boxes=jnp.zeros((3, 1, 4)))), r"no meaning for boxes"),
        (lambda: augment.rand_augment(0), r"layers=0: expected an integer of at least 1"),
        (lambda: augment.rand_augment(2, 31), r"magnitude=31: expected a number from 0 to 30"),
        (lambda: augment.rand_augment(fill=2), r"fill=2: expected a number from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


# ---------------------------------------------------------------- RandAugment


def test_dealt_operations_are_one_an_image_shared_evenly_and_uniform_for_every_image():
    def mark(number):
        return lambda key, sample: replace(sample, images=sample.images + number, boxes=sample.boxes + number)

    every, count = [mark(number) for number in range(5)], 23
    sample = Sample(jnp.arange(count * 1.0).reshape(count, 1, 1, 1) * 10, boxes=jnp.zeros((count, 2, 4)))

    keys = jax.random.split(KEY, 600)
    dealt = jax.jit(jax.vmap(lambda key: policy._dealt(every, key, sample)))(keys)
    operation = np.asarray(dealt.images).reshape(600, count) - 10 * np.arange(count)
    assert set(np.unique(operation)) == set(range(5))
    np.testing.assert_array_equal(dealt.boxes, np.broadcast_to(operation[:, :, None, None], (600, count, 2, 4)))
    for number in range(5):
        assert (operation == number).sum(1).max() <= 5  # ceil(23 / 5)
        assert (operation == number).mean(0) == pytest.approx(np.full(count, 0.2), abs=0.07)


def all_operations(strength, sample):
    """What every operation does to a sample, by name."""
    every = policy.operations(strength, 0.5)
    return jax.jit(lambda key, sample: {name: change(key, sample) for name, change in every.items()})(KEY, sample)


def test_operations_at_no_strength_are_next_to_nothing():
    images = jax.random.uniform(KEY, (4, 12, 12, 3)) * 0.8 + 0.1
    results = all_operations(0.0, Sample(images))
    assert len(results) == 14
    for name, result in results.items():
        if name not in ("autocontrast", "equalize"):
            np.testing.assert_allclose(result.images, images, atol=0.51 / 255, err_msg=name)


def test_operations_go_as_far_as_their_range_in_both_directions():
    """Points 5 right of, and 5 below, the centre of 20 x 20 pixels; a picture twenty times, by one of two factors."""
    keypoints = jnp.tile(jnp.float32([[15, 10, 1], [10, 15, 1]]), (20, 1, 1))
    images = jnp.tile(jax.random.uniform(KEY, (1, 20, 20, 3)) * 0.04 + 0.48, (20, 1, 1, 1))
    results = all_operations(1.0, Sample(images, keypoints=keypoints))
    cosine, sine, far = 5 * np.cos(np.pi / 6), 5 * np.sin(np.pi / 6), 20 * 150 / 331
    moves = {
        "rotate": [(cosine, -sine, sine, cosine), (cosine, sine, -sine, cosine)],
        "shear x": [(5, 0, 1.5, 5), (5, 0, -1.5, 5)],
        "shear y": [(5, 1.5, 0, 5), (5, -1.5, 0, 5)],
        "translate x": [(5 + far, 0, far, 5), (5 - far, 0, -far, 5)],
        "translate y": [(5, far, 0, 5 + far), (5, -far, 0, 5 - far)],
    }
    adjustments = {
        "brightness": policy.pixels.adjust_brightness,
        "contrast": policy.pixels.adjust_contrast,
        "color": policy.pixels.adjust_saturation,
        "sharpness": policy.adjust_sharpness,
    }
    assert set(results) - set(moves) - set(adjustments) == {
        "identity", "autocontrast", "equalize", "posterize", "solarize"
    }  # fmt: skip
    for name, expected in moves.items():
        at = np.asarray(results[name].keypoints)[..., :2].reshape(20, 4) - 10
        distance = np.abs(at[:, None] - np.asarray(expected)).max(-1)
        assert distance.min(1).max() < 1e-4, name
        assert distance.min(0).max() < 1e-4, name
    for name, adjust in adjustments.items():
        expected = np.stack([adjust(images[0:1], jnp.float32([factor]))[0] for factor in (0.1, 1.9)])
        distance = np.abs(np.asarray(results[name].images)[:, None] - np.clip(expected, 0, 1)).max((2, 3, 4))
        assert distance.min(1).max() < 1e-5, name
        assert distance.min(0).max() < 1e-5, name
