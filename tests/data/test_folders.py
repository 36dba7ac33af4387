"""What lies in people's folders of images is read, or named with the reason why not."""

import hashlib
import json
import logging
import os

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import folders
from cnnjax.data.cache import cache_dir
from cnnjax.data.decode import formats, suffixes
from cnnjax.data.folders import folder_splits, printable
from cnnjax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))


def save(path, value=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for number in range(2):
                save(tmp_path / "tree" / split / name / f"{number}.png", 50 * number + 100 * label)
    return tmp_path / "tree"


def counted(tree, caplog, **options):
    """The numbers of training images in memory and in a stream, and the one message about them, without its folder."""
    sizes = set()
    for stream in ("always", "never"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="cnnjax.data.folders"):
            loaded = data.load(str(tree), image_size=4, stream=stream, **options)
        indices, weights = data.epoch_order(0, 0, loaded.train.size, 1)
        sizes.add(len(list(loaded.train.batches(indices, weights))))
    (size,) = sizes
    messages = [record.getMessage() for record in caplog.records if record.name == "cnnjax.data.folders"]
    assert len(messages) <= 1
    return size, messages[0].replace(f"{tree}", "") if messages else ""


def test_without_anything_odd_nothing_is_said(tree, caplog):
    assert counted(tree, caplog) == (4, "")


@pytest.mark.parametrize(
    "path",
    [".ipynb_checkpoints/0-checkpoint.png", ".hidden.png", "._0.png", "__MACOSX/0.png", "@eaDir/0.png/SMALL.png",
     "inner/.thumbnails/0.png"],
)  # fmt: skip
def test_what_is_hidden_is_left_out_and_named(tree, caplog, path):
    save(tree / "train" / "cat" / path)
    size, message = counted(tree, caplog)
    assert size == 4
    first = next(part for part in path.split("/") if part != "inner")
    named = f"/train/cat/{'inner/' * path.startswith('inner')}{first}"
    assert message == f" has 4 images in train, 4 images in test; left out are hidden files and folders: 1 ({named})"


def test_hidden_classes_and_splits_are_none(tree, caplog):
    save(tree / "train" / ".ipynb_checkpoints" / "x.png")
    save(tree / ".git" / "cat" / "x.png")
    (tree / "train" / ".DS_Store").write_bytes(b"")
    size, message = counted(tree, caplog)
    assert size == 4
    assert message.endswith("left out are hidden files and folders: 3 (/.git, ...)")


def test_files_beside_images_are_counted_by_the_reason(tree, caplog):
    for name in ("notes.txt", "labels.csv", "x.heic", "noending"):
        (tree / "train" / "cat" / name).write_text("text")
    (tree / "train" / "cat" / "archive.zip").symlink_to(tree / "nowhere")
    save(tree / "train" / "beside.png")
    save(tree / "beside.png")
    save(tree / "other" / "cat" / "x.png")
    os.mkfifo(tree / "train" / "cat" / "pipe.png")
    size, message = counted(tree, caplog)
    assert size == 4
    assert set(message.partition("left out are ")[2].split("; ")) == {
        "images of a kind that is not read (.heic: save them as PNG or JPEG): 1 (/train/cat/x.heic)",
        "files that are no images by their names: 3 (/train/cat/labels.csv, ...)",
        "files beside the classes: 1 (/train/beside.png)",
        "files beside the splits: 1 (/beside.png)",
        "folders that are no split: 1 (/other)",
        "broken links, pipes and devices: 2 (/train/cat/archive.zip, ...)",
    }


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".Jpeg", ".jpe", ".png", ".PNG", ".pgm", ".ppm", ".pbm", ".tif",
                                    ".TIFF", ".webp", ".bmp", ".gif", ".jp2", ".avif", ".mpo"])  # fmt: skip
def test_every_ending_of_a_format_that_pillow_reads_is_an_image(tree, caplog, suffix):
    name = Image.registered_extensions()[suffix.lower()]
    if name not in (*formats(), "MPO"):
        pytest.skip(f"this Pillow reads no {name}")
    image = Image.new({".pbm": "1", ".pgm": "L"}.get(suffix.lower(), "RGB"), (4, 4))
    image.save(tree / "train" / "cat" / f"a{suffix}", format=name)
    assert counted(tree, caplog) == (5, "")


