"""What lies in people's folders of images is read, or named with the reason why not."""

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
    assert message == f" has 4 images in test, 4 images in train; left out are hidden files and folders: 1 ({named})"


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
        "files that are no images by their names: 4 (/train/cat/labels.csv, ...)",
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
    (renamed / "test").rename(renamed / "later")
    with pytest.raises(UserError, match=r"caf\\xe9 has no folder of test images"):
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
