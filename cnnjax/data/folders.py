"""Folders of images, one for each class, as they lie on people's disks."""

import contextlib
import hashlib
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.decode import suffixes
from cnnjax.errors import UserError

log = logging.getLogger(__name__)

LARGEST_READ = 256 << 20  # bytes, which takes a fraction of a second
# What folders of splits are called, in letters of any case: macOS and Windows take Train and train for the same.
SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation", "valid": "validation"}
# Not read as splits, because a class may be called so; but not as classes either where there are no others.
NO_CLASSES = frozenset({"training", "testing", "evaluation", "eval", "dev"})
DEFAULT_SPLIT = 0.2  # of the images, held out where there are neither test nor validation images
# Kept by macOS's archives, Synology, Windows, and ext file systems; other hidden names begin with a point.
_HIDDEN = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


# Endings of images that Pillow does not read by itself, or reads only by starting programs.
UNREAD = (
    *(".heic", ".heif", ".hif", ".jxl", ".avif", ".webp", ".svg", ".svgz", ".eps", ".ai", ".pdf", ".psd", ".xcf"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".hdr", ".dcm", ".nii", ".tga"),
)


@dataclass(frozen=True)
class FolderSource:
    """Files of a folder tree, one folder a class."""

    files: tuple[str, ...]
    targets: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def relative(self) -> list[str]:
        """The files within their split, with their sizes: "cat/1.png 1234"."""
        root = os.path.commonpath(self.files)
        return [f"{printable(os.path.relpath(file, root))} {size_of(file)}" for file in self.files]

    def name(self, index: int) -> str:
        return printable(self.files[index])

    def read(self, index: int) -> dict[str, Any]:
        return {"image": Path(self.files[index]).read_bytes(), "label": self.targets[index]}


@dataclass
class LeftOut:
    """What is not read of a folder, by the reason."""

    paths: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Note a file or folder."""
        self.paths.setdefault(reason, []).append(path)

    def take_back(self, path: str) -> None:
        """Forget a file that is read after all."""
        for reason, paths in list(self.paths.items()):
            self.paths[reason] = [one for one in paths if one != path]
            if not self.paths[reason]:
                del self.paths[reason]

    def __str__(self) -> str:
        return "; ".join(
            f"{reason}: {len(paths)} ({printable(paths[0])}{', ...' * (len(paths) > 1)})"
            for reason, paths in sorted(self.paths.items())
        )


def printable(path: str | os.PathLike[str]) -> str:
    r"""Return a path or name as text that can be printed and stored: bytes that are not UTF-8 as "\xe9"."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def folder_splits(root: Path, validation_split: float | None = None) -> tuple[tuple[str, ...], dict[str, FolderSource]]:
    """Return the class names and the sources "train", "validation" and "test" of a tree, as far as it has them.

    The tree is `root/SPLIT/CLASS/*.jpg` with folders train, test, and val, valid or validation, in letters of any case;
    or `root/CLASS/*.jpg`, all to train on. Where there are no validation images, a part of those to train on is taken:
    the files whose hash, of class and name, is below a limit, so that files added later move none; but at least one
    file of a class, unless it has no other.

    Images also lie in folders within a class; links are followed, as torchvision's `ImageFolder` does. What is hidden,
    is no image by its name, or leads back to a folder around it is left out, and one warning counts it by the reason.
    Classes are sorted by name. Images are shuffled, always in the same order, so that any part has every class.

    Args:
        root: the folder.
        validation_split: the part; None takes 0.2 where there are no test images either, and else nothing.

    Raises:
        UserError: no images to train on, two folders for validation, no classes, an empty class, or splits of different
            classes.
    """
    left = LeftOut()
    splits = splits_of(root, left)
    shown = printable(root)
    folders = {split: sorted(_folders(path, left, "beside the classes"), key=_name) for split, path in splits.items()}
    names = [_name(folder) for folder in folders["train"]]
    if not names:
        raise UserError(f"{printable(splits['train'])} has no folders: expected one for every class, with its images")
    if set(names) == {"images", "masks"}:
        raise UserError(
            f"{printable(splits['train'])} has images and masks, which are no classes: `data.load_masks` reads them, "
            "and training takes them with `task=segmentation`"
        )
    found = {
        split: [
            (file, label)
            for label, folder in enumerate(classes)
            for file in images_in(folder, left, (_identity(str(root)), _identity(splits[split])), "class folder")
        ]
        for split, classes in folders.items()
    }
    for split, classes in folders.items():
        _check_classes(shown, os.path.basename(splits[split]), [_name(folder) for folder in classes], names)
    if left.paths:
        counts = ", ".join(f"{len(found[split])} images in {os.path.basename(splits[split])}" for split in splits)
        log.warning("%s has %s; left out are %s", shown, counts, left)
    part = validation_split or (None if "test" in found else DEFAULT_SPLIT)
    if "validation" not in found and part:
        found["train"], found["validation"] = held_out(found["train"], splits["train"], part)
        if not found["validation"] or not found["train"]:
            raise UserError(f"{shown} has {len(names)} images, one of each class: expected some more to validate on")
    sources = {split: FolderSource(*map(tuple, zip(*mixed(images), strict=True))) for split, images in found.items()}
    return tuple(map(printable, names)), sources