def test_no_format_is_read_for_which_pillow_starts_a_program():
    assert not {".eps", ".ps", ".pdf", ".wmf", ".txt", ""} & suffixes()


@pytest.mark.parametrize("name", ["more", "more.jpg", "a/b/c"])
def test_folders_within_a_class_are_read_whatever_they_are_called(tree, caplog, name):
    save(tree / "train" / "cat" / name / "x.png")
    assert counted(tree, caplog) == (5, "")


def test_links_are_followed(tree, tmp_path, caplog):
    save(tmp_path / "elsewhere" / "x.png")
    save(tmp_path / "elsewhere" / "deep" / "y.png")
    (tree / "train" / "cat" / "folder").symlink_to(tmp_path / "elsewhere")
    (tree / "train" / "cat" / "file.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    assert counted(tree, caplog) == (7, "")
    (tree / "train").rename(tmp_path / "moved")
    (tree / "train").symlink_to(tmp_path / "moved")
    assert counted(tree, caplog) == (7, "")


@pytest.mark.parametrize("target", [".", "..", "../..", "inner"])
def test_a_link_to_a_folder_around_it_is_named_and_not_followed(tree, caplog, target):
    save(tree / "train" / "cat" / "inner" / "x.png")
    at = tree / "train" / "cat" / ("inner" if target == "inner" else "") / "loop"
    at.symlink_to(tree / "train" / "cat" / target)
    size, message = counted(tree, caplog)
    assert size == 5
    assert message.endswith(f"links to a folder around them: 1 ({str(at).removeprefix(str(tree))})")
    (tree / "train" / "cat" / "self").symlink_to(tree / "train" / "cat" / "self")
    assert "broken links, pipes and devices: 1 (/train/cat/self)" in counted(tree, caplog)[1]


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "broken link"])
def test_an_image_that_cannot_be_read_is_named(tree, caplog, kind):
    path = tree / "train" / "cat" / "bad.jpg"
    save(path)
    whole = path.read_bytes()
    path.unlink()
    if kind == "broken link":
        path.symlink_to(tree / "nowhere")
    else:
        path.write_bytes({"empty": b"", "truncated": whole[:-20], "text": b"no image"}[kind])
    with pytest.raises(UserError, match=r"cat/bad\.jpg is no image that can be read \(.+`skip_bad=True`"):
        data.load(str(tree), image_size=4)
    with caplog.at_level(logging.WARNING):
        assert data.load(str(tree), image_size=4, skip_bad=True).train.size == 4
    assert "bad.jpg" in caplog.text


def test_a_class_of_which_everything_is_left_out_is_named_with_the_reason(tree):
    for number in range(2):
        (tree / "train" / "cat" / f"{number}.png").rename(tree / "train" / "cat" / f".{number}.png")
    with pytest.raises(
        UserError, match=r"train/cat has no images, only hidden files and folders: 2 .*: fill or remove"
    ):
        data.load(str(tree), image_size=4)


def test_names_that_are_not_utf8_are_read_and_shown(tree, caplog, capsys):
    name = os.fsdecode("caf\xe9".encode("latin-1"))
    for split in ("train", "test"):
        save(tree / split / name / f"{name}.png")
    (tree / "train" / name / f"{name}.txt").write_text("text")
    loaded = data.load(str(tree), image_size=4)
    assert loaded.class_names == (r"caf\xe9", "cat", "dog")
    assert loaded.train.size == 5
    print(loaded, loaded.class_names, caplog.text)
    assert json.loads(json.dumps(loaded.class_names, ensure_ascii=False).encode()) == list(loaded.class_names)
    assert counted(tree, caplog)[1].endswith(r"(/train/caf\xe9/caf\xe9.txt)")
    assert list(cache_dir().glob("splits/folder-*"))
    bad = tree / "train" / name / f"{name}.jpg"
    bad.write_bytes(b"")
    with pytest.raises(UserError, match=r"caf\\xe9\.jpg is no image") as error:
        data.load(str(tree), image_size=4)
    assert str(error.value).encode()
    renamed = tree.with_name(name)
    tree.rename(renamed)
    bad = renamed / "train" / name / f"{name}.jpg"
    bad.unlink()
    assert data.load(str(renamed), image_size=4).name == printable(renamed)
    (renamed / "train").rename(renamed / "later")
    with pytest.raises(UserError, match=r"caf\\xe9 has no folder train"):
        data.load(str(renamed), image_size=4)


