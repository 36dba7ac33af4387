"""COCO's JSON beside images: what is read of it, and what is wrong with it."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data.outlines import drawn, mask_of
from cnnjax.errors import UserError

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]


def note(number, image, box, category=3, **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, **more}


def content(count=6, annotations=()):
    images = [{"id": k, "file_name": f"{k}.png", "height": 8, "width": 10} for k in range(count)]
    every = [note(100 + k, k, [2, 1, 4, 3], segmentation=SQUARE) for k in range(count)]
    return {"images": images, "categories": [*CATEGORIES], "annotations": [*every, *annotations]}


def picture_of(number):
    return np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)


def save(folder, wanted, name="instances.json"):
    folder.mkdir(parents=True, exist_ok=True)
    for entry in wanted["images"]:
        Image.fromarray(picture_of(entry["id"])).save(folder / entry["file_name"])
    (folder / name).write_text(json.dumps(wanted))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))


def load(folder, **options):
    return data.load_boxes(str(folder), **{"image_size": (8, 10), **options})


def by_image(*splits):
    """Arrays of every image by its number."""
    found = {}
    for split in splits:
        for k, image in enumerate(split.images):
            number = next(n for n in range(20) if (picture_of(n) == image).all())
            found[number] = {name: array[k] for name, array in split.arrays.items()}
    return found


def test_one_image_cannot_be_split(tmp_path):
    with pytest.raises(UserError, match="has one image: expected some more to validate on"):
        load(save(tmp_path / "pets", content(1)))


def test_boxes_classes_and_crowds_get_places_and_an_image_without_objects_is_kept(tmp_path):
    crowd = {"counts": [0, 80], "size": [8, 10]}
    more = [
        note(1, 0, [0, 0, 10, 8], 7, iscrowd=1, segmentation=crowd),
        note(2, 0, [6.5, 5, 2, 2.5], 7, segmentation=[[6.5, 5, 8.5, 5, 8.5, 7.5, 6.5, 7.5]]),
    ]
    wanted = content(annotations=more)
    wanted["annotations"] = [note for note in wanted["annotations"] if note["image_id"] != 1]
    wanted["annotations"].reverse()
    dataset = load(save(tmp_path / "pets", wanted), instances=True)
    assert dataset.class_names == ("dog", "cat")  # by their ids, 3 and 7
    assert dataset.train.size + dataset.validation.size == 6
    assert dataset.test is dataset.validation
    found = by_image(dataset.train, dataset.validation)
    np.testing.assert_array_equal(found[0]["labels"], [1, 0, -2 - 1])  # crowds come last
    np.testing.assert_array_equal(found[0]["boxes"], [[6.5, 5, 8.5, 7.5], [2, 1, 6, 4], [0, 0, 10, 8]])
    expected = np.full((8, 10), 3)
    expected[1:4, 2:6], expected[5:7, 6:8] = 2, 1  # the centres of column 6 and row 7 are at the border: one is inside
    np.testing.assert_array_equal(found[0]["instances"][:7], expected[:7])
    np.testing.assert_array_equal(found[1]["labels"], [-1, -1, -1])
    assert not found[1]["boxes"].any()
    assert not found[1]["instances"].any()
    np.testing.assert_array_equal(found[5]["boxes"], [[2, 1, 6, 4], [0] * 4, [0] * 4])


def test_boxes_and_masks_are_scaled_and_shifted_with_their_images(tmp_path):
    dataset = load(save(tmp_path / "pets", content()), image_size=(20, 20), instances=True)
    assert dataset.train.boxes.dtype == np.float32
    np.testing.assert_array_equal(dataset.train.boxes[0], [[4, 4, 12, 10]])  # twice as large, 2 rows further down
    expected = np.zeros((20, 20))
    expected[4:10, 4:12] = 1
    np.testing.assert_array_equal(dataset.train.instances[0], expected)
    assert not dataset.train.images[:, :2].any()


def test_streams_give_the_same_examples_and_processes_do(tmp_path):
    folder = save(tmp_path / "pets", content())
    for workers in (0, 1):
        streamed = load(folder, instances=True, stream="always", workers=workers)
        kept = load(folder, instances=True)
        assert isinstance(streamed.train, data.Stream)
        for name, array in streamed.train.first(3).arrays.items():
            np.testing.assert_array_equal(array, kept.train.arrays[name][:3])
    assert streamed.train.labels is None
    before = streamed.train.checksums()
    wanted = content()
    for one in wanted["annotations"]:
        one["category_id"] = 7
    save(folder, wanted)
    assert load(folder, stream="always").train.checksums() != before


def test_folders_of_splits_have_a_file_each_and_images_may_lie_in_a_folder_of_that_name(tmp_path):
    root = tmp_path / "pets"
    save(root / "train", content(3), "notes.json")
    save(root / "valid" / "images", content(2), "notes.json").joinpath("notes.json").rename(root / "valid/notes.json")
    dataset = load(root, annotations="notes.json")
    assert [part.size for part in (dataset.train, dataset.validation)] == [3, 2]
    changed = content(2)
    changed["categories"] = [{"id": 7, "name": "cow"}, {"id": 3, "name": "dog"}]
    save(root / "valid", changed, "notes.json")
    with pytest.raises(UserError, match=r"the categories of validation are .*cow.*, those of train"):
        load(root, annotations="notes.json")


def test_a_file_elsewhere_is_read_and_other_images_and_boxes_that_reach_out_are_counted(tmp_path, caplog):
    folder = save(tmp_path / "pets", content(annotations=[note(5, 2, [8, 1, 6, 3])]))
    (folder / "instances.json").rename(tmp_path / "elsewhere.json")
    Image.fromarray(picture_of(9)).save(folder / "new.png")
    with caplog.at_level(logging.WARNING):
        dataset = load(folder, annotations=str(tmp_path / "elsewhere.json"))
    assert "images that the annotations do not list: 1" in caplog.text
    assert "1 boxes reach out of their images, and are cut at the border" in caplog.text
    np.testing.assert_array_equal(by_image(dataset.train, dataset.test)[2]["boxes"][1], [8, 1, 10, 4])
    assert (
        data.BoxSource(str(folder)).identity()
        != data.BoxSource(str(folder), str(tmp_path / "elsewhere.json")).identity()
    )


def test_corners_are_read_as_such_and_each_format_is_told_from_the_other(tmp_path):
    corners = content()
    for one in corners["annotations"]:
        one["bbox"] = [6, 4, 9, 8]
    folder = save(tmp_path / "pets", corners)
    np.testing.assert_array_equal(load(folder, box_format="xyxy").train.boxes[0], [[6, 4, 9, 8]])
    with pytest.raises(UserError, match=r"6 of 6 boxes, read as x, y, width, height, reach out .* `box_format='xyxy'`"):
        load(folder)
    for one in corners["annotations"]:
        one["bbox"] = [6, 4, 3, 4]
    save(folder, corners)
    with pytest.raises(UserError, match=r"6 of 6 boxes have a negative size.*look like x, y, width, height"):
        load(folder, box_format="xyxy")


BAD_BOXES = {
    "no area": ([3, 3, 0, 2], "its object 44 has a box without area: (3, 3, 3, 5)"),
    "negative": ([3, 3, -2, 2], "its object 44 has a box without area"),
    "right": ([10, 3, 2, 2], "its object 44 has a box (10, 3, 12, 5) outside of the image, which has 10x8 pixels"),
    "above": ([3, -4, 2, 3], "its object 44 has a box (3, -4, 5, -1) outside of the image"),
    "nan": ([float("nan"), 3, 2, 2], "its object 44 has a box (nan, 3, nan, 5), not of finite numbers"),
    "infinite": ([2, 3, float("inf"), 2], "not of finite numbers"),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_a_box_that_cannot_be_right_names_its_image_and_annotation_or_is_dropped_aloud(kind, tmp_path, caplog):
    box, message = BAD_BOXES[kind]
    folder = save(tmp_path / "pets", content(annotations=[note(44, 4, box)]))
    with pytest.raises(UserError) as raised:
        load(folder)
    assert "4.png: its object 44" in str(raised.value)
    assert message in str(raised.value)
    with caplog.at_level(logging.WARNING):
        kept = load(folder, bad_boxes="drop", max_objects=2)
    assert "1 boxes cannot be right, and are left out" in caplog.text
    assert "4.png (1)" in caplog.text
    found = by_image(kept.train, kept.test)
    assert len(found) == 6
    np.testing.assert_array_equal(found[4]["boxes"], [[2, 1, 6, 4], [0] * 4])
    assert len(by_image((left := load(folder, skip_bad=True)).train, left.test)) == 5


def test_more_objects_than_places_is_an_error_that_names_the_image_unless_the_largest_are_to_be_kept(tmp_path, caplog):
    many = [note(k, 3, [1, 1, 1 + k % 5, 2]) for k in range(500)]
    folder = save(tmp_path / "pets", content(annotations=many))
    with pytest.raises(UserError, match=r"3\.png: it has 501 objects and there are `max_objects`=255 places"):
        load(folder)
    assert load(folder, max_objects=501).train.boxes.shape[1:] == (501, 4)
    with caplog.at_level(logging.WARNING):
        kept = load(folder, max_objects=3, keep_largest=True)
    assert "498 of the smallest objects are left out, for want of places" in caplog.text
    boxes = by_image(kept.train, kept.test)[3]["boxes"]
    np.testing.assert_array_equal(boxes, [[2, 1, 6, 4], [1, 1, 6, 3], [1, 1, 6, 3]])


def broken(change):
    wanted = content()
    change(wanted)
    return wanted


BROKEN = {
    "image": (
        lambda c: c["annotations"].append(note(9, 77, [1, 1, 2, 2])),
        r"annotation 9 is of image 77, which its `im",
    ),
    "category": (
        lambda c: c["annotations"].append(note(9, 2, [1, 1, 2, 2], 5)),
        r"annotation 9, of .*2\.png, has the category 5, which has no name: `categories` has 7, 3",
    ),
    "name": (lambda c: c["categories"].append({"id": 9}), "the category with id 9 has no name"),
    "twice": (lambda c: c["categories"].append({"id": 3, "name": "cow"}), "2 categories of the id 3"),
    "same": (lambda c: c["categories"].append({"id": 4, "name": "cat"}), "2 categories of the name cat"),
    "no classes": (lambda c: c["categories"].clear(), "has no categories"),
    "box": (
        lambda c: c["annotations"][2].pop("bbox"),
        r"annotation 102, of .*2\.png, has the bbox None: expected four",
    ),
    "truth": (lambda c: c["annotations"][2].update(bbox=[1, 2, True, 3]), "expected four numbers"),
    "no list": (lambda c: c.pop("annotations"), "lacks annotations: expected COCO's lists"),
    "number": (lambda c: c["images"][4].update(id=1), r"two images of the id 1: 4\.png is the second"),
    "file": (lambda c: c["images"].append({**c["images"][1], "id": 9}), r"lists the image .*1\.png 2 times"),
    "no name": (lambda c: c["images"][0].pop("file_name"), "image without id or file_name"),
    "none": (lambda c: c["annotations"].clear(), "no training image has an object"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_contradicts_itself_is_named(kind, tmp_path):
    change, message = BROKEN[kind]
    folder = save(tmp_path / "pets", content())
    (folder / "instances.json").write_text(json.dumps(broken(change)))
    with pytest.raises(UserError, match=message):
        load(folder)


def test_missing_files_and_sizes_that_differ_are_named(tmp_path):
    folder = save(tmp_path / "pets", content())
    (folder / "3.png").unlink()
    (folder / "4.png").unlink()
    with pytest.raises(
        UserError, match=r"names the image 3\.png \(id 3\), which is not in .*pets, and 1 more are missing"
    ):
        load(folder)
    save(folder, content())
    Image.fromarray(picture_of(2)[:, :8]).save(folder / "2.png")
    with pytest.raises(UserError, match=r"2\.png .*it has 8x8 pixels, and its annotations 10x8"):
        load(folder)
    (folder / "instances.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON that can be read"):
        load(folder)
    with pytest.raises(UserError, match=r"has no file other\.json: give the name"):
        load(folder, annotations="other.json")
    with pytest.raises(UserError, match="is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="add `image_size`"):
        load(save(folder, content()), image_size=None)


def test_sizes_that_the_file_does_not_say_are_read_of_the_images(tmp_path):
    wanted = content()
    for entry in wanted["images"]:
        del entry["width"]
    np.testing.assert_array_equal(load(save(tmp_path / "pets", wanted)).train.boxes[0], [[2, 1, 6, 4]])


def test_masks_are_asked_for_and_an_annotation_without_one_is_named(tmp_path):
    wanted = content()
    del wanted["annotations"][2]["segmentation"]
    folder = save(tmp_path / "pets", wanted)
    assert load(folder).train.instances is None
    with pytest.raises(UserError, match=r"2\.png .*its object 102 has no segmentation"):
        load(folder, instances=True)


# ---------------------------------------------------------------- outlines

# Strings of run lengths are those of pycocotools 2.0.11, `mask.encode`.


def test_polygons_cover_the_pixels_whose_centres_they_hold():
    triangle = [[0.5, 0.5, 7, 1, 3, 6.5], [8, 0, 20, 0, 20, 3, 8, 3]]
    y, x = np.mgrid[:8, :10] + 0.5
    corners = np.reshape(triangle[0], (3, 2))
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)
    ]
    expected = (np.array(sides) > 0).all(0) | ((x > 8) & (y < 3))
    np.testing.assert_array_equal(mask_of(triangle, (8, 10)), expected)


def test_run_lengths_go_down_columns_and_their_string_is_cocos():
    expected = np.zeros(80, bool)
    expected[9:12] = expected[16:20] = expected[23:28] = True
    expected = expected.reshape(10, 8).T
    for counts in ([9, 3, 4, 4, 3, 5, 52], "9341O1a1"):
        np.testing.assert_array_equal(mask_of({"counts": counts, "size": [8, 10]}, (8, 10)), expected)


def test_a_string_of_long_and_short_runs_is_read():
    counts = [3, 1000, 5, 40, 2000, 1, 1, 950]
    expected = np.repeat(np.arange(8) % 2 == 1, counts).reshape(100, 40).T
    for text in ("3Xo05PRO[n1iNaQNem0", counts):
        np.testing.assert_array_equal(mask_of({"counts": text, "size": [40, 100]}, (40, 100)), expected)


def test_smaller_objects_are_in_front_of_larger_ones_whatever_their_order():
    small, large = [[2, 2, 4, 2, 4, 4, 2, 4]], [[0, 0, 8, 0, 8, 8, 0, 8]]
    for order in ((small, large), (large, small)):
        found = drawn(order, (8, 10), (0, 1))
        assert (found == 1 + order.index(small)).sum() == 4
        assert (found == 1 + order.index(large)).sum() == 60


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[1, 2, 3, 4]], r"object 17 has the polygon \[1, 2, 3, 4\]: expected x, y of at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "expected x, y of at least three"),
        ([[1, 2, 3, 4, 5, float("nan")]], "points are not finite"),
        (
            {"counts": [5, 75], "size": [10, 8]},
            r"of size \(10, 8\): expected \(height, width\) of the image, \(8, 10\)",
        ),
        ({"counts": [5, 70], "size": [8, 10]}, "do not fill its 10x8 pixels"),
        ({"size": [8, 10]}, "do not fill"),
        ([], "has no segmentation"),
    ],
)
def test_outlines_that_cannot_be_read_are_named(outline, message):
    with pytest.raises(ValueError, match=message):
        drawn([SQUARE, outline], (8, 10), [16, 17])