def splits_of(root: Path, left: LeftOut) -> dict[str, str]:
    """Return the folders of "train", "validation" and "test"; the root itself where classes lie in it."""
    shown, inside = printable(root), LeftOut()
    there = {path: os.path.basename(path).lower() for path in _folders(str(root), inside, "beside the splits")}
    splits = dict[str, str]()
    for path, name in there.items():
        if (split := SPLITS.get(name)) in splits:
            both = f"{os.path.basename(splits[split])} and {os.path.basename(path)}"
            raise UserError(f"{shown} has folders {both}, both for {split}: keep one of them")
        if split:
            splits[split] = path
    if not splits and there and set(there.values()) <= NO_CLASSES:
        both = ", ".join(map(os.path.basename, there))
        raise UserError(f"{shown} has only folders {both}, which are no classes: call them train, test or validation")
    if not splits:
        return {"train": str(root)}
    if "train" not in splits:
        raise UserError(
            f"{shown} has no folder train: expected {shown}/train/CLASS/*.jpg, and test or validation beside"
        )
    for reason, paths in inside.paths.items():
        for path in paths:
            left.add(reason, path)
    for path in there:
        if path not in splits.values():
            left.add("folders that are no split", path)
    return {split: splits[split] for split in ("train", "validation", "test") if split in splits}


def _name(folder: str) -> str:
    """Return a folder's name in composed characters: macOS may write an accented letter as two, others as one."""
    return unicodedata.normalize("NFC", os.path.basename(folder))


def _check_classes(root: str, split: str, classes: Sequence[str], names: Sequence[str]) -> None:
    """Raise a UserError if a split has not the classes of the images to train on, its `names`, once each."""
    if twice := {name for name in classes if classes.count(name) > 1}:
        raise UserError(
            f"{root}: {split} has two folders {printable(min(twice))}, whose letters are written in different Unicode "
            "characters: move the images into one of them"
        )
    lacking, more = (sorted(map(printable, odd)) for odd in (set(names) - set(classes), set(classes) - set(names)))
    said = [f"lacks {', '.join(lacking)}"] if lacking else []
    said += [f"has {', '.join(more)}, which train lacks"] if more else []
    if said:
        raise UserError(f"{root}: {split} {' and '.join(said)}; expected a folder for every class in both")


def held_out(files: Sequence[Any], root: str, part: float) -> tuple[list[Any], list[Any]]:
    """Split (file, label) pairs into those that stay and those that are held out."""
    kept, held = list[Any](), list[Any]()
    for label in dict.fromkeys(label for _, label in files):
        ordered = sorted((_position(file, root), file, label) for file, own in files if own == label)
        count = sum(position < part for position, *_ in ordered)
        count = min(max(count, 1), len(ordered) - 1)
        held += [(file, label) for _, file, label in ordered[:count]]
        kept += [(file, label) for _, file, label in ordered[count:]]
    return sorted(kept), sorted(held)


def _position(file: str, root: str) -> float:
    """A number from 0 to 1 that the file's name and class decide."""
    name = os.fsencode(unicodedata.normalize("NFC", os.path.relpath(file, root)).replace(os.sep, "/"))
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) / 2**64


