"""Streams: folder trees and TFDS sets decoded on the way, in the order of data in memory."""

import io
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cnnjax import data
from cnnjax.data.bundled import photograph
from cnnjax.data.decode import decode
from cnnjax.errors import UserError

CLASSES = ("circle", "square")


def picture(number, size=(12, 9)):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def tree(tmp_path):
    """Two classes of five training and two test images, of two sizes and formats; PNG, so that pixels are exact."""
    for split, count in (("train", 5), ("test", 2)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "tree" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture(100 * label + number, (12, 9) if number % 2 else (8, 8)).save(folder / f"{number}.png")
    return tmp_path / "tree"


def everything(split, batch_size=4, seed=0, epoch=0):
    indices, weights = data.epoch_order(seed, epoch, split.size, batch_size)
    batches = map(arrays, split.batches(indices, weights))
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def arrays(batch):
    """Images, labels and weights of a batch."""
    assert type(batch.images) is np.ndarray  # Grain's own kind is in shared memory, which it does not free in time
    return batch.images, batch.labels, batch.weights


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_shows_what_the_folder_in_memory_shows_in_the_same_order(tree, workers):
    stream = data.load(str(tree), image_size=8, stream="always", workers=workers)
    memory = data.load(str(tree), image_size=8, stream="never")
    assert isinstance(stream.train, data.Stream)
    assert isinstance(memory.train, data.Split)
    assert stream.class_names == memory.class_names == CLASSES
    assert stream.image_shape == memory.image_shape == (8, 8, 3)
    for ours, theirs in zip(everything(stream.train), everything(memory.train), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_held_out_parts_of_a_stream_are_those_of_data_in_memory(tree):
    stream, memory = (data.load(str(tree), image_size=8, stream=how) for how in ("always", "never"))
    for ours, theirs in zip(data.hold_out(stream.train, 0.3), data.hold_out(memory.train, 0.3), strict=True):
        assert ours.size == theirs.size
        np.testing.assert_array_equal(ours.first(ours.size).images, theirs.images)


def test_every_part_of_a_folder_has_every_class(tmp_path):
    for label, name in enumerate("abc"):
        for split, count in (("train", 30), ("test", 1)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture(100 * label + number, (2, 2)).save(folder / f"{number}.png")
    folder = data.load(str(tmp_path), image_size=2)
    for part in data.hold_out(folder.train, 0.3):
        assert set(part.labels) == {0, 1, 2}
    assert (np.bincount(folder.train.labels) == 30).all()


def test_a_stream_goes_on_anywhere_in_an_epoch(tree):
    stream = data.load(str(tree), image_size=8, stream="always").train
    indices, weights = data.epoch_order(3, 1, stream.size, 4)
    whole, rest = stream.batches(indices, weights), stream.batches(indices[1:], weights[1:])
    next(whole)
    for ours, theirs in zip(rest, whole, strict=True):
        np.testing.assert_array_equal(ours.images, theirs.images)


def test_small_folders_are_kept_in_memory_and_decoded_again_when_a_file_changes(tree):
    before = data.load(str(tree), image_size=8)
    assert isinstance(before.train, data.Split)
    picture(999, (8, 8)).save(tree / "train" / "circle" / "0.png")
    after = data.load(str(tree), image_size=8)
    assert before.version != after.version
    changed = np.asarray(picture(999, (8, 8)))
    assert [(image == changed).all() for image in after.train.images].count(True) == 1


def test_images_are_scaled_to_cover_and_cut_in_the_middle():
    encoded = io.BytesIO()
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    Image.fromarray(stripes).save(encoded, "PNG")
    np.testing.assert_array_equal(decode(encoded.getvalue(), (10, 10, 3)), 255)
    assert decode(encoded.getvalue(), (5, 15, 3)).shape == (5, 15, 3)


def test_a_file_with_more_than_a_byte_for_each_channel_is_refused():
    encoded = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(encoded, "PNG")
    with pytest.raises(ValueError, match="more than 8 bits for each channel"):
        decode(encoded.getvalue(), (8, 8, 3))


def test_grey_and_transparent_images_become_rgb():
    for mode in ("L", "RGBA", "P"):
        encoded = io.BytesIO()
        picture(0, (8, 8)).convert(mode).save(encoded, "PNG")
        assert decode(encoded.getvalue(), (8, 8, 3)).shape == (8, 8, 3)


def test_postscript_under_the_name_of_an_image_is_not_run(tree, monkeypatch):
    run, drawn = [], io.BytesIO()
    picture(0, (8, 8)).save(drawn, "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: run.append(True) or picture(0, (8, 8)).im)
    Image.open(io.BytesIO(drawn.getvalue())).load()
    assert run.pop()  # Pillow would run it
    path = tree / "train" / "square" / "3.png"
    path.write_bytes(drawn.getvalue())
    with pytest.raises(UserError, match=r"3.png is no image that can be read"):
        data.load(str(tree), image_size=8)
    with pytest.raises(UserError, match=r"photograph .* nor an image file that can be read"):
        photograph(str(path))
    assert not run


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_ends_the_run_by_name_or_is_left_out(tree, workers, caplog):
    broken = tree / "train" / "square" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError, match=r"3.png is no image that can be read .*`skip_bad=True`"):
        everything(data.load(str(tree), image_size=8, stream="always", workers=workers).train)
    stream = data.load(str(tree), image_size=8, stream="always", workers=workers, skip_bad=True).train
    with caplog.at_level(logging.WARNING):
        _, _, weights = everything(stream)
        everything(stream, epoch=1)
    assert weights.sum() == 9
    said = [record.getMessage().split(" is no ")[0] for record in caplog.records]
    assert said == [f"skipped: {broken}", "skipped 1 of 10 images", "skipped 1 of 10 images"]
    memory = data.load(str(tree), image_size=8, skip_bad=True).train
    assert memory.size == 9
    with pytest.raises(UserError, match=r"3.png is no image that can be read"):
        data.load(str(tree), image_size=8)


def test_another_image_of_the_batch_stands_in_for_a_broken_one(tree):
    whole = data.load(str(tree), image_size=8, stream="always").train
    indices, weights = data.epoch_order(0, 0, whole.size, 5)
    before = [np.copy(batch.images) for batch in whole.batches(indices, weights)]
    for file in whole.source.files[2], whole.source.files[7]:
        Path(file).write_text("no image")
    stream = data.load(str(tree), image_size=8, stream="always", skip_bad=True).train
    for _ in range(2):
        for index, images, (ours, labels, ours_weights) in zip(
            indices, before, map(arrays, stream.batches(indices, weights)), strict=True
        ):
            broken = np.isin(index, (2, 7))
            np.testing.assert_array_equal(ours[~broken], images[~broken])
            np.testing.assert_array_equal(ours_weights, ~broken)
            good = {image.tobytes(): label for image, label in zip(ours[~broken], labels[~broken], strict=True)}
            for image, label in zip(ours[broken], labels[broken], strict=True):
                assert good[image.tobytes()] == label


def test_a_file_that_cannot_be_read_is_left_out_like_one_that_cannot_be_decoded(tree):
    missing = tree / "train" / "circle" / "1.png"
    missing.unlink()
    missing.symlink_to(tree / "nowhere")
    with pytest.raises(UserError, match=r"1.png is no image that can be read .*No such file.*`skip_bad=True`"):
        everything(data.load(str(tree), image_size=8, stream="always").train)
    stream = data.load(str(tree), image_size=8, stream="always", skip_bad=True).train
    assert everything(stream)[2].sum() == 9


def test_damaged_records_are_left_out_by_name(tfds_dir, caplog):
    (file,) = tfds_dir.glob("*train*")
    content = bytearray(file.read_bytes())
    content[3000:3100] = bytes(100)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"record \d+ of split 'train' of data set 'tiny_squares' is no image"):
        everything(data.load("tiny_squares", stream="always").train)
    with caplog.at_level(logging.WARNING):
        weights = everything(data.load("tiny_squares", stream="always", skip_bad=True).train)[2]
    assert 30 < weights.sum() < 40
    assert f"skipped {40 - weights.sum():.0f} of 40 images" in caplog.text


def test_damaged_records_are_left_out_of_a_tfds_set_in_memory_by_name(tfds_dir, caplog):
    whole = {image.tobytes() for image in data.load("tiny_squares").train.images}
    (file,) = tfds_dir.glob("*train*")
    content = bytearray(file.read_bytes())
    content[3000:3100] = bytes(100)
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        memory = data.load("tiny_squares", stream="never", skip_bad=True).train
    assert isinstance(memory, data.Split)
    assert 30 < memory.size < 40
    assert {image.tobytes() for image in memory.images} < whole
    assert "of split 'train' of data set 'tiny_squares' is no image" in caplog.text
    assert f"skipped {40 - memory.size} of 40 images" in caplog.text


@pytest.mark.parametrize("stream", ["always", "never"])
def test_data_of_which_no_image_can_be_read_are_refused(tree, stream):
    for file in (tree / "test").rglob("*.png"):
        file.write_text("no image")
    with pytest.raises(UserError, match=r"none of the 4 images can be read, .*test.*png among them"):
        everything(data.load(str(tree), image_size=8, stream=stream, skip_bad=True).test)


def test_a_tfds_stream_shows_what_tfds_in_memory_shows(tfds_dir):
    stream, memory = data.load("tiny_squares", stream="always"), data.load("tiny_squares")
    assert isinstance(stream.train, data.Stream)
    assert (stream.class_names, stream.train.size) == (memory.class_names, memory.train.size)
    for ours, theirs in zip(everything(stream.test), everything(memory.test), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert data.load("tiny_squares", stream="always", image_size=3).image_shape == (3, 3, 3)


def test_a_stream_has_the_channels_of_the_set(tfds_dir):
    stream, memory = data.load("tiny_grey", stream="always"), data.load("tiny_grey")
    assert stream.image_shape == memory.image_shape == (8, 8, 1)
    for ours, theirs in zip(everything(stream.train), everything(memory.train), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert data.load("tiny_grey", stream="always", image_size=3).train.first(2).images.shape == (2, 3, 3, 1)


def test_an_image_size_of_zero_is_refused(tfds_dir):
    with pytest.raises(UserError, match="`image_size` must be an integer of at least 1, got 0"):
        data.load("tiny_squares", stream="always", image_size=0)


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda tree: shutil.rmtree(tree / "test" / "circle"), {"image_size": 8}, "tree: test lacks circle; expected"),
        (lambda tree: None, {}, "images of a folder, such as .*tree, are resized to one size: add `image_size=64`"),
        (
            lambda tree: None,
            {"image_size": 8, "stream": "sometimes"},
            "unknown `stream` 'sometimes'",
        ),
        (lambda tree: (tree / "train" / "empty").mkdir(), {"image_size": 8}, "class folder .*empty has no images"),
        (lambda tree: (tree / "train").rename(tree / "training"), {"image_size": 8}, "has no folder train"),
        (
            lambda tree: (tree / "test" / "circle").rename(tree / "test" / "round"),
            {"image_size": 8},
            "test lacks circle and has round, which train lacks; expected a folder for every class in both",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tree, spoil, options, message):
    spoil(tree)
    with pytest.raises(UserError, match=message):
        data.load(str(tree), **options)


def test_generated_data_is_not_streamed():
    with pytest.raises(UserError, match="shapes is made in memory at one size"):
        data.load("shapes", stream="always")
    with pytest.raises(UserError, match="no/such/tree is no folder"):
        data.load("no/such/tree", image_size=8)
