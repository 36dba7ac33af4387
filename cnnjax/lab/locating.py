"""What `predict` writes of a network for localization: the class and the box of each image, and a picture of them."""

import csv
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax import viz
from cnnjax.data.folders import printable
from cnnjax.errors import UserError
from cnnjax.lab.finished import show_table
from cnnjax.train.located import Locator

log = logging.getLogger(__name__)

SHEET = "predictions.png"
SHOWN = 48  # images of a contact sheet
SIDE = 480  # pixels of the longer side of an image there, at most
CORNERS = ("x0", "y0", "x1", "y1")


def write_boxes(trained: Locator, files: Sequence[str], options: Any) -> int:
    """Print the class and the box of every image, draw the first ones, and return the exit status.

    Args:
        trained: the network.
        files: images.
        options: those of `predict`.
    """
    rows, shown = list[dict[str, Any]](), list[tuple[np.ndarray, np.ndarray]]()
    for file in files:
        try:
            found = trained.predict(file)
        except UserError as error:
            if not options.skip_bad:
                raise UserError(f"{error}: repair it, or leave it out with `skip_bad`") from error
            log.warning("skipped: %s", error)
            continue
        predictions = {"label": found.probabilities.argmax(1), "scores": found.probabilities, "box": found.boxes}
        rows.append({"file": printable(file), **trained.task.to_json(predictions)[0]})
        if options.out and len(shown) < SHOWN:
            shown.append(small(trained.fit_pixels(file), found.boxes[0]))
    if not rows:
        raise UserError(f"none of the {len(files)} files is an image that can be read")
    write(rows, options.format)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        titles = [f"{Path(row['file']).name[-22:]}\n{row['class']} ({row['score']:.0%})" for row in rows[: len(shown)]]
        images, boxes = zip(*shown, strict=True)
        viz.save(viz.boxed_images(images, {"prediction": boxes}, titles), options.out / SHEET)
        print(f"{options.out / SHEET} shows {len(shown)} of {len(rows)} images", file=sys.stderr)
    return 0


def small(pixels: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, floats in [0, 1], as bytes of at most `SIDE` pixels a side, and the box in its pixels."""
    from PIL import Image

    picture = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    picture.thumbnail((SIDE, SIDE))
    height, width = pixels.shape[:2]
    return np.asarray(picture), box * np.divide(picture.size * 2, (width, height) * 2)


def write(rows: Sequence[dict[str, Any]], kind: str) -> None:
    """Print the rows of `write_boxes` in one of the formats."""
    if kind == "jsonl":
        for row in rows:
            print(json.dumps(row))
    elif kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["file", "class", "probability", *CORNERS])
        writer.writerows([row["file"], row["class"], row["score"], *row["box"]] for row in rows)
    else:
        cells = [
            [row["file"], row["class"], f"{row['score']:.1%}", " ".join(f"{x:.0f}" for x in row["box"])] for row in rows
        ]
        show_table(["file", "class", "probability", f"box ({', '.join(CORNERS)})"], cells, 2)
