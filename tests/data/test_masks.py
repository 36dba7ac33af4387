"""Images with masks: from a folder, from a TFDS set, and from the project's own builder of one."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cnnjax import data
from cnnjax.data import masks as masks_of
from cnnjax.data.builders import camvid
from cnnjax.data.decode import Placement
from cnnjax.errors import UserError
from tests.tiny_tfds import png

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def mask_of(number, height=6, width=8):
    """A mask of the classes 0 to 2, with a corner without one."""
    mask = np.random.default_rng(number).integers(0, 3, (height, width), dtype=np.uint8)
    mask[0, 0] = data.VOID
    return mask


def picture_of(number, height=6, width=8):
    return np.random.default_rng(100 + number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(folder, number, mask=None, image=None, name=None):
    name = name or f"{number:02d}"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture_of(number) if image is None else image).save(folder / "images" / f"{name}.png")
    mask = mask_of(number) if mask is None else mask
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(folder / "masks" / f"{name}.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))
    root = tmp_path / "scenes"
    for number in range(10):
        save(root, number)
    return root


def load(folder, **options):
    return data.load_masks(str(folder), **{"image_size": (6, 8), **options})


def by_image(split):
    return {image.tobytes(): mask for image, mask in zip(split.images, split.masks, strict=True)}


def test_an_image_gets_the_mask_of_its_own_name(folder):
    dataset = load(folder)
    found = by_image(dataset.train) | by_image(dataset.test)
    assert len(found) == 10
    for number in range(10):
        np.testing.assert_array_equal(found[picture_of(number).tobytes()], mask_of(number))
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.test is dataset.validation


def test_files_added_later_move_no_image_to_another_split(folder):
    before = set(by_image(load(folder).train))
    for number in range(10, 14):
        save(folder, number)
    assert before < set(by_image(load(folder).train))


def test_folders_of_splits_are_kept_apart(tmp_path, folder):
    for number, split in enumerate(["train", "train", "val", "test"]):
        save(tmp_path / "parts" / split, number)
    dataset = load(tmp_path / "parts")
    assert [part.size for part in (dataset.train, dataset.validation, dataset.test)] == [2, 1, 1]
    np.testing.assert_array_equal(dataset.test.masks[0], mask_of(3))
    np.testing.assert_array_equal(dataset.validation.masks[0], mask_of(2))


def test_masks_in_colours_and_palettes_are_read_by_the_file_of_classes(folder):
    (folder / "classes.txt").write_text("void 0 0 0\nred car 255 0 0\n\ngrass 0 255 0\n")
    colours = np.array([BLACK, RED, GREEN], np.uint8)
    values = np.random.default_rng(0).integers(0, 3, (6, 8))
    palette = Image.fromarray(np.uint8(values))
    palette.putpalette([*BLACK, *RED, *GREEN])
    for number in range(10):
        save(folder, number, Image.fromarray(colours[values]) if number % 2 else palette)
    dataset = load(folder)
    assert dataset.class_names == ("red car", "grass")
    expected = np.array([data.VOID, 0, 1])[values]
    for mask in (*dataset.train.masks, *dataset.test.masks):
        np.testing.assert_array_equal(mask, expected)


def test_names_without_colours_stand_for_the_values_and_void_for_none(folder):
    (folder / "classes.txt").write_text("road\nvoid\nsky\n")
    dataset = load(folder)
    assert dataset.class_names == ("road", "sky")
    found = by_image(dataset.train) | by_image(dataset.test)
    expected = np.array([0, data.VOID, 1, *[data.VOID] * 253])[mask_of(4)]
    np.testing.assert_array_equal(found[picture_of(4).tobytes()], expected)


def test_a_value_can_be_ignored(folder):
    dataset = load(folder, mask_ignore=2)
    assert dataset.class_names == ("0", "1")
    found = by_image(dataset.train) | by_image(dataset.test)
    mask = mask_of(1)
    np.testing.assert_array_equal(found[picture_of(1).tobytes()], np.where(mask == 2, data.VOID, mask))


def test_images_of_another_shape_are_padded_not_stretched(tmp_path):
    save(tmp_path, 0, image=np.full((4, 8, 3), 200, np.uint8), mask=np.ones((4, 8), np.uint8))
    reader = masks_of.Masked((8, 8, 3), (16, 16), masks_of.MaskValues(("a", "b")))
    files = masks_of.MaskFiles((str(tmp_path / "images/00.png"),), (str(tmp_path / "masks/00.png"),))
    read = reader.read(files.read(0))
    np.testing.assert_array_equal(read["images"][..., 0], np.repeat([0, 0, 200, 200, 200, 200, 0, 0], 8).reshape(8, 8))
    rows = np.repeat([data.VOID] * 4 + [1] * 8 + [data.VOID] * 4, 16).reshape(16, 16)
    np.testing.assert_array_equal(read["masks"], rows)


@pytest.mark.parametrize("size", [(4, 8), (8, 4), (5, 7), (1, 30), (9, 9)])
@pytest.mark.parametrize("whole", [(8, 8), (6, 11)])
def test_an_image_is_placed_with_its_shape_inside_the_whole(size, whole):
    place = Placement.of(size, whole)
    height, width = place.scaled
    assert (place.rows.stop - place.rows.start, place.columns.stop - place.columns.start) == (height, width)
    assert 0 <= place.rows.start <= place.rows.stop <= whole[0]
    assert 0 <= place.columns.start <= place.columns.stop <= whole[1]
    assert height == whole[0] or width == whole[1]
    assert abs(height / width - size[0] / size[1]) <= 0.51 * max(1 / width, size[0] / size[1] / width, 1)
    assert abs((whole[0] - place.rows.stop) - place.rows.start) <= 1


def test_masks_to_score_may_be_larger_than_the_images(folder):
    dataset = load(folder, image_size=(3, 4), score_size=(6, 8))
    assert dataset.train.masks.shape[1:] == (3, 4)
    assert dataset.test.images.shape[1:] == (3, 4, 3)
    assert dataset.test.masks.shape[1:] == (6, 8)


def test_a_stream_gives_the_same_images_and_masks(folder):
    memory, stream = load(folder), load(folder, stream="always")
    decoded = stream.train.first(stream.train.size)
    np.testing.assert_array_equal(decoded.images, memory.train.images)
    np.testing.assert_array_equal(decoded.masks, memory.train.masks)
    assert stream.train.spec.masks.shape == (1, 6, 8)


def with_value(mask, value):
    mask = mask.copy()
    mask[2, 3] = value
    return mask


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: save(root, 3, np.zeros((6, 9), np.uint8)), r"03.png.*8x6 pixels, and its mask 9x6"),
        (lambda root: (root / "masks/03.png").unlink(), r"03.png has no mask: expected .*masks/03.png"),
        (
            lambda root: (
                (root / "classes.txt").write_text("a\nb\nc"),
                save(root, 3, with_value(mask_of(3), 7)),
            ),
            r"03.png.*the value 7 in row 2, column 3; expected 0 to 2",
        ),
        (
            lambda root: (
                (root / "classes.txt").write_text("a 0 0 0\nb 255 0 0"),
                [save(root, number, np.zeros((6, 8, 3), np.uint8)) for number in range(10)],
                save(root, 3, np.full((6, 8, 3), 9, np.uint8)),
            ),
            r"03.png.*colour \(9, 9, 9\) in row 0, column 0, which classes.txt does not list",
        ),
        (
            lambda root: (
                (root / "classes.txt").write_text("a\nb\nc"),
                save(root, 3, np.full((6, 8, 3), 9, np.uint8)),
            ),
            r"03.png.*mask has colours \(RGB\)",
        ),
        (lambda root: (root / "classes.txt").write_text("a 0 0 0\nb"), "no colour of b"),
        (lambda root: (root / "classes.txt").write_text("a\na"), "the class a 2 times"),
        (lambda root: (root / "classes.txt").write_text("a\nvoid"), "names 1 classes"),
        (lambda root: [path.unlink() for path in (root / "images").iterdir()], "images has no images"),
    ],
)
def test_wrong_masks_are_named(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_masks_saved_as_jpeg_are_told_to_be_lossy(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.tile(np.uint8([[0, 255], [255, 0]]), (8, 8))).save(file, "JPEG", quality=30)
    reader = masks_of.Masked((16, 16, 3), (16, 16), masks_of.MaskValues(("a", "b")))
    with pytest.raises(ValueError, match="JPEG changes values, save masks as PNG"):
        reader.read({"image": png(np.zeros((16, 16, 3), np.uint8)).getvalue(), "mask": file.getvalue()})


def test_masks_without_an_image_are_counted(folder, caplog):
    Image.fromarray(mask_of(0)).save(folder / "masks" / "99.png")
    load(folder)
    assert "masks without an image: 1" in caplog.text


def test_images_and_masks_are_no_two_classes(folder):
    with pytest.raises(UserError, match="has images and masks, which are no classes: `data"):
        data.load(str(folder), image_size=16)


def test_the_names_of_classes_beside_the_splits_are_not_left_out(folder, tmp_path, caplog):
    for number in range(3):
        save(tmp_path / "parts" / "train", number)
    (tmp_path / "parts" / "classes.txt").write_text("a\nb\nc")
    (tmp_path / "parts" / "notes.txt").write_text("of the same reason")
    load(tmp_path / "parts")
    assert "classes.txt" not in caplog.text
    assert "files beside the splits: 1" in caplog.text


@pytest.mark.parametrize("size", [0, (4, 4, 4), "64", (4, 0), True])
def test_a_size_is_one_or_two_integers(folder, size):
    with pytest.raises(UserError, match="`image_size` must be one or two integers"):
        load(folder, image_size=size)


def test_a_folder_needs_a_size_and_both_of_its_parts(folder, tmp_path):
    with pytest.raises(UserError, match="add `image_size`"):
        load(folder, image_size=None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no folder images"):
        load(tmp_path / "empty")


def test_the_builder_of_camvid_reads_the_archive_of_segnet(tmp_path, monkeypatch):
    """An archive like that of SegNet's tutorial, prepared by TFDS and loaded by name."""
    frames = {"train": 3, "val": 1, "test": 2}
    archive = tmp_path / "archive"
    root, written = archive / camvid.FOLDER, {}
    for split, count in frames.items():
        lines = []
        for number in range(count):
            image, mask = picture_of(len(written), 360, 480), mask_of(len(written), 360, 480) % 12
            name = f"{split}/frame{number}.png"
            for place, pixels in ((name, image), (f"{split}annot/frame{number}.png", mask)):
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / place)
            lines.append(f"/SegNet/CamVid/{name} /SegNet/CamVid/{split}annot/frame{number}.png")
            written[split, number] = image, mask
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    asked = []
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download_and_extract", lambda self, url: asked.append(url) or str(archive)
    )
    camvid.Camvid(data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()
    assert asked == [camvid.ARCHIVE]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))
    dataset = data.load_masks("camvid")
    assert dataset.class_names[0] == "sky"
    assert len(dataset.class_names) == 11
    assert [part.size for part in (dataset.train, dataset.validation, dataset.test)] == [3, 1, 2]
    found = by_image(dataset.test)
    for number in range(2):
        image, mask = written["test", number]
        np.testing.assert_array_equal(found[image.tobytes()], np.where(mask == 11, data.VOID, mask))


def test_scenes_are_the_data_without_any_download(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("cnnjax.data.segmentation.SCENES_TRAIN", 30)
    monkeypatch.setattr("cnnjax.data.segmentation.SCENES_TEST", 10)
    dataset = data.load_masks("shapes", image_size=32, validation_split=0.2)
    assert [part.size for part in (dataset.train, dataset.validation, dataset.test)] == [24, 6, 10]
    assert dataset.class_names[:2] == ("background", "circle")
    made = data.scenes.generate(40, size=32)
    np.testing.assert_array_equal(dataset.test.masks, made.masks[30:])
    np.testing.assert_array_equal(dataset.train.images, made.images[:24])
    with pytest.raises(UserError, match="shapes are square"):
        data.load_masks("shapes", image_size=(32, 48))
