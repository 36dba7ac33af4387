"""A real TFDS data set of a few noise images, prepared without TensorFlow and without a network."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNTS = {"train": 40, "test": 20}
THREE = {"train": 12, "test": 4, "validation": 8}
CLASSES = ["a", "b", "c", "d"]


class TinySquares(tfds.core.GeneratorBasedBuilder):
    """8x8 images; an image's label is its number modulo 4."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in COUNTS.items()}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"image": png(picture(number)), "label": number % 4}


class TinyGrey(tfds.core.GeneratorBasedBuilder):
    """8x8 grey images, those of the test split without a label, as TFDS keeps ImageNet's."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test", "validation")}

    def _generate_examples(self, split):
        for number in range(8):
            yield number, {"image": png(picture(number)[..., 0]), "label": -1 if split == "test" else number % 4}


class TinyThree(TinySquares):
    """The same images, those of three splits with labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in THREE.items()}


class TinyDeep(tfds.core.GeneratorBasedBuilder):
    """Images of 16 bits for each channel, never prepared."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        raise NotImplementedError

    def _generate_examples(self):
        raise NotImplementedError


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file


def prepare(folder):
    for builder in (TinySquares, TinyGrey, TinyThree):
        builder(data_dir=str(folder), file_format="array_record").download_and_prepare()