def test_files_and_classes_are_in_the_order_of_torchvision(tree):
    for name in ("Zebra", "ant", "10", "9"):
        for split in ("train", "test"):
            save(tree / split / name / "x.png")
    names, splits = folder_splits(tree)
    assert names == ("10", "9", "Zebra", "ant", "cat", "dog")  # sorted(os.listdir)
    assert all(
        f"/{names[label]}/" in file for file, label in zip(splits["train"].files, splits["train"].targets, strict=True)
    )


def test_what_is_in_a_folder_tells_it_from_another_one_of_its_name(tree, monkeypatch):
    known = {source(tree)}
    (tree / "train" / "cat").rename(tree / "aside")
    (tree / "train" / "dog").rename(tree / "train" / "cat")
    (tree / "aside").rename(tree / "train" / "dog")
    known.add(source(tree))
    save(tree / "train" / "dog" / "2.png")
    known.add(source(tree))
    (tree / "again").symlink_to(tree)
    os.mkfifo(tree / "pipe")  # reading it would wait for ever
    assert source(tree) in known
    monkeypatch.setattr(folders, "LARGEST_READ", 0)
    known |= {source(tree), source(tree)}
    save(tree / "train" / "dog" / "2.png", 99)
    assert source(tree) not in known
    assert len(known) == 4
    assert data.Source("digits").identity() == {}


def source(tree):
    return data.Source(str(tree)).identity()["data_version"]


def said_which(caplog):
    return [record.getMessage().partition(": ")[2] for record in caplog.records if record.name == "cnnjax.data.sources"]