def contents(root: str) -> str:
    """Return a hash of the names of all files below a folder and of what is in them.

    Of more than `LARGEST_READ` bytes, the files' sizes and times of change stand for what is in them.
    """
    files, seen = dict[str, os.stat_result](), set[tuple[int, int]]()
    for folder, folders, names in os.walk(root, followlinks=True):
        seen.add(_identity(folder))
        folders[:] = sorted(name for name in folders if _identity(os.path.join(folder, name)) not in seen)
        for file in (os.path.join(folder, name) for name in sorted(names)):
            if os.path.isfile(file):
                files[file] = os.stat(file)
    whole, digest = sum(status.st_size for status in files.values()) <= LARGEST_READ, hashlib.sha256()
    for file, status in files.items():
        digest.update(os.fsencode(os.path.relpath(file, root)) + b"\n")
        found = f"{status.st_size} {status.st_mtime_ns}".encode()
        if whole:
            with contextlib.suppress(OSError):  # named when it is decoded
                found = Path(file).read_bytes()
        digest.update(hashlib.sha256(found).digest())
    return digest.hexdigest()[:12]


def size_of(file: str) -> int | None:
    """Return the bytes of a file; None if it cannot be reached."""
    try:
        return os.stat(file).st_size
    except OSError:  # named when it is decoded
        return None


def mixed(found: Sequence[Any]) -> list[Any]:
    """Return the elements in an order that looks random, and is the same for as many."""
    return [found[index] for index in np.random.default_rng(0).permutation(len(found))]


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be read ({error.strerror})") from error


def _identity(path: str) -> tuple[int, int]:
    """What tells a folder from all others, by whatever links it is reached."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_hidden(entry: os.DirEntry[str], left: LeftOut) -> bool:
    hidden = entry.name.startswith(".") or entry.name in _HIDDEN
    if hidden:
        left.add("hidden files and folders", entry.path)
    return hidden


def _folders(folder: str, left: LeftOut, where: str) -> list[str]:
    found = []
    for entry in _scan(folder):
        if not _is_hidden(entry, left):
            if os.path.isdir(entry.path):
                found.append(entry.path)
            else:
                left.add(f"files {where}", entry.path)
    return found


def images_in(folder: str, left: LeftOut, above: tuple[Any, ...] = (), what: str = "folder") -> list[str]:
    """Return the images in a folder and in the folders in it, in the order of their paths.

    Args:
        folder: its path.
        left: takes what is left out.
        above: the identities of folders around it, to which a link may lead back.
        what: what messages call the folder.

    Raises:
        UserError: there are none.
    """
    inside = LeftOut()
    files = sorted(_walk(folder, inside, above), key=os.fsencode)
    for reason, paths in inside.paths.items():
        for path in paths:
            left.add(reason, path)
    if not files:
        there = f", only {inside}" if inside.paths else ""
        raise UserError(
            f"{what} {printable(folder)} has no images{there}: fill or remove it; images are files named "
            f"{', '.join(sorted(suffixes()))}"
        )
    return files


def _walk(folder: str, left: LeftOut, above: tuple[Any, ...]) -> Iterator[str]:
    """Yield the images in a folder and the folders in it, through links; `above` are the folders around it."""
    here = (*above, _identity(folder))
    for entry in _scan(folder):
        if _is_hidden(entry, left):
            continue
        is_image = os.path.splitext(entry.name)[1].lower() in suffixes()
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder and _identity(entry.path) in here:
            left.add("links to a folder around them", entry.path)
        elif is_folder:
            yield from _walk(entry.path, left, here)
        elif is_image and (is_file or not os.path.exists(entry.path)):
            yield entry.path  # a broken link is an image that cannot be read: an error, unless such are to be left out
        elif is_file and (end := os.path.splitext(entry.name)[1].lower()) in UNREAD:
            left.add(f"images of a kind that is not read ({end}: save them as PNG or JPEG)", entry.path)
        elif is_file:
            left.add("files that are no images by their names", entry.path)
        else:
            left.add("broken links, pipes and devices", entry.path)
