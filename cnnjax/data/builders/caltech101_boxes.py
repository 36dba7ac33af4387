"""Three classes of Caltech 101, one object and one box in each image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

ARCHIVE = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip?download=1"
# Folders of a class's images and of their annotations.
CLASSES = {
    "airplane": ("airplanes", "Airplanes_Side_2"),
    "face": ("Faces", "Faces_2"),
    "motorcycle": ("Motorbikes", "Motorbikes_16"),
}


class Caltech101Boxes(tfds.core.GeneratorBasedBuilder):
    """800 airplanes, 435 faces and 798 motorcycles.

    There is no official split: of each class, in the order above, the first fifth of a permutation of the names by
    `numpy.random.default_rng(0)` is to test on.

    Source: Fei-Fei et al., "Caltech 101" (2022), https://doi.org/10.22002/D1.20086; CC BY 4.0.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description="Airplanes, faces and motorcycles of Caltech 101, each image with one object and its box.",
            homepage="https://doi.org/10.22002/D1.20086",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = Path(dl_manager.download_and_extract(ARCHIVE)) / "caltech-101"
        parts = ("101_ObjectCategories", "tar.gz"), ("Annotations", "tar")
        images, notes = (Path(dl_manager.extract(folder / f"{name}.{end}")) / name for name, end in parts)
        rng, files = np.random.default_rng(0), dict[str, list[tuple[str, Path]]](train=[], test=[])
        for name, (own, _) in CLASSES.items():
            every = sorted((images / own).glob("*.jpg"))
            order = rng.permutation(len(every))
            for number, place in enumerate(order):
                files["test" if number < len(every) // 5 else "train"].append((name, every[place]))
        return {split: self._generate_examples(chosen, notes) for split, chosen in files.items()}

    def _generate_examples(self, files: list[tuple[str, Path]], notes: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield images with the box of their annotations: top, bottom, left and right in pixels."""
        from PIL import Image
        from scipy.io import loadmat

        for name, file in files:
            note = notes / CLASSES[name][1] / f"{file.stem.replace('image', 'annotation')}.mat"
            top, bottom, left, right = (float(value) for value in loadmat(note)["box_coord"][0])
            with Image.open(file) as image:
                width, height = image.size
            box = np.clip([top / height, left / width, bottom / height, right / width], 0, 1)
            key = f"{name}/{file.name}"
            yield (
                key,
                {"image": file, "bbox": tfds.features.BBox(*box.tolist()), "label": name, "file_name": key},
            )
