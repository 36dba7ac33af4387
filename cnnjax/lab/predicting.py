"""Classify images or their pixels, or locate objects, with a run's network, published weights, or a file of weights.

    python launch.py predict results/runs/RUN photo.jpg
    python launch.py predict results/runs/RUN photos/ "more/*.png" --top 5 --format csv > predictions.csv
    python launch.py predict results/runs/RUN photos/ --out sheet    # also a picture of the images with their classes
    python launch.py predict resnet18 photo.jpg                      # ImageNet's classes; needs huggingface_hub
    python launch.py predict weights.pth photo.jpg --model resnet50 --classes names.txt
    python launch.py predict results/runs/RUN street.jpg --out masks # of a run of segmentation: masks and overlays
    python launch.py predict results/runs/RUN cats/ --format jsonl   # of a run of localization: classes and boxes

An image may have any size: it is scaled until it covers the size that the network was trained on, and cropped to its
middle, as the images of `evaluate` are. Of a run that is not finished the best network so far predicts.

For segmentation an image is scaled until it fits into that size, with black around it. The table says which share of an
image each class has. With --out the folder gets NAME.mask.png, whose pixels are the numbers of the classes in colours
of a palette, and NAME.overlay.png, for each image. Of images of the same name, NAME of all but the first has the ending
or the folders, too.

For localization, where an image is scaled likewise, the class, its probability and the box of each image are told, x0,
y0, x1, y1 in pixels of the image; with --out they are drawn over the images.
"""

import csv
import glob
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro

from cnnjax import train, viz
from cnnjax.data.folders import LeftOut, images_in, printable
from cnnjax.errors import UserError
from cnnjax.lab.evaluating import changed
from cnnjax.lab.finished import show_table, trained_of
from cnnjax.lab.imported import Origin
from cnnjax.lab.locating import SHEET, SHOWN, write_boxes
from cnnjax.lab.masking import write_masks
from cnnjax.lab.options import parse
from cnnjax.options import Checked, Count
from cnnjax.train.located import Locator
from cnnjax.train.segmented import Segmenter

log = logging.getLogger(__name__)

AT_ONCE = 64  # images in memory


@dataclass(frozen=True)
class Predict(Checked):
    """What is classified, and how it is said."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|NAME|FILE")] = ""
    """Directory of a run of train, its weights.safetensors, or its name in results/runs; or the name of a network, for
    its published weights; or a file of weights, with the options of "origin"."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")] = ()
    """Image files; folders, with all images in them and in their folders; or patterns such as "photos/*.jpg"."""
    top: Count = 3
    """How many classes are named of each image, the most probable ones; for localization it is one."""
    format: Literal["table", "jsonl", "csv"] = "table"
    """A table to read, or a line of JSON or CSV for each image."""
    flip: bool = False
    """Predict the mean of the probabilities of each image and of its mirror image."""
    out: Path | None = None
    """Folder for a picture of the images with their classes, and masks or boxes."""
    skip_bad: bool = False
    """Leave out files that are no images; each is named."""
    scales: tuple[float, ...] = (1.0,)
    """Of segmentation: predict the mean of the probabilities of each image at these scales."""
    windows: bool = False
    """Of segmentation: look at each image in its own size, through windows that overlap by a half."""


class Row(NamedTuple):
    """An image with its most probable classes and their probabilities."""

    file: str
    classes: tuple[tuple[str, float], ...]


def main(arguments: Sequence[str]) -> int:
    """Predict, and print the classes."""
    options, origin = parse("predict", __doc__, arguments, Predict, Origin)
    trained = trained_of("predict", options.run, origin)
    trained = changed(trained, options.flip, options.scales)
    files = find_images(options.images)
    if isinstance(trained, Segmenter):
        return write_masks(trained, files, options)
    if options.windows:
        raise UserError(f"`windows` are for segmentation: this network has learned {trained.about['task']}")
    if isinstance(trained, Locator):
        return write_boxes(trained, files, options)
    rows, shown = list[Row](), list[np.ndarray]()
    for row, image in predicted(trained, files, options.top, options.skip_bad):
        rows.append(row)
        if options.out and len(shown) < SHOWN:
            shown.append(image)
    if not rows:
        raise UserError(f"none of the {len(files)} files is an image that can be read")
    write(rows, options.format)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        titles = [f"{Path(row.file).name[-22:]}\n{row.classes[0][0]} ({row.classes[0][1]:.0%})" for row in rows]
        viz.save(viz.image_grid(np.stack(shown), titles[: len(shown)], min(6, len(shown))), options.out / SHEET)
        print(f"{options.out / SHEET} shows {len(shown)} of {len(rows)} images", file=sys.stderr)
    return 0


def find_images(words: Sequence[str]) -> list[str]:
    """Return the files that the words name: files, all images in folders, and what patterns match.

    Raises:
        UserError: a word names no file, or a folder has no image.
    """
    if not words:
        raise UserError("predict takes images after the run: files, folders, or patterns such as 'photos/*.jpg'")
    return [file for word in words for file in _named(word)]


def _named(word: str) -> list[str]:
    if os.path.isdir(word):
        found = images_in(word, left := LeftOut())
        if left.paths:
            log.warning("%s has %d images; left out are %s", printable(word), len(found), left)
        return found
    if os.path.exists(word):
        return [word]
    found = sorted(path for path in glob.glob(word, recursive=True) if os.path.isfile(path))
    if not found:
        raise UserError(f"there is no image {printable(word)}: expected a file, a folder, or a pattern that matches")
    return found


def predicted(
    trained: train.Trained, files: Sequence[str], top: int, skip_bad: bool
) -> Iterator[tuple[Row, np.ndarray]]:
    """Yield every image's row, and the image as the network takes it.

    Raises:
        UserError: a file is no image, and such are not to be left out.
    """
    for first in range(0, len(files), AT_ONCE):
        images: dict[str, np.ndarray] = {}
        for file in files[first : first + AT_ONCE]:
            try:
                images[file] = trained.fit_image(file)
            except UserError as error:
                if not skip_bad:
                    raise UserError(f"{error}: repair it, or leave it out with `skip_bad`") from error
                log.warning("skipped: %s", error)
        found = trained.probabilities(np.stack([*images.values()])) if images else ()
        for (file, image), scores in zip(images.items(), found, strict=True):
            best = np.argsort(-scores, kind="stable")[:top]
            yield Row(printable(file), tuple((trained.classes[k], float(scores[k])) for k in best)), image


def write(rows: Sequence[Row], kind: str) -> None:
    """Print rows in one of the formats."""
    count = len(rows[0].classes)
    if kind == "jsonl":
        for row in rows:
            print(json.dumps({"file": row.file, "class": row.classes[0][0], "probabilities": dict(row.classes)}))
        return
    if kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        names = [("class", "probability"), *((f"class_{n}", f"probability_{n}") for n in range(2, count + 1))]
        writer.writerow(["file", *(name for pair in names for name in pair)])
        for row in rows:
            writer.writerow([row.file, *(cell for pair in row.classes for cell in pair)])
        return
    head = ["file", "class", "probability", *(["next"] if count > 1 else [])]
    show_table(
        head,
        [
            [row.file, row.classes[0][0], f"{row.classes[0][1]:.1%}"]
            + ([", ".join(f"{name} {score:.1%}" for name, score in row.classes[1:])] if count > 1 else [])
            for row in rows
        ],
        2,
    )
