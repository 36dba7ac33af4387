"""Moving pixels, against Pillow one image at a time, and boxes, masks and keypoints that move with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import augment
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError

COUNT, HEIGHT, WIDTH = 24, 20, 26
SIZE = HEIGHT, WIDTH
KEY = jax.random.key(3)
GEOMETRIC = {
    "translate": augment.translate(0.3, fill=0.25),
    "random_crop": augment.random_crop(5),
    "smaller random_crop": augment.random_crop(2, size=17),
    "resized_crop": augment.resized_crop((0.2, 0.7)),
    "larger resized_crop": augment.resized_crop((0.2, 1.0), (0.5, 2.0), size=31),
    "mirror": augment.mirror(),
    "flip_vertical": augment.flip_vertical(),
    "rotate": augment.rotate(90, fill=1.0),
    "zoom": augment.zoom((0.5, 1.9), fill=0.5),
}


def random_sample():
    """Images, and on them masks, five boxes each, the last none, and seven keypoints of which some are invisible."""
    rng = np.random.default_rng(0)
    low, high = np.sort(rng.uniform(0, [WIDTH, HEIGHT], (2, COUNT, 5, 2)), 0)
    boxes = np.concatenate([low, high], -1)
    boxes[:, 4] = 0
    keypoints = np.concatenate([rng.uniform(0, [WIDTH, HEIGHT], (COUNT, 7, 2)), rng.integers(0, 3, (COUNT, 7, 1))], -1)
    return Sample(
        jnp.float32(rng.random((COUNT, HEIGHT, WIDTH, 3))),
        boxes=jnp.float32(boxes),
        masks=jnp.int32(rng.integers(3, 9, (COUNT, HEIGHT, WIDTH))),
        keypoints=jnp.float32(keypoints),
        mask_fill=11,
    )


SAMPLE = random_sample()
IMAGES = np.asarray(SAMPLE.images)


@functools.cache
def moved(name):
    """The sample moved, and the matrices (N, 3, 3) and size that were drawn."""
    augmentation = GEOMETRIC[name]
    both = jax.jit(lambda key, sample: (augmentation(key, sample), augmentation.draw(key, COUNT, SIZE).matrix))
    result, matrices = both(KEY, SAMPLE)
    return result, np.asarray(matrices, np.float64), result.images.shape[1:3]


def many(augmentation, size=SIZE):
    """4,000 matrices."""
    return np.asarray(jax.jit(lambda key: augmentation.draw(key, 4000, size).matrix)(KEY), np.float64)


def pillow(plane, matrix, size, resample, fill):
    picture = Image.fromarray(np.ascontiguousarray(plane))
    coefficients = tuple(matrix[:2].ravel())
    return np.asarray(picture.transform(size[::-1], Image.Transform.AFFINE, coefficients, resample, fillcolor=fill))


@pytest.mark.parametrize("name", GEOMETRIC)
def test_images_are_read_as_pillow_reads_them_bilinearly(name):
    result, matrices, size = moved(name)
    for image, matrix, got in zip(IMAGES, matrices, np.asarray(result.images), strict=True):
        for channel in range(3):
            expected = pillow(image[..., channel], matrix, size, Image.Resampling.BILINEAR, GEOMETRIC[name].fill)
            np.testing.assert_allclose(got[..., channel], expected, atol=2e-5)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_masks_are_read_as_pillow_reads_them_nearest(name):
    """But where a centre falls on the edge of a pixel, for there Pillow counts in 65,536ths."""
    result, matrices, size = moved(name)
    assert result.masks.dtype == SAMPLE.masks.dtype
    y, x = np.mgrid[: size[0], : size[1]].reshape(2, -1) + 0.5
    for mask, matrix, got in zip(np.asarray(SAMPLE.masks), matrices, np.asarray(result.masks), strict=True):
        at = (matrix @ np.stack([x, y, np.ones_like(x)]))[:2]
        clear = (np.abs(at - at.round()) > 2e-3).all(0).reshape(size)
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(got[clear], pillow(mask, matrix, size, Image.Resampling.NEAREST, 11)[clear])


@pytest.mark.parametrize("name", GEOMETRIC)
def test_boxes_become_the_box_around_their_corners_and_points_go_where_the_inverse_map_says(name):
    result, matrices, (height, width) = moved(name)
    for k, inverse in enumerate(np.linalg.inv(matrices)):
        for (x0, y0, x1, y1), got in zip(
            *(np.asarray(boxes[k]) for boxes in (SAMPLE.boxes, result.boxes)), strict=True
        ):
            corners = (inverse @ [[x0, x1, x0, x1], [y0, y0, y1, y1], [1, 1, 1, 1]])[:2]
            hull = np.clip([*corners.min(1), *corners.max(1)], 0, [width, height, width, height])
            area, whole = (
                max(b[2] - b[0], 0) * max(b[3] - b[1], 0) for b in (hull, [*corners.min(1), *corners.max(1)])
            )
            centre = corners.mean(1)
            left = (centre <= 0).any() or (centre >= [width, height]).any()
            empty = x0 == x1 or left or area < 0.1 * whole
            np.testing.assert_allclose(got, np.zeros(4) if empty else hull, atol=2e-4)
        keypoints = np.asarray(SAMPLE.keypoints[k])
        at = (inverse @ np.concatenate([keypoints[:, :2].T, np.ones((1, 7))]))[:2].T
        np.testing.assert_allclose(result.keypoints[k, :, :2], at, atol=2e-4)
        inside = ((at >= 0) & (at < [width, height])).all(1)
        np.testing.assert_array_equal(result.keypoints[k, :, 2], np.where(inside, keypoints[:, 2], 0))


def test_the_cases_above_hold_boxes_that_are_cut_off_or_lost_and_keypoints_that_leave():
    result, _, _ = moved("zoom")
    given, left = (
        (np.asarray(boxes)[..., 2:] > np.asarray(boxes)[..., :2]).all(-1) for boxes in (SAMPLE.boxes, result.boxes)
    )
    assert (given & ~left).any()
    assert (np.asarray(result.boxes) == 0).any(-1)[left].any()
    assert (np.asarray(result.keypoints[..., 2]) < np.asarray(SAMPLE.keypoints[..., 2])).any()


GENTLE = {
    "larger resized_crop": augment.resized_crop((0.8, 1.0), size=90),
    "quarter turns": augment.rotate90(),
    "all in a row": augment.chain(augment.translate(), augment.rotate(90), augment.zoom(), augment.mirror()),
}


@pytest.mark.parametrize("name", GENTLE)
def test_a_blob_and_the_keypoint_on_it_move_together(name):
    """The blob is smooth, so that interpolation keeps its centre of mass, and stays clear of the border."""
    at = np.random.default_rng(0).uniform(26, 38, (12, 1, 2))
    y, x = np.mgrid[:64, :64] + 0.5
    blobs = np.maximum(np.exp(-((x - at[..., :1]) ** 2 + (y - at[..., 1:]) ** 2) / 12) - 0.02, 0)[..., None]
    keypoints = np.concatenate([at, np.full((12, 1, 1), 2)], -1)
    result = jax.jit(GENTLE[name])(KEY, Sample(jnp.float32(blobs), keypoints=jnp.float32(keypoints)))
    weights = np.asarray(result.images, np.float64)[..., 0]
    y, x = np.mgrid[: weights.shape[1], : weights.shape[2]] + 0.5
    centre = np.stack([(weights * x).sum((1, 2)), (weights * y).sum((1, 2))], -1) / weights.sum((1, 2))[:, None]
    np.testing.assert_allclose(result.keypoints[:, 0, :2], centre, atol=0.05)
    np.testing.assert_array_equal(result.keypoints[:, 0, 2], 2)


def test_paired_keypoints_trade_places_in_mirror_images_only():
    keypoints = np.float32([[[5, 6, 1], [20, 7, 2], [12, 3, 1]]])
    sample = Sample(IMAGES[:1], keypoints=keypoints, keypoint_pairs=((0, 1),))
    flips = (augment.mirror(1), augment.flip_vertical(1), augment.chain(augment.mirror(1), augment.flip_vertical(1)))
    results = jax.jit(lambda key, sample: [flip(key, sample).keypoints[0] for flip in flips])(KEY, sample)
    np.testing.assert_allclose(results[0], [[6, 7, 2], [21, 6, 1], [14, 3, 1]])
    np.testing.assert_allclose(results[1], [[20, 13, 2], [5, 14, 1], [12, 17, 1]])
    np.testing.assert_allclose(results[2], [[21, 14, 1], [6, 13, 2], [14, 17, 1]])


def test_translation_is_by_whole_pixels_of_every_size_up_to_the_fraction():
    x, y = many(GEOMETRIC["translate"])[:, :2, 2].T
    assert set(x) == set(range(-7, 8))  # 0.3 of 26 is 7.8
    assert set(y) == set(range(-6, 7))
    result, matrices, _ = moved("translate")
    for image, got, (x, y) in zip(IMAGES, np.asarray(result.images), matrices[:, :2, 2].astype(int), strict=True):
        padded = np.pad(image, ((7, 7), (7, 7), (0, 0)), constant_values=0.25)
        np.testing.assert_array_equal(got, padded[7 + y : 7 + y + HEIGHT, 7 + x : 7 + x + WIDTH])


def test_a_random_crop_is_a_window_of_the_padded_image_at_any_place():
    x, y = many(GEOMETRIC["smaller random_crop"])[:, :2, 2].T
    assert set(x) == set(range(-2, 26 + 2 - 17 + 1))
    assert set(y) == set(range(-2, 20 + 2 - 17 + 1))
    result, matrices, size = moved("smaller random_crop")
    assert size == (17, 17)
    for image, got, (x, y) in zip(IMAGES, np.asarray(result.images), matrices[:, :2, 2].astype(int) + 2, strict=True):
        np.testing.assert_array_equal(got, np.pad(image, ((2, 2), (2, 2), (0, 0)))[y : y + 17, x : x + 17])


@pytest.mark.parametrize(
    ("make", "flipped"), [(augment.mirror, IMAGES[:, :, ::-1]), (augment.flip_vertical, IMAGES[:, ::-1])]
)
def test_mirrors_are_exact_and_as_frequent_as_asked(make, flipped):
    np.testing.assert_array_equal(jax.jit(make(1))(KEY, SAMPLE).images, flipped)
    assert (many(make(0)) == np.eye(3)).all()
    assert (np.linalg.det(many(make(0.3))) < 0).mean() == pytest.approx(0.3, abs=0.03)


def test_quarter_turns_are_exact_and_all_four_occur():
    square = IMAGES[:, :9, :9]
    result = np.asarray(jax.jit(augment.rotate90())(KEY, Sample(square)).images)
    turns = [
        k for image, got in zip(square, result, strict=True) for k in range(4) if (np.rot90(image, k) == got).all()
    ]
    assert len(turns) == COUNT
    assert set(turns) == {0, 1, 2, 3}


def test_rotation_is_pillows_counter_clockwise_and_uniform_up_to_the_angle():
    result, matrices, _ = moved("rotate")
    for image, matrix, got in zip(IMAGES, matrices, np.asarray(result.images), strict=True):
        degrees = np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))
        picture = Image.fromarray(np.ascontiguousarray(image[..., 0]))
        expected = np.asarray(picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=1.0))
        np.testing.assert_allclose(got[..., 0], expected, atol=1e-4)
    matrix = many(GEOMETRIC["rotate"])
    angles = np.rad2deg(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert np.abs(angles).max() <= 90
    assert np.histogram(angles, 6, (-90, 90))[0] == pytest.approx(np.full(6, 4000 / 6), rel=0.15)


def test_zoom_is_about_the_centre_by_a_factor_in_its_range():
    twice = np.asarray(jax.jit(augment.zoom((2, 2)))(KEY, SAMPLE).images)
    matrix = np.array([[0.5, 0, WIDTH / 4], [0, 0.5, HEIGHT / 4]])
    for image, got in zip(IMAGES, twice, strict=True):
        expected = pillow(image[..., 1], matrix, SIZE, Image.Resampling.BILINEAR, 0)
        np.testing.assert_allclose(got[..., 1], expected, atol=1e-5)
    factors = 1 / many(GEOMETRIC["zoom"])[:, 0, 0]
    assert 0.499 <= factors.min() < 0.51
    assert 1.89 < factors.max() <= 1.901


def test_a_resized_crop_is_pillows_resize_of_its_window():
    """Enlarging, where Pillow's filter is as narrow; but for the rim, where Pillow reads nothing around the window."""
    result, matrices, (height, width) = moved("larger resized_crop")
    compared = 0
    for image, matrix, got in zip(IMAGES, matrices, np.asarray(result.images), strict=True):
        if matrix[0, 0] > 1 or matrix[1, 1] > 1:
            continue
        box = (matrix @ [[0, width], [0, height], [1, 1]])[:2].T.ravel()
        picture = Image.fromarray(np.ascontiguousarray(image[..., 2]))
        expected = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, tuple(box)))
        np.testing.assert_allclose(got[6:-6, 6:-6, 2], expected[6:-6, 6:-6], atol=1e-4)
        compared += 1
    assert compared > COUNT / 2


