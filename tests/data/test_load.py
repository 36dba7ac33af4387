"""Data sources: what they hold, that they are decoded once, and what is said when they are damaged or missing."""

import json
import logging
import math
import re

import numpy as np
import pytest
import requests
from PIL import Image

from cnnjax import data
from cnnjax.data import sources
from cnnjax.errors import UserError
from tests import tiny_tfds


def test_a_tfds_set_is_read_without_tensorflow(tfds_dir):
    dataset = data.load("tiny_squares")
    assert (dataset.train.size, dataset.test.size) == (40, 20)
    assert dataset.class_names == ("a", "b", "c", "d")
    assert dataset.image_shape == (8, 8, 3)
    assert dataset.train.images.dtype == np.uint8
    expected = {tiny_tfds.picture(number).tobytes(): number % 4 for number in range(40)}
    found = {image.tobytes(): label for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)}
    assert found == expected


def test_decoded_arrays_are_memory_mapped_from_the_cache(tfds_dir):
    data.load("tiny_squares")
    again = data.load("tiny_squares")
    assert isinstance(again.train.images, np.memmap)


def test_another_copy_of_the_same_version_has_its_own_cache(tfds_dir, monkeypatch, tmp_path):
    data.load("tiny_squares")
    (tfds_dir / "dataset_info.json").write_text((tfds_dir / "dataset_info.json").read_text() + " ")
    data.load("tiny_squares")
    assert len(list((tmp_path / "cache" / "splits").iterdir())) == 2


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_cache_is_made_again_and_said(tfds_dir, tmp_path, caplog, keep):
    expected = np.array(data.load("tiny_squares").train.images)
    (cached,) = (tmp_path / "cache" / "splits").iterdir()
    images = cached / "train.images.npy"
    images.write_bytes(images.read_bytes()[:keep])
    with caplog.at_level(logging.WARNING):
        again = data.load("tiny_squares")
    assert "is damaged" in caplog.text
    assert "making it again" in caplog.text
    np.testing.assert_array_equal(again.train.images, expected)


