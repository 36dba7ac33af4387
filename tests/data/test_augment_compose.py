"""What holds for every augmentation, by name: what is kept, determinism, JAX's transformations; and command lines."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from cnnjax.data import augment
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError

COUNT, SIZE = 16, 18
KEYS = jax.random.split(jax.random.key(2), 3)
LABELS_ALONE = ("mixup", "cutmix")  # know nothing of boxes and keypoints


def random_sample(name, seed=1):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.uniform(0, SIZE, (2, COUNT, 3, 2)), 0)
    sample = Sample(jnp.float32(rng.random((COUNT, SIZE, SIZE, 3))), jnp.eye(5)[np.arange(COUNT) % 5])
    if name in LABELS_ALONE:
        return sample
    return Sample(
        sample.images,
        sample.labels,
        boxes=jnp.float32(np.concatenate([low, high], -1)),
        masks=jnp.uint8(rng.choice([2, 5, 7], (COUNT, SIZE, SIZE))),
        keypoints=jnp.float32(np.concatenate([rng.uniform(0, SIZE, (COUNT, 4, 2)), np.ones((COUNT, 4, 1))], -1)),
        mask_fill=9,
    )


def traced(name, count, dtype):
    """The types before and after."""
    sample = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), random_sample(name))
    sample = dataclasses.replace(sample, images=sample.images.update(dtype=dtype))
    return sample, jax.eval_shape(augment.parse(name), jax.random.key(0), sample)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_types_stay_in_half_precision_in_double_precision_and_of_an_empty_batch(name):
    for count, dtype in ((COUNT, jnp.bfloat16), (0, jnp.float32)):
        before, after = traced(name, count, dtype)
        assert after == before
    with jax.enable_x64(True):
        before, after = traced(name, COUNT, jnp.float32)
        assert after == before


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_ranks_agree_where_jax_wants_them_to(name):
    with jax.numpy_rank_promotion("raise"):
        before, after = traced(name, COUNT, jnp.float32)
    assert after == before


@functools.cache
def compiled(name):
    return jax.jit(augment.parse(name))


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_what_is_kept(name):
    sample = random_sample(name)
    result = compiled(name)(KEYS[0], sample)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), result) == jax.tree.map(lambda x: (x.shape, x.dtype), sample)
    assert result.mask_fill == 9 or name in LABELS_ALONE
    assert 0 <= result.images.min() <= result.images.max() <= 1
    if name in LABELS_ALONE:
        np.testing.assert_allclose(result.labels.sum(-1), 1, atol=1e-6)
        return
    np.testing.assert_array_equal(result.labels, sample.labels)
    assert set(np.unique(result.masks)) <= {2, 5, 7, 9}
    x0, y0, x1, y1 = np.moveaxis(np.asarray(result.boxes), -1, 0)
    nothing = (np.asarray(result.boxes) == 0).all(-1)
    assert (nothing | ((x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1) & (x1 <= SIZE) & (y1 <= SIZE))).all()
    at, visible = np.asarray(result.keypoints[..., :2]), np.asarray(result.keypoints[..., 2])
    assert ((at[visible > 0] >= 0) & (at[visible > 0] < SIZE)).all()


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_one_key_gives_the_same_bits_another_key_others_and_images_differ_from_each_other(name):
    sample = random_sample(name)
    result = compiled(name)(KEYS[0], sample)
    assert_equal(result, compiled(name)(KEYS[0], sample))
    assert (np.asarray(result.images) != np.asarray(compiled(name)(KEYS[1], sample).images)).any()
    alike = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), sample)
    if name in LABELS_ALONE:  # which would see no difference between equal images
        return
    assert len(np.unique(np.asarray(compiled(name)(KEYS[0], alike).images).reshape(COUNT, -1), axis=0)) > 1


def assert_close(one, other):
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5), one, other)


def two_batches(name):
    """Two samples, and what the augmentation makes of them, with two keys."""
    samples = [random_sample(name, seed=seed) for seed in (1, 2)]
    return samples, [compiled(name)(key, sample) for key, sample in zip(KEYS, samples, strict=False)]


@pytest.mark.parametrize("name", ["rotate", "cutmix"])
def test_vmap_does_to_every_batch_what_a_call_does(name):
    samples, expected = two_batches(name)
    stacked, expected = (jax.tree.map(lambda *parts: np.stack(parts), *batches) for batches in (samples, expected))
    assert_close(jax.jit(jax.vmap(augment.parse(name)))(KEYS[:2], stacked), expected)


@pytest.mark.parametrize("name", ["rotate", "rand-augment"])
def test_shard_map_does_to_every_batch_what_a_call_does(name):
    samples, expected = two_batches(name)
    joined, expected = (jax.tree.map(lambda *parts: np.concatenate(parts), *parts) for parts in (samples, expected))
    mesh, spec = Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec)
    def sharded(keys, sample):
        return augment.parse(name)(keys[0], sample)

    assert_close(jax.jit(sharded)(KEYS[:2], joined), expected)


def test_a_chain_applies_its_parts_in_order_each_with_its_own_key():
    sample = random_sample("mixup")  # labels alone
    parts = (augment.brightness(), augment.mirror(), augment.brightness(), augment.cutout(4))

    @jax.jit
    def one_after_the_other(key, sample):
        for number, part in enumerate(parts):
            sample = part(jax.random.fold_in(key, number), sample)
        return sample

    assert_close(jax.jit(augment.chain(*parts))(KEYS[0], sample), one_after_the_other(KEYS[0], sample))


def test_no_augmentation_changes_nothing():
    sample = random_sample("mirror")
    for nothing in (augment.parse(""), augment.chain()):
        assert_equal(nothing(KEYS[0], sample), sample)


def test_a_line_names_a_chain_with_its_options():
    lines = {
        "brightness:amount=1  cutout:size=5,fill=0.25": (augment.brightness(1.0), augment.cutout(5, 0.25)),
        "zoom:scale=0.5..0.75": (augment.zoom((0.5, 0.75)),),
        "random-crop:size=12,padding=0": (augment.random_crop(0, 12),),
    }

    @jax.jit
    def both(key, sample):
        return [(augment.parse(line)(key, sample), augment.chain(*same)(key, sample)) for line, same in lines.items()]

    for parsed, same in both(KEYS[0], random_sample("mixup")):  # labels alone
        assert_equal(parsed, same)


EDGES = {  # of what an option may be: values that are taken, values that are refused
    "0 to 1": ("0 1", "-0.01 1.01 nan inf"),
    "0 to 0.5": ("0 0.5", "-0.01 0.51 nan"),
    "0 to 30": ("0 30", "-0.01 30.1 nan"),
    "0 to 180": ("0 180", "-0.01 180.1 nan"),
    "from 0": ("0 100", "-0.01 nan inf"),
    "from 0.01": ("0.01 100", "0.009 0 nan inf"),
    "0, 1, ...": ("0 100", "-1 0.5"),
    "1, 2, ...": ("1 100", "0 1.5"),
    "low..high above 0": ("0.01..9 2..2", "0..1 2..1 1..inf nan..1 1"),
    "low..high above 0 and up to 1": ("0.01..1 1..1", "0..1 1..0.5 0.5..1.1 nan..1 1"),
}


@pytest.mark.parametrize("name", augment.AUGMENTATIONS)
def test_every_option_is_listed_with_the_values_that_it_takes(name):
    options = augment.OPTIONS[name]
    assert options.keys() == inspect.signature(augment.AUGMENTATIONS[name]).parameters.keys() - {"colours"}
    for option, what in options.items():
        taken, refused = EDGES[what]
        for value in taken.split():
            augment.parse(f"{name}:{option}={value}")
        for value in refused.split():
            with pytest.raises(UserError, match=option):
                augment.parse(f"{name}:{option}={value}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("miror", "unknown augmentation 'miror': did you mean mirror"),
        ("mirror mix-up", "unknown augmentation 'mix-up': did you mean mixup"),
        ("mirror:q=1", "unknown option of mirror 'q': there are p"),
        ("random-crop:pading=4", "unknown option of random-crop 'pading': did you mean padding?"),
        ("rgb-intensity:colours=3", "unknown option of rgb-intensity 'colours': there are std"),
        ("rotate90:degrees=3", "augmentation 'rotate90' has no options, got 'degrees=3'"),
        ("mirror:p=often", "'p=often': expected a number after the ="),
        ("mirror:p", "'p': expected a number after the ="),
        ("random-crop:padding=1.5", "'padding=1.5': expected an integer after the ="),
        ("zoom:scale=2", "'scale=2': expected low..high after the ="),
        ("zoom:scale=2..1", "augmentation 'zoom:scale=2..1': scale=(2.0, 1.0): expected a pair of rising numbers"),
        ("mirror:p=2", "augmentation 'mirror:p=2': p=2.0: expected a number from 0 to 1"),
    ],
)
def test_a_mistake_in_a_line_gets_one_message(text, message):
    with pytest.raises(UserError) as error:
        augment.parse(text)
    assert message in str(error.value)