@pytest.mark.parametrize("stream", ["always", "never"])
@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_beside_those_of_the_test_are_for_validation(tree, caplog, name, stream):
    for label, kind in enumerate(("cat", "dog")):
        save(tree / name / kind / "0.png", 7 + label)
    loaded = data.load(str(tree), image_size=4, stream=stream, validation_split=0.4)
    sizes = [part.size for part in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [4, 2, 4]
    assert set(loaded.validation.first(2).images.ravel()) == {7, 8}
    assert set(loaded.test.first(4).images.ravel()) == {0, 50, 100, 150}
    assert said_which(caplog) == ["4 images to train on, 2 to validate on, 4 to test on"]


def test_without_test_images_those_of_the_validation_take_their_place(tree, caplog):
    (tree / "test").rename(tree / "val")
    for _ in range(2):  # and from the cache
        loaded = data.load(str(tree), image_size=4)
        assert loaded.test is loaded.validation
        assert (loaded.train.size, loaded.test.size) == (4, 4)
    (said,) = set(said_which(caplog))
    assert said == "4 images to train on, 4 to validate on, which are also those of the test: it has no others"


def many(folder, counts, first=0):
    for name, count in counts.items():
        for number in range(first, first + count):
            save(folder / name / f"{number}.png", number % 256)


def parts_of(folder, **options):
    """The files of the training and of the validation part."""
    loaded = data.load(str(folder), image_size=4, stream="always", **options)
    parts = [
        {os.path.relpath(file, folder) for file in part.source.files} for part in (loaded.train, loaded.validation)
    ]
    assert not parts[0] & parts[1]
    return parts


@pytest.mark.parametrize("inside", [".", "train"])
def test_a_part_of_every_class_is_held_out_by_name_and_stays_when_files_are_added(tmp_path, inside):
    many(tmp_path / "tree" / inside, {"cat": 100, "dog": 50, "two": 2})
    train, validation = parts_of(tmp_path / "tree")
    assert len(train | validation) == 152
    for name, fewest, most in (("cat", 10, 30), ("dog", 4, 16), ("two", 1, 1)):  # 0.2 of them, give or take 2.5 sigma
        assert fewest <= sum(f"{name}/" in file for file in validation) <= most
    many(tmp_path / "tree" / inside, {"cat": 40, "dog": 3}, first=1000)
    later = parts_of(tmp_path / "tree")
    assert train <= later[0]
    assert validation <= later[1]
    half = parts_of(tmp_path / "tree", validation_split=0.5)
    assert later[1] < half[1]
    assert abs(len(half[1]) - 97) < 20


def test_the_part_is_that_of_the_hash_of_class_and_name(tmp_path):
    many(tmp_path / "tree", {"cat": 30, "dog": 30})
    expected = {
        f"{kind}/{number}.png"
        for kind in ("cat", "dog")
        for number in range(30)
        if int(hashlib.sha256(f"{kind}/{number}.png".encode()).hexdigest()[:16], 16) < 0.2 * 2**64
    }
    assert parts_of(tmp_path / "tree")[1] == expected


def test_a_part_in_memory_is_that_of_a_stream(tmp_path):
    many(tmp_path / "tree", {"cat": 9, "dog": 9})
    stream, memory = (data.load(str(tmp_path / "tree"), image_size=4, stream=how) for how in ("always", "never"))
    for ours, theirs in ((stream.train, memory.train), (stream.validation, memory.validation)):
        np.testing.assert_array_equal(ours.first(99).images, theirs.images)


def test_one_image_of_each_class_is_too_few(tmp_path):
    many(tmp_path / "tree", {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match="has 2 images, one of each class: expected some more to validate on"):
        data.load(str(tmp_path / "tree"), image_size=4)


def test_two_folders_for_validation_are_refused(tree):
    for name in ("val", "valid"):
        save(tree / name / "cat" / "0.png")
    with pytest.raises(UserError, match="has folders val and valid, both for validation: keep one of them"):
        data.load(str(tree), image_size=4)


def test_a_name_is_the_same_in_composed_and_decomposed_characters(tree):
    """macOS's archives write "é" as two characters, others as one."""
    (tree / "train" / "cat").rename(tree / "train" / "\u00e9t\u00e9")
    (tree / "test" / "cat").rename(tree / "test" / "e\u0301te\u0301")
    loaded = data.load(str(tree), image_size=4, stream="never")
    assert loaded.class_names == ("dog", "\u00e9t\u00e9")  # as the composed characters are sorted, in both splits
    for part in (loaded.train, loaded.test):
        assert dict(zip(part.labels.tolist(), part.images[:, 0, 0, 0].tolist(), strict=True)) in (
            {0: first, 1: second} for first in (100, 150) for second in (0, 50)
        )
    save(tree / "train" / "e\u0301te\u0301" / "0.png")
    with pytest.raises(UserError, match="train has two folders \u00e9t\u00e9, whose letters are written in different"):
        data.load(str(tree), image_size=4)


def test_the_part_held_out_is_the_same_in_composed_and_decomposed_characters(tmp_path):
    for folder, accent in (("one", "\u00e9"), ("two", "e\u0301")):
        for number in range(20):
            save(tmp_path / folder / f"caf{accent}" / f"{accent}{number}.png", number)
            save(tmp_path / folder / "tea" / f"{number}.png", number)
    first, second = (data.load(str(tmp_path / folder), image_size=4, stream="never") for folder in ("one", "two"))
    for ours, theirs in ((first.train, second.train), (first.validation, second.validation)):
        assert sorted(ours.images[:, 0, 0, 0]) == sorted(theirs.images[:, 0, 0, 0])


def test_splits_are_called_so_in_letters_of_any_case(tree):
    (tree / "train").rename(tree / "Train")
    (tree / "test").rename(tree / "TEST")
    loaded = data.load(str(tree), image_size=4)
    assert (loaded.class_names, loaded.train.size, loaded.test.size) == (("cat", "dog"), 4, 4)
    save(tree / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match="has folders Train and train, both for train: keep one of them"):
        data.load(str(tree), image_size=4)


def test_folders_for_training_and_testing_are_no_classes(tree):
    (tree / "train").rename(tree / "Training")
    (tree / "test").rename(tree / "Testing")
    with pytest.raises(UserError, match="has only folders Testing, Training, which are no classes: call them tra"):
        data.load(str(tree), image_size=4)


def test_images_of_kinds_that_are_not_read_are_named(tree, caplog):
    (tree / "train" / "cat" / "phone.HEIC").write_bytes(b"")
    size, message = counted(tree, caplog)
    assert size == 4
    assert message.endswith(
        "images of a kind that is not read (.heic: save them as PNG or JPEG): 1 (/train/cat/phone.HEIC)"
    )