def test_where_nothing_can_be_cached_the_data_stays_in_memory(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert data.load("digits").train.size > 1000
    assert "CNNJAX_CACHE_DIR" in caplog.text


def test_broken_tfds_files_are_named(tfds_dir):
    (record,) = tfds_dir.glob("*train*")
    record.write_bytes(record.read_bytes()[:200])
    with pytest.raises(UserError, match=r"tiny_squares.*cannot be read.*Delete that folder"):
        data.load("tiny_squares")


def test_a_missing_file_is_named(tfds_dir):
    next(tfds_dir.glob("*test*")).unlink()
    with pytest.raises(UserError, match=r"tiny_squares.*cannot be read"):
        data.load("tiny_squares")


@pytest.mark.parametrize("stream", ["always", "never"])
def test_a_test_split_without_labels_is_not_judged_by(tfds_dir, stream):
    judged = data.load("tiny_grey", stream=stream).test
    assert sorted(judged.first(judged.size).labels) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("stream", ["always", "never"])
def test_a_missing_label_is_named_with_its_split(tfds_dir, stream):
    edit_splits(tfds_dir.parent.parent / "tiny_grey" / "1.0.0", remove="validation")
    with pytest.raises(UserError, match=r"test.* of data set 'tiny_grey' has the label -1; .* 0 to 3"):
        data.load("tiny_grey", stream=stream).test.first(8)


@pytest.mark.parametrize("stream", ["always", "never"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_images_without_a_label_are_kept_for_a_task_that_leaves_them_out(tfds_dir, stream, skip_bad):
    edit_splits(tfds_dir.parent.parent / "tiny_grey" / "1.0.0", remove="validation")
    for _ in range(2):  # and from the cache
        test = data.load("tiny_grey", stream=stream, skip_bad=skip_bad, ignore_index=-1).test
        assert -1 in test.first(8).labels
    with pytest.raises(UserError, match="has the label -1"):
        data.load("tiny_grey", stream=stream, skip_bad=skip_bad, ignore_index=255).test.first(8)


@pytest.mark.parametrize("stream", ["always", "never"])
def test_a_label_beyond_the_classes_is_named_with_its_split(tfds_dir, monkeypatch, stream):
    monkeypatch.setattr(tiny_tfds, "CLASSES", ["a", "b", "c"])
    (tfds_dir / "label.labels.txt").write_text("a\nb\nc")
    with pytest.raises(UserError, match=r"train.* of data set 'tiny_squares' has the label 3; .* 0 to 2"):
        data.load("tiny_squares", stream=stream).train.first(20)


@pytest.mark.parametrize("stream", ["auto", "always", "never"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_images_of_more_than_a_byte_are_refused_before_they_are_prepared(tmp_path, monkeypatch, stream, skip_bad):
    monkeypatch.setattr(tiny_tfds.tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(
        UserError, match=r"'tiny_deep' has images of uint16; expected uint8, .*: scale them to 0 to 255"
    ):
        data.load("tiny_deep", stream=stream, skip_bad=skip_bad)
    assert not list(tmp_path.iterdir())


def edit_splits(folder, remove=None, empty=None):
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] != remove]
    for split in info["splits"]:
        if split["name"] == empty:
            split |= {"shardLengths": ["0"], "numBytes": "0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("stream", ["always", "never"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_images_is_named(tfds_dir, split, stream):
    edit_splits(tfds_dir, empty=split)
    with pytest.raises(UserError, match=f"'tiny_squares' has no images in split '{split}'"):
        data.load("tiny_squares", stream=stream)


def test_an_empty_test_split_gives_way_to_validation(tfds_dir):
    edit_splits(tfds_dir.parent.parent / "tiny_grey" / "1.0.0", empty="test")
    assert data.load("tiny_grey").test.size == 8


def test_cached_labels_that_no_class_has_are_made_again(tfds_dir, tmp_path, caplog):
    expected = np.array(data.load("tiny_squares").test.labels)
    (cached,) = (tmp_path / "cache" / "splits").iterdir()
    np.save(cached / "test.labels.npy", np.full_like(expected, -1))
    with caplog.at_level(logging.WARNING):
        again = data.load("tiny_squares")
    assert "has the label -1" in caplog.text
    np.testing.assert_array_equal(again.test.labels, expected)


def test_an_unreadable_description_is_named(tfds_dir):
    (tfds_dir / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="tiny_squares"):
        data.load("tiny_squares")


def test_an_unknown_name_suggests_the_nearest(monkeypatch):
    with pytest.raises(UserError, match=r"unknown data set 'cifar1': did you mean .*cifar10"):
        data.load("cifar1")
    with pytest.raises(UserError, match=r"did you mean .*shapes"):
        data.load("shape")


def test_without_a_network_the_way_out_is_told(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def refuse(*args, **kwargs):
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(requests, "head", refuse)
    with pytest.raises(UserError) as error:
        data.load("cifar10")
    message = str(error.value)
    for part in (
        "cifar10",
        str(tmp_path),
        "no network",
        "tfds build cifar10",
        "TFDS_DATA_DIR",
        "shapes and digits",
    ):
        assert part in message
    assert not list(tmp_path.iterdir())
    assert not data.is_prepared("cifar10")


def test_looking_for_a_set_that_is_not_prepared_leaves_nothing_behind(tfds_dir, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert not data.is_prepared("cifar10")
    assert list(temporary.iterdir()) == []


def test_digits_are_all_there():
    dataset = data.load("digits")
    assert dataset.train.size + dataset.test.size == 1797
    assert dataset.image_shape == (32, 32, 3)
    assert set(np.unique(dataset.test.labels)) == set(range(10))


def test_shapes_are_split_without_overlap(monkeypatch):
    monkeypatch.setattr(sources, "SHAPES_TRAIN", 50)
    monkeypatch.setattr(sources, "SHAPES_TEST", 20)
    dataset = data.load("shapes")
    train = {image.tobytes() for image in dataset.train.images}
    test = {image.tobytes() for image in dataset.test.images}
    assert (len(train), len(test)) == (50, 20)
    assert not train & test


def test_hold_out_takes_the_last_images():
    split = data.Split(np.zeros(50_000, np.uint8), np.arange(50_000))
    train, validation = data.hold_out(split, 0.3)
    assert (train.size, validation.size) == (35_000, 15_000)
    assert validation.labels[0] == 35_000


@pytest.mark.parametrize("options", [{}, {"skip_bad": True}, {"stream": "always"}], ids=str)
@pytest.mark.parametrize("share", [None, 0.25])
def test_a_tfds_set_with_validation_and_test_images_is_validated_on_the_former(options, share, tfds_dir):
    loaded = data.load("tiny_three", validation_split=share, **options)
    for part, count in tiny_tfds.THREE.items():
        found = getattr(loaded, part).first(count + 1)
        assert found.size == count  # none of those to train on is held out
        order = np.argsort(found.images.sum((1, 2, 3)))
        expected = np.stack([tiny_tfds.picture(number) for number in range(count)])
        np.testing.assert_array_equal(found.images[order], expected[np.argsort(expected.sum((1, 2, 3)))])
    assert data.load("tiny_grey", **options).validation is None  # its test images have no labels


@pytest.mark.parametrize("fraction", [2, -1, 0, 1, math.nan, None, "0.1"])
def test_only_a_fraction_can_be_held_out(fraction):
    with pytest.raises(
        UserError, match=re.escape(f"`fraction` must be between 0 and 1, such as 0.1, got {fraction!r}")
    ):
        data.hold_out(data.Split(np.zeros(10, np.uint8)), fraction)


def test_both_parts_have_an_image():
    with pytest.raises(UserError, match=r"`fraction` 0\.9 of 2 images leaves 0 to train on and 2 to validate on"):
        data.hold_out(data.Split(np.zeros(2, np.uint8)), 0.9)


def test_a_named_set_holds_its_last_images_out_where_that_is_asked():
    whole, split = data.load("digits"), data.load("digits", validation_split=0.25)
    assert whole.validation is None
    train, validation = data.hold_out(whole.train, 0.25)
    np.testing.assert_array_equal(split.train.images, train.images)
    np.testing.assert_array_equal(split.validation.images, validation.images)


def test_floats_from_0_to_1_are_images_and_others_are_refused():
    floats = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3)
    assert data.Split(floats).images is floats
    for wrong in (floats * 255, floats - 0.5, floats * np.nan):
        with pytest.raises(UserError, match=r"images are floats from .* to .*; expected uint8, or floats from 0 to 1"):
            data.Split(wrong)
    with pytest.raises(UserError, match="the images are of type int64; expected uint8, or floats"):
        data.Split(np.zeros((1, 2, 2, 3), np.int64))


def test_there_is_one_target_for_each_image():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(UserError, match="there are 3 images but 2 labels: expected one for each"):
        data.Split(images, np.zeros(2, np.int32))
    with pytest.raises(UserError, match="there are 3 images but 4 masks: expected one for each"):
        data.Split(images, masks=np.zeros((4, 4, 4), np.uint8))


def test_a_photograph_is_one_of_scikit_learn_s_or_any_image_file(tmp_path):
    assert data.photograph("china").shape == data.photograph("flower").shape == (427, 640, 3)
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(data.photograph(str(tmp_path / "grey.png")), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("name", ["chine", "broken.png"])
def test_a_photograph_that_is_none_is_refused_by_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(UserError, match=name):
        data.photograph(name)


def test_masks_of_no_images_may_be_integers_of_any_type():
    assert data.Split(np.zeros((0, 4, 4, 3), np.uint8), masks=np.zeros((0, 4, 4), np.int64)).size == 0