@pytest.mark.parametrize("size", [(20, 26), (32, 32), (10, 40)])
def test_windows_of_resized_crops_lie_in_the_image_with_areas_and_shapes_as_asked(size):
    scale, ratio = (0.1, 0.9), (3 / 4, 4 / 3)
    matrix = many(augment.resized_crop(scale, ratio), size)
    height, width = size[0] * matrix[:, 1, 1], size[1] * matrix[:, 0, 0]
    assert matrix[:, :2, 2].min() >= 0
    assert (matrix[:, 1, 2] + height).max() <= size[0] + 1e-4
    assert (matrix[:, 0, 2] + width).max() <= size[1] + 1e-4
    area, shape = height * width / np.prod(size), width / height
    assert np.histogram(area, 4, scale)[0] == pytest.approx(np.full(4, 1000), rel=0.12)
    as_asked = (shape > ratio[0] - 1e-3) & (shape < ratio[1] + 1e-3)
    as_wide_or_tall_as_the_image = np.isclose(height, size[0], rtol=1e-4) | np.isclose(width, size[1], rtol=1e-4)
    assert (as_asked | as_wide_or_tall_as_the_image).all()
    assert as_asked[area < 0.15].all()  # where even a long image has room
    assert np.histogram(np.log(shape[area < 0.15]), 2, np.log(ratio))[0] == pytest.approx(125, rel=0.3)


