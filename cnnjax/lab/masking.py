"""What `predict` writes of a network for segmentation: masks, overlays, and the share of each class."""

import csv
import itertools
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import viz
from cnnjax.data.folders import printable
from cnnjax.errors import UserError
from cnnjax.lab.finished import show_table
from cnnjax.train.segmented import Segmenter

log = logging.getLogger(__name__)


def write_masks(trained: Segmenter, files: Sequence[str], options: Any) -> int:
    """Print the share of each class of every image, and write its mask and overlay; return the exit status.

    Args:
        trained: the network.
        files: images.
        options: those of `predict`.
    """
    rows, names = list[tuple[str, dict[str, float]]](), dict[str, str]()
    for file, mask in predicted(trained, files, options.windows, options.skip_bad):
        (row,) = trained.task.to_json({"mask": mask[None]})
        rows.append((printable(file), row["shares"]))
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            save(options.out / name_of(file, names), file, mask, trained)
    if not rows:
        raise UserError(f"none of the {len(files)} files is an image that can be read")
    write(rows, options.format, options.top, trained.classes)
    if options.out:
        print(f"{options.out} has a mask and an overlay for each of {len(rows)} images", file=sys.stderr)
    return 0


def predicted(
    trained: Segmenter, files: Sequence[str], windows: bool, skip_bad: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every image's mask.

    Raises:
        UserError: a file is no image, and such are not to be left out.
    """
    for file in files:
        try:
            (mask,) = trained.predict(file, windows=windows)
        except UserError as error:
            if not skip_bad:
                raise UserError(f"{error}: repair it, or leave it out with `skip_bad`") from error
            log.warning("skipped: %s", error)
            continue
        yield file, mask


def name_of(file: str, taken: dict[str, str]) -> str:
    """Return what an image's results are called, and add it to the names that are taken, by file.

    It is the image's name without its ending, or with it, or with its folders, where other images have these names.
    """
    path = Path(file)
    whole = "-".join(part for part in path.parts if part not in (path.anchor, ".."))
    numbered = (f"{whole}-{number}" for number in itertools.count(2))
    names = itertools.chain((path.stem, path.name, whole), numbered)
    name = next(name for name in names if taken.get(name, file) == file)
    taken[name] = file
    return name


def save(place: Path, file: str, mask: np.ndarray, trained: Segmenter) -> None:
    """Write an image's mask, with a palette, and the image under it, as PLACE.mask.png and PLACE.overlay.png."""
    from PIL import Image

    colours = viz.palette(len(trained.classes))
    picture = Image.fromarray(mask)
    picture.putpalette(colours.ravel().tolist())
    picture.save(f"{place}.mask.png")
    pixels = np.rint(trained.fit_pixels(file) * 255).astype(np.uint8)
    Image.fromarray(viz.overlaid(pixels, mask, colours)).save(f"{place}.overlay.png")


def write(rows: Sequence[tuple[str, dict[str, float]]], kind: str, top: int, classes: Sequence[str]) -> None:
    """Print the shares of the classes in one of the formats."""
    if kind == "jsonl":
        for file, shares in rows:
            print(json.dumps({"file": file, "shares": shares}))
    elif kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", *classes])
        writer.writerows([file, *(shares.get(name, 0.0) for name in classes)] for file, shares in rows)
    else:
        said = [", ".join(f"{name} {share:.1%}" for name, share in list(shares.items())[:top]) for _, shares in rows]
        show_table(("file", "classes"), [(file, text) for (file, _), text in zip(rows, said, strict=True)], 2)
