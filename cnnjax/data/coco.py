"""COCO's JSON: boxes, classes and outlines of the objects in a folder of images."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnnjax.data.decode import upright_size
from cnnjax.data.folders import DEFAULT_SPLIT, LeftOut, held_out, images_in, mixed, printable, size_of, splits_of
from cnnjax.data.objects import Objects, Size, check_corners
from cnnjax.data.outlines import drawn
from cnnjax.data.stream import Record
from cnnjax.errors import UserError

BoxFormat = Literal["xywh", "xyxy"]


@dataclass(frozen=True)
class ObjectFiles:
    """Files of images, the objects in each, and their outlines as COCO has them."""

    files: tuple[str, ...]
    objects: tuple[Objects, ...]
    outlines: tuple[tuple[Any, ...], ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def relative(self) -> list[str]:
        """The files within their folder, with their sizes and objects."""
        root = os.path.commonpath(self.files)
        found = zip(self.files, self.objects, self.outlines, strict=True)
        return [
            f"{printable(os.path.relpath(file, root))} {size_of(file)} {_digest(here, outlines)}"
            for file, here, outlines in found
        ]

    def name(self, index: int) -> str:
        return printable(self.files[index])

    def objects_of(self, index: int) -> Objects:
        """Return the objects of an image."""
        return self.objects[index]

    def read(self, index: int) -> Record:
        objects = self.objects[index]
        return {
            "image": Path(self.files[index]).read_bytes(),
            "objects": objects,
            "instances": partial(drawn, self.outlines[index], objects.size, objects.numbers.tolist()),
        }


def _digest(objects: Objects, outlines: tuple[Any, ...]) -> str:
    known = objects.boxes.tolist(), objects.labels.tolist(), objects.crowds.tolist(), outlines
    return hashlib.sha256(repr(known).encode()).hexdigest()[:12]


def coco_folder(
    root: Path, annotations: str, box_format: BoxFormat = "xywh", validation_split: float | None = None
) -> tuple[tuple[str, ...], dict[str, ObjectFiles], LeftOut]:
    """Return the class names, the sources "train", "validation" and "test" of a folder, and what of it is left out.

    The file `annotations` lies in the folder, or in each of its folders train, test, and val, valid or validation, or
    elsewhere. Images lie beside it, or in a folder `images` there. Where there are no validation images, a part of
    those to train on is taken as `folder_splits` does.

    Raises:
        UserError: there is no such file, it is no JSON of COCO's form, it names an image that is missing or a category
            without a name, or most boxes have another format.
    """
    left = LeftOut()
    read = {split: _read(file, folder, box_format, left) for split, (file, folder) in _found(root, annotations).items()}
    names = read["train"][0]
    for split, (own, _) in read.items():
        if own != names:
            raise UserError(
                f"{printable(root)}: the categories of {split} are {own}, those of train {names}: expected the same"
            )
    found = {split: images for split, (_, images) in read.items()}
    part = validation_split or (None if "test" in found else DEFAULT_SPLIT)
    if "validation" not in found and part:
        by_file = {image[0]: image for image in found["train"]}
        kept, held = held_out([(file, 0) for file in by_file], str(root), part)
        if not kept or not held:
            raise UserError(f"{printable(root)} has one image: expected some more to validate on")
        found |= {"train": [by_file[file] for file, _ in kept], "validation": [by_file[file] for file, _ in held]}
    sources = {split: ObjectFiles(*map(tuple, zip(*mixed(images), strict=True))) for split, images in found.items()}
    return tuple(names[number] for number in sorted(names)), sources, left


def _found(root: Path, annotations: str) -> dict[str, tuple[Path, Path]]:
    """The file of annotations and the folder of images of every split."""
    for file in (root / annotations, Path(annotations)):
        if file.is_file():
            return {"train": (file, root)}
    splits = {split: Path(folder) for split, folder in splits_of(root, LeftOut()).items()}
    if splits == {"train": root}:
        raise UserError(
            f"{printable(root)} has no file {annotations}: give the name of COCO's JSON as `annotations`; it lies in "
            "the folder, in each of train, val and test there, or elsewhere, with its path"
        )
    for folder in splits.values():
        if not (folder / annotations).is_file():
            raise UserError(
                f"{printable(folder)} has no file {annotations}: expected one in each of {', '.join(splits)}"
            )
    return {split: (folder / annotations, folder) for split, folder in splits.items()}


def _read(file: Path, folder: Path, box_format: BoxFormat, left: LeftOut) -> tuple[dict[int, str], list[Any]]:
    """Names of the categories by id, and (path, objects, outlines) of every image."""
    shown, content = printable(file), _parsed(file)
    names = _categories(shown, content["categories"])
    images = _images(shown, folder, content["images"])
    own: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in images}
    for note in content["annotations"]:
        where = f"{shown}: annotation {note.get('id')}"
        if note.get("image_id") not in own:
            raise UserError(f"{where} is of image {note.get('image_id')}, which its `images` does not list")
        path = printable(images[note["image_id"]][0])
        if note.get("category_id") not in names:
            raise UserError(
                f"{where}, of {path}, has the category {note.get('category_id')}, which has no name: `categories` has "
                f"{', '.join(map(str, names))}"
            )
        if not _is_box(note.get("bbox")):
            raise UserError(f"{where}, of {path}, has the bbox {note.get('bbox')!r}: expected four numbers")
        own[note["image_id"]].append(note)
    labels = {number: label for label, number in enumerate(sorted(names))}
    result = []
    for number, (path, size) in images.items():
        notes = own[number]
        boxes = np.array([note["bbox"] for note in notes], np.float64).reshape(-1, 4)
        classes, crowds = [labels[note["category_id"]] for note in notes], [note.get("iscrowd", 0) for note in notes]
        ids = [note["id"] if isinstance(note.get("id"), int) else place for place, note in enumerate(notes)]
        result.append(
            (path, Objects.of(boxes, classes, size, crowds, ids), tuple(n.get("segmentation") for n in notes))
        )
    _check_format(shown, [objects for _, objects, _ in result], box_format)
    if box_format == "xywh":
        for _, objects, _ in result:
            objects.boxes[:, 2:] += objects.boxes[:, :2]
    listed = {path for path, *_ in result}
    for path in images_in(str(folder), left):
        if path not in listed:
            left.add("images that the annotations do not list", path)
    return names, result


def _parsed(file: Path) -> Mapping[str, Any]:
    shown = printable(file)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{shown} is no JSON that can be read ({error})") from None
    lists = ("images", "annotations", "categories")
    lacking = [name for name in lists if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if lacking or not content["images"] or not all(isinstance(one, dict) for name in lists for one in content[name]):
        raise UserError(f"{shown} lacks {' and '.join(lacking) or 'images'}: expected COCO's lists {', '.join(lists)}")
    return content


def _categories(shown: str, entries: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    for entry in entries:
        if not isinstance(entry.get("id"), int) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
            raise UserError(
                f"{shown}: the category with id {entry.get('id')} has no name: expected id and name, got {entry}"
            )
    for what in ("id", "name"):
        value, count = Counter(entry[what] for entry in entries).most_common(1)[0] if entries else ("", 1)
        if count > 1:
            raise UserError(f"{shown} has {count} categories of the {what} {value}: expected another one for each")
    if not entries:
        raise UserError(f"{shown} has no categories: expected at least one, with id and name")
    return {entry["id"]: entry["name"] for entry in entries}


def _images(shown: str, folder: Path, entries: Sequence[Mapping[str, Any]]) -> dict[Any, tuple[str, Size]]:
    """Path and (height, width) of every image by its id."""
    images, missing = dict[Any, tuple[str, Size]](), []
    for entry in entries:
        number, name = entry.get("id"), entry.get("file_name")
        if not isinstance(number, int | str) or not isinstance(name, str):
            raise UserError(f"{shown} has an image without id or file_name: {entry}")
        if number in images:
            raise UserError(f"{shown} has two images of the id {number}: {name} is the second")
        path = next((str(at) for at in (folder / name, folder / "images" / name) if at.is_file()), None)
        if path is None:
            missing.append((name, number))
            continue
        size = entry.get("height"), entry.get("width")
        try:
            known = all(isinstance(side, int) and side > 0 for side in size)
            images[number] = path, size if known else upright_size(Path(path).read_bytes())  # type: ignore[assignment]
        except OSError as error:
            raise UserError(f"{printable(path)} is no image that can be read ({error})") from None
    if missing:
        more = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise UserError(
            f"{shown} names the image {missing[0][0]} (id {missing[0][1]}), which is not in {printable(folder)}{more}: "
            "add it, or remove its entry"
        )
    path, count = Counter(path for path, _ in images.values()).most_common(1)[0]
    if count > 1:
        raise UserError(f"{shown} lists the image {printable(path)} {count} times: expected once")
    return images


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)


def _check_format(shown: str, every: Sequence[Objects], box_format: BoxFormat) -> None:
    """Raise a UserError if most boxes, as they are in the file, make sense in the other format alone."""
    boxes = np.concatenate([objects.boxes for objects in every])
    sizes = np.repeat([objects.size[::-1] for objects in every], [len(objects.labels) for objects in every], axis=0)
    if box_format == "xyxy":
        check_corners(boxes, f"{shown}, read with `box_format='xyxy'`")
        return
    low, last = boxes[:, :2], boxes[:, 2:]
    corners = (low + last > sizes + 1).any(1) & (last > low).all(1) & (last <= sizes + 1).all(1)
    if 2 * corners.sum() > len(boxes):
        raise UserError(
            f"{shown}: {corners.sum()} of {len(boxes)} boxes, read as x, y, width, height, reach out of their images. "
            "They look like x_min, y_min, x_max, y_max: give `box_format='xyxy'`"
        )
