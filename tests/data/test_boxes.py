"""Images with objects: from TFDS sets, from the project's own builders of two, generated, and in memory."""

import csv
import functools
import logging
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy.io import savemat

from cnnjax import data
from cnnjax.data.builders import caltech101_boxes, dsb2018_nuclei
from cnnjax.data.objects import Objects, Places
from cnnjax.errors import UserError
from tests.tiny_tfds import png

BBox = tfds.features.BBox


def picture_of(number, height=10, width=20):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TinyObjects(tfds.core.GeneratorBasedBuilder):
    """10x20 images; image k has k objects, of which the second is a crowd; those of the test split are secret."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        several = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "is_crowd": np.bool_,
        }
        features = {
            "image": tfds.features.Image(shape=(10, 20, 3)),
            "instance_mask": tfds.features.Image(shape=(10, 20, 1)),
            "objects": tfds.features.Sequence(several),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(4),
            "validation": self._generate_examples(3),
            "test": self._generate_examples(1),
        }

    def _generate_examples(self, count):
        for number in range(count):
            mask, objects = np.zeros((10, 20, 1), np.uint8), []
            for k in range(number):
                mask[2:4, 5 * k : 5 * k + 2] = k + 1
                objects.append({"bbox": BBox(0.2, 0.25 * k, 0.4, 0.25 * k + 0.1), "label": k % 2, "is_crowd": k == 1})
            yield number, {"image": png(picture_of(number)), "instance_mask": png(mask[..., 0]), "objects": objects}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    TinyObjects(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def tfds_dir(prepared, tmp_path, monkeypatch):
    use(monkeypatch, prepared, tmp_path)


def use(monkeypatch, folder, cache):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(cache / "cache"))


def by_image(split, height=10, width=20):
    found = {}
    for k, image in enumerate(split.images):
        number = next(n for n in range(9) if (picture_of(n, height, width) == image).all())
        found[number] = {name: array[k] for name, array in split.arrays.items()}
    return found


@pytest.mark.usefixtures("tfds_dir")
def test_a_tfds_set_has_its_boxes_crowds_and_masks_in_the_places_of_every_image(caplog):
    with caplog.at_level(logging.WARNING):
        dataset = data.load_boxes("tiny_objects", instances=True)
    assert dataset.class_names == ("cat", "dog")
    assert "no test image has an object: left out" in caplog.text
    assert [part.size for part in (dataset.train, dataset.validation, dataset.test)] == [4, 3, 3]
    found = by_image(dataset.train)
    np.testing.assert_array_equal(found[3]["labels"], [0, 0, -2 - 1])
    np.testing.assert_allclose(found[3]["boxes"], [[0, 2, 2, 4], [10, 2, 12, 4], [5, 2, 7, 4]], atol=1e-5)
    expected = np.zeros((10, 20))
    for number, left in enumerate((0, 10, 5)):
        expected[2:4, left : left + 2] = number + 1
    np.testing.assert_array_equal(found[3]["instances"], expected)
    np.testing.assert_array_equal(found[1]["labels"], [0, -1, -1])
    np.testing.assert_array_equal(found[0]["labels"], [-1, -1, -1])


@pytest.mark.usefixtures("tfds_dir")
def test_a_stream_of_a_tfds_set_gives_the_same_at_any_size_with_any_number_of_places():
    options = {"image_size": (40, 40), "max_objects": 5, "instances": True}
    kept, streamed = (data.load_boxes("tiny_objects", stream=stream, **options) for stream in ("never", "always"))
    for name, array in streamed.train.first(4).arrays.items():
        np.testing.assert_array_equal(array, kept.train.arrays[name])
    assert kept.train.boxes.shape == (4, 5, 4)
    three = kept.train.labels[:, 0].tolist().index(0)
    np.testing.assert_allclose(kept.train.boxes[three, 0], [0, 14, 4, 18], atol=1e-4)
    with pytest.raises(
        UserError, match=r"record \d of split 'train' .* it has 3 objects and there are `max_objects`=2"
    ):
        data.load_boxes("tiny_objects", max_objects=2, stream="always")


def test_sets_without_boxes_or_masks_of_objects_say_what_they_have(tfds_dir, monkeypatch):
    monkeypatch.setattr(TinyObjects, "_info", without(TinyObjects._info, "instance_mask"))
    with pytest.raises(
        UserError, match=r"expected an image and objects .* an instance_mask: leave out `instances=True`"
    ):
        data.load_boxes("tiny_objects", instances=True)
    monkeypatch.setattr(TinyObjects, "_info", without(TinyObjects._info, "objects"))
    with pytest.raises(
        UserError, match=r"has features \['image'\] .*expected an image and objects with bbox and label"
    ):
        data.load_boxes("tiny_objects")


def without(info, feature):
    @functools.wraps(info)
    def less(self):
        features = {name: kind for name, kind in info(self).features.items() if name != feature}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    return less


def test_generated_scenes_have_exact_boxes_and_masks_at_any_size(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("cnnjax.data.boxes.SCENES_TRAIN", 20)
    monkeypatch.setattr("cnnjax.data.boxes.SCENES_TEST", 10)
    made = data.scenes.generate(30, size=32)
    dataset = data.load_boxes("shapes", image_size=32, max_objects=6, instances=True, validation_split=0.2)
    assert [part.size for part in (dataset.train, dataset.validation, dataset.test)] == [16, 4, 10]
    np.testing.assert_array_equal(dataset.test.boxes[:, :4], made.boxes[20:])
    np.testing.assert_array_equal(dataset.test.labels[:, :4], made.labels[20:])
    assert (dataset.test.labels[:, 4:] == -1).all()
    assert not dataset.test.boxes[:, 4:].any()
    np.testing.assert_array_equal(dataset.train.instances, made.instances[:16])
    assert data.load_boxes("shapes", image_size=32).train.instances is None
    for options in ({"image_size": (32, 48)}, {"stream": "always"}, {"max_objects": 3}):
        with pytest.raises(UserError, match=r"shapes (are square|has up to 4 objects)"):
            data.load_boxes("shapes", **options)


def test_generated_images_of_one_object_have_its_box_and_mask(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("cnnjax.data.boxes.SHAPES_TRAIN", 20)
    monkeypatch.setattr("cnnjax.data.boxes.SHAPES_TEST", 10)
    made = data.shapes.generate(30, size=32)
    dataset = data.load_boxes("shapes", image_size=32, max_objects=1, instances=True)
    assert dataset.validation is None
    np.testing.assert_array_equal(dataset.train.labels, made.labels[:20, None])
    np.testing.assert_array_equal(dataset.test.instances, made.masks[20:])
    for mask, (box,) in zip(dataset.test.instances, dataset.test.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, tight, atol=1.5)  # pixels whose centre lies in the object are its mask
    assert data.load_boxes("shapes", image_size=32, max_objects=1).train.instances is None


# ---------------------------------------------------------------- in memory


def memory(boxes, labels=None):
    boxes = np.float32(boxes)
    labels = np.where(boxes.any(-1), 0, -1).astype(np.int32) if labels is None else np.int32(labels)
    split = data.Split(np.zeros((len(boxes), 10, 20, 3), np.uint8), labels, boxes)
    return data.Dataset("mine", "1", ("cat", "dog"), split, split)


NONE, GOOD = [0] * 4, [1, 2, 5, 6]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[GOOD, NONE], [NONE, [8, 3, 8, 5]]],
            r"object 1 of image 1 of the train images of data set 'mine' has a box with",
        ),
        ([[GOOD, NONE], [GOOD, [3, np.nan, 8, 5]]], "object 1 of image 1 .* not of finite numbers"),
        (
            [[GOOD, GOOD], [[20, 1, 22, 3], NONE]],
            r"object 0 of image 1 .* outside of the image, which has 20x10 pixels",
        ),
        ([[[9, 8, 3, 2], [12, 5, 4, 3]]], r"2 of 2 boxes have a negative size.*look like x, y, width, height"),
        (np.zeros((2, 4)), r"of type float32 and shape \(2, 4\); expected floats \(images, boxes, 4\)"),
    ],
)
def test_boxes_in_memory_that_cannot_be_right_are_named(boxes, message):
    with pytest.raises(UserError, match=message):
        memory(boxes, np.full(np.shape(boxes)[:2], -1) if np.ndim(boxes) == 3 else [0, 1])


def test_labels_of_boxes_are_classes_crowds_or_nothing():
    memory([[GOOD, GOOD, NONE]], [[1, -2 - 1, -1]])
    for label in (2, -2 - 2):
        with pytest.raises(UserError, match=r"image 0 of the train .* has an object of class 2; expected 0 to 1"):
            memory([[GOOD, GOOD, NONE]], [[1, label, -1]])


def test_boxes_are_scaled_as_much_as_whole_pixels_of_the_scaled_image_are():
    """10x3 pixels become 5x2, a half of the width and two thirds of the height, in the middle of 5x5."""
    boxes, labels = Places(2).put(Objects.of([[2, 0, 6, 3]], [1], (3, 10)), (5, 5))
    np.testing.assert_allclose(boxes, [[1, 1, 3, 3], [0] * 4])
    np.testing.assert_array_equal(labels, [1, -1])


def test_maps_of_more_than_255_objects_take_two_bytes():
    objects = Objects.of(np.tile([1.0, 1, 3, 3], (300, 1)), np.zeros(300), (4, 4))
    places = Places(300)
    kept = places.kept(objects)
    found = places.renumbered(np.uint16([[300, 0]]), kept, 300)
    np.testing.assert_array_equal(found, [[300, 0]])
    assert found.dtype == np.uint16
    assert data.Boxed((4, 4, 3), places, 1, True).spec["instances"].dtype == np.uint16
    with pytest.raises(ValueError, match="its mask has the number 301, but it has 300 objects"):
        places.renumbered(np.uint16([[301]]), kept, 300)


# ---------------------------------------------------------------- builders


def test_the_builder_of_caltechs_boxes_reads_its_archive(tmp_path, monkeypatch):
    folder = tmp_path / "archive" / "caltech-101"
    number, files = 0, {}
    for name, (own, notes) in caltech101_boxes.CLASSES.items():
        for part in (folder / "101_ObjectCategories" / own, folder / "Annotations" / notes):
            part.mkdir(parents=True)
        for k in range(1, 6):
            file = folder / "101_ObjectCategories" / own / f"image_{k:04d}.jpg"
            Image.fromarray(np.full((10, 20, 3), 10 * number, np.uint8)).save(file)
            savemat(folder / "Annotations" / notes / f"annotation_{k:04d}.mat", {"box_coord": [[1, 9, 2 + number, 22]]})
            files[number], number = f"{name}/{file.name}", number + 1
    for name, end, mode in (("101_ObjectCategories", "tar.gz", "w:gz"), ("Annotations", "tar", "w")):
        with tarfile.open(folder / f"{name}.{end}", mode) as archive:
            archive.add(folder / name, name)
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(
        manager, "download_and_extract", lambda self, url: {caltech101_boxes.ARCHIVE: folder.parent}[url]
    )
    monkeypatch.setattr(manager, "extract", lambda self, path: folder)
    caltech101_boxes.Caltech101Boxes(data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()
    use(monkeypatch, tmp_path / "tfds", tmp_path)
    dataset = data.load_boxes("caltech101_boxes", image_size=(10, 20))
    assert dataset.class_names == ("airplane", "face", "motorcycle")
    assert (dataset.train.size, dataset.test.size) == (12, 3)
    rng = np.random.default_rng(0)
    tested = {5 * label + int(rng.permutation(5)[0]) for label in range(3)}
    for split, expected in ((dataset.test, tested), (dataset.train, set(range(15)) - tested)):
        shown = [round(image.mean() / 10) for image in split.images]
        assert set(shown) == expected
        for number, box, label in zip(shown, split.boxes[:, 0], split.labels[:, 0], strict=True):
            assert label == number // 5
            np.testing.assert_allclose(box, [2 + number, 1, 20, 9], atol=1e-5)


def test_the_builder_of_nuclei_reads_masks_from_files_and_from_run_lengths(tmp_path, monkeypatch):
    monkeypatch.setattr(dsb2018_nuclei, "MOST", 2)
    monkeypatch.setattr(dsb2018_nuclei, "LONGEST", 20)
    fixed, test = tmp_path / "fixed", tmp_path / "test"
    for number, folder in enumerate((fixed / dsb2018_nuclei.FIXED_FOLDER, test)):
        (folder / "one" / "images").mkdir(parents=True)
        large = picture_of(number).repeat(1 + number, 0).repeat(1 + number, 1)  # the test image is scaled down
        Image.fromarray(large).convert("RGBA").save(folder / "one" / "images" / "one.png")
    (fixed / dsb2018_nuclei.FIXED_FOLDER / "one" / "masks").mkdir()
    for k, left in enumerate((0, 4, 14)):
        mask = np.zeros((10, 20), np.uint8)
        mask[2:5, left : left + 3] = 255
        if k == 1:
            mask[9, 19] = 255  # in another strip this nucleus is too small
        Image.fromarray(mask).save(fixed / dsb2018_nuclei.FIXED_FOLDER / "one" / "masks" / f"{k}.png")
    with (tmp_path / "solution.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "EncodedPixels", "Height", "Width", "Usage"])
        rows.writerow(["one", "85 8 105 8 125 8 145 8", 20, 40, "Private"])
    places = {
        dsb2018_nuclei.FIXED: fixed,
        dsb2018_nuclei.TEST: test,
        dsb2018_nuclei.SOLUTION: tmp_path / "solution.csv",
    }
    for method in ("download_and_extract", "download"):
        monkeypatch.setattr(tfds.download.DownloadManager, method, lambda self, url: places[url])
    dsb2018_nuclei.Dsb2018Nuclei(data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()
    use(monkeypatch, tmp_path / "tfds", tmp_path)
    dataset = data.load_boxes("dsb2018_nuclei", image_size=10, instances=True)
    assert dataset.class_names == ("nucleus",)
    assert (dataset.train.size, dataset.test.size) == (2, 1)  # the first is cut into halves of 10 columns
    left, right = (dataset.train.labels[:, 1] >= 0).argsort()[::-1]
    np.testing.assert_allclose(dataset.train.boxes[left], [[0, 2, 3, 5], [4, 2, 7, 5]], atol=1e-5)
    np.testing.assert_allclose(dataset.train.boxes[right], [[4, 2, 7, 5], [0] * 4], atol=1e-5)
    expected = np.zeros((10, 10))
    expected[2:5, 4:7] = 1
    np.testing.assert_array_equal(dataset.train.instances[right], expected)
    np.testing.assert_allclose(dataset.test.boxes[0, 0], [1, 3, 2, 5], atol=1e-5)  # half as large, 2 rows further down
    assert dataset.test.instances[0].max() == 1
    (one,) = tfds.data_source("dsb2018_nuclei", split="test", data_dir=str(tmp_path / "tfds"))
    assert one["image"].shape == (10, 20, 3)
    np.testing.assert_array_equal(
        np.argwhere(dsb2018_nuclei.mask_of_runs("23 2 33 1", (10, 20))), [[2, 2], [2, 3], [3, 2]]
    )
