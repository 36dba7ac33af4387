"""What `predict` writes of a network for segmentation: masks, overlays, and the share of each class."""

import csv
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
    rows = []
    for file, mask in predicted(trained, files, options.windows, options.skip_bad):
        (row,) = trained.task.to_json({"mask": mask[None]})
        rows.append((printable(file), row["shares"]))
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            save(options.out, file, mask, trained)
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


def save(folder: Path, file: str, mask: np.ndarray, trained: Segmenter) -> None:
    """Write an image's mask, with a palette, and the image under it."""
    from PIL import Image

    name, colours = Path(file).name.rpartition(".")[0] or Path(file).name, viz.palette(len(trained.classes))
    if (folder / f"{name}.mask.png").exists():
        name = Path(file).name  # another image has the same name but for its ending
    picture = Image.fromarray(mask)
    picture.putpalette(colours.ravel().tolist())
    picture.save(folder / f"{name}.mask.png")
    pixels = np.rint(trained.fit_pixels(file) * 255).astype(np.uint8)
    Image.fromarray(viz.overlaid(pixels, mask, colours)).save(folder / f"{name}.overlay.png")


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