def test_maps_in_a_row_interpolate_once_and_bring_back_what_had_left():
    row = augment.chain(augment.zoom((2, 2)), augment.mirror(1), augment.zoom((0.5, 0.5)))
    np.testing.assert_allclose(jax.jit(row)(KEY, SAMPLE).images, IMAGES[:, :, ::-1], atol=1e-6)


def test_maps_in_a_row_are_those_of_one_after_the_other():
    whole = (augment.translate(0.2), augment.mirror(), augment.random_crop(1), augment.flip_vertical())
    centre = np.pad(IMAGES[:, 7:13, 10:16], ((0, 0), (7, 7), (10, 10), (0, 0)))  # never leaves the image

    @jax.jit
    def one_after_the_other(key, sample):
        for number, augmentation in enumerate(whole):
            sample = augmentation(jax.random.fold_in(key, number), sample)
        return sample

    both = [change(KEY, Sample(centre)).images for change in (one_after_the_other, jax.jit(augment.chain(*whole)))]
    np.testing.assert_array_equal(*both)
    assert np.unique(np.asarray(both[0])[:, :, :, 0] > 0, axis=0).shape[0] > 10


def test_what_comes_from_outside_has_each_augmentations_own_fill():
    row = augment.chain(augment.zoom((0.5, 0.5), fill=1.0), augment.zoom((0.5, 0.5), fill=0.5))
    result = np.asarray(jax.jit(row)(KEY, SAMPLE).images)
    assert (result[:, 0, 0] == 0.5).all()
    assert (result[:, HEIGHT // 4 + 1, WIDTH // 4 + 1] == 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augment.translate(1.5), r"fraction=1\.5: expected a number from 0 to 1"),
        (lambda: augment.translate(fill=2), r"fill=2: expected a number from 0 to 1"),
        (lambda: augment.random_crop(-1), r"padding=-1: expected an integer of at least 0"),
        (lambda: augment.random_crop(size=0), r"size=0: expected an integer of at least 1"),
        (lambda: augment.random_crop(1.5), r"padding=1\.5: expected an integer"),
        (
            lambda: augment.resized_crop((0, 1)),
            r"scale=\(0, 1\): expected a pair of rising numbers above 0 and at most 1",
        ),
        (lambda: augment.resized_crop(ratio=(2, 1)), r"ratio=\(2, 1\): expected a pair of rising numbers above 0"),
        (lambda: augment.resized_crop(0.5), r"scale=0\.5: expected a pair"),
        (lambda: augment.mirror(-0.1), r"p=-0\.1: expected a number from 0 to 1"),
        (lambda: augment.flip_vertical(True), r"p=True: expected a number"),
        (lambda: augment.rotate(200), r"degrees=200: expected a number from 0 to 180"),
        (lambda: augment.rotate(float("nan")), r"degrees=nan: expected a number"),
        (lambda: augment.zoom((-1, 1)), r"scale=\(-1, 1\): expected a pair"),
        (lambda: augment.random_crop(2, 40)(KEY, Sample(jnp.zeros((1, 20, 26, 3)))), r"size=40: larger than images"),
        (lambda: augment.rotate90()(KEY, Sample(jnp.zeros((1, 20, 26, 3)))), r"square images, got 20x26"),
        (lambda: augment.mirror()(KEY, Sample(jnp.zeros((1, 8, 8, 3), jnp.uint8))), r"divide bytes by 255"),
        (lambda: augment.mirror()(KEY, Sample(jnp.zeros((8, 8, 3)))), r"expected floats in \[0, 1\], \(N, H, W, C\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_pixel_that_comes_from_the_far_border_comes_from_outside(axis):
    """Pixel i covers the square from i to i + 1, and nothing lies at the width or height itself."""

    def half_a_pixel(key, count, size):
        matrix = jnp.eye(3).at[axis, 2].set(0.5)
        return augment.Map(jnp.tile(matrix, (count, 1, 1)), size)

    shape = (1, 4, 4)
    sample = Sample(jnp.ones((*shape, 1)), masks=jnp.ones(shape, jnp.uint8), mask_fill=9)
    moved = augment.Geometric(half_a_pixel)(jax.random.key(0), sample)
    last = np.moveaxis(np.asarray(moved.masks[0]), 1 - axis, 0)[-1]
    np.testing.assert_array_equal(last, np.full(4, 9))
    assert (np.asarray(moved.masks) == 9).sum() == 4
    assert not np.moveaxis(np.asarray(moved.images[0, ..., 0]), 1 - axis, 0)[-1].any()
