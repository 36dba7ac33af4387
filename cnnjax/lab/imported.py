"""Networks whose weights come from elsewhere: published ones by their name, and files without a `model.json`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnjax import interop, models, train
from cnnjax.data.decode import MODES, Deep, read
from cnnjax.data.stream import Labelled, Record, Stream
from cnnjax.errors import UserError, unknown_name
from cnnjax.interop import imagenet
from cnnjax.interop.hub import WEIGHTS, without_values
from cnnjax.interop.safetensors import has_settings
from cnnjax.interop.slots import MisfitError
from cnnjax.lab.training import takes_image_size
from cnnjax.nn import Module, normalized
from cnnjax.options import Checked, Count
from cnnjax.train.recipe import check_normalization
from cnnjax.train.trained import cover

log = logging.getLogger(__name__)

SUFFIXES = {".safetensors": interop.load_safetensors} | dict.fromkeys(
    (".pth", ".pt", ".bin", ".ckpt", ".tar"), interop.load_pth
)


@dataclass(frozen=True)
class Origin(Checked):
    """What a file of weights does not say of itself where no model.json lies beside it."""

    model: str = ""
    """Network of such a file; `models` lists all of them."""
    classes: Path | None = None
    """File with the name of a class in each line, in the order of the network's outputs; default: ImageNet's where
    there are 1,000, else numbers."""
    image_size: Count | None = None
    """Height and width of what the network sees of an image; default: as published weights of the network."""
    mean: tuple[float, ...] | None = None
    """Of each channel, or one number for all: what the network takes is (image - mean) / std, for images in [0, 1];
    default: as published weights of the network."""
    std: tuple[float, ...] | None = None
    """Of each channel, or one number for all, with `mean`; default: as published weights of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalization(self)

    def given(self) -> list[str]:
        """Return the options that are not left at their defaults."""
        return [name for name, value in vars(self).items() if value not in (None, "")]


@dataclass(frozen=True, eq=False)
class Imported(train.Trained):
    """A network with weights from elsewhere, which prepares images as these expect them.

    Attributes:
        preprocess: the size, crop and normalisation.
    """

    preprocess: interop.Preprocess

    def _decoded(self, encoded: bytes) -> np.ndarray:
        return self.preprocess.crop_picture(read(encoded, self.image_shape[2]))

    def _covered(self, image: np.ndarray) -> np.ndarray:
        channels = self.image_shape[2]
        checked = cover(image, (*image.shape[:2], channels) if image.ndim == 3 else self.image_shape)
        if image.dtype == np.uint8 and channels in MODES:
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            return self.preprocess.crop_picture(picture) / np.float32(255)
        plain = replace(self.preprocess, mean=(0.0,) * channels, std=(1.0,) * channels)
        return np.asarray(plain(checked[None]))[0].clip(0, 1)  # bicubic filters overshoot

    def prepared(self, stream: Stream, names: tuple[str, ...]) -> Stream:
        """Return a stream's images as this network takes them, with its labels, whatever the stream's classes are."""
        reader = stream.reader
        deep: Deep = reader.deep if isinstance(reader, Labelled) else "refuse"
        ours = Prepared(
            self.image_shape, len(self.classes), deep, preprocess=self.preprocess, labels=self.labels_of(names)
        )
        return replace(stream, reader=ours)

    def labels_of(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Return the network's label of each name: of a class, of its WordNet identifier, or its number.

        Raises:
            UserError: a name is none of these.
        """
        known = {str(label): label for label in range(len(self.classes))}
        if len(self.classes) == imagenet.CLASSES:
            known |= {one: label for label, one in enumerate(imagenet.synsets())}
        known |= {name: label for label, name in enumerate(self.classes)}
        for name in names:
            if name not in known:
                raise unknown_name(
                    "class of the data (expected those of the network, or their numbers):", name, self.classes
                )
        return tuple(known[name] for name in names)


@dataclass(frozen=True, kw_only=True)
class Prepared(Labelled):
    """Reads images as weights from elsewhere expect them.

    Attributes:
        preprocess: how they are resized and cropped.
        labels: the network's label for each of the data.
    """

    preprocess: interop.Preprocess
    labels: tuple[int, ...]

    def read(self, record: Record) -> dict[str, Any]:
        picture, label = read(record["image"], self.image_shape[2], self.deep), int(record["label"])
        known = 0 <= label < len(self.labels)  # `check` refuses others
        return {
            "images": self.preprocess.crop_picture(picture),
            "labels": np.int32(self.labels[label] if known else -1),
        }


# ---------------------------------------------------------------- by name, or from a file


def by_name(name: str, origin: Origin) -> Imported:
    """Return a network with its published weights.

    Raises:
        UserError: there are none, or the hub does not give them, or an option does not go with them.
    """
    if origin.model:
        raise UserError(f"`model` is for a file of weights: {name} is the name of a network itself")
    pretrained = interop.from_pretrained(name)
    size = origin.image_size or pretrained.preprocess.size
    arguments = {"num_classes": imagenet.CLASSES}
    return _imported(name, pretrained.model, arguments, replace(pretrained.preprocess, size=size), origin)


def from_file(path: Path, origin: Origin) -> Imported:
    """Return the network of a file of weights of torchvision, timm or this package.

    Raises:
        UserError: the file cannot be read, is of another network or of other classes, or says too little.
    """
    if not origin.model:
        raise UserError(
            f"{path} has no {train.trained.MODEL} beside it, which names the network and its classes: add "
            "`model=resnet18` or whichever network it is of, and `classes`, or give the directory of a run"
        )
    if origin.model not in models.list_models(task="classification"):
        raise unknown_name("`model`", origin.model, models.list_models(task="classification"))
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no file of weights by its name: expected one that ends in {', '.join(SUFFIXES)}")
    preprocess = _preprocess(path, origin)
    arguments: dict[str, Any] = {"num_classes": imagenet.CLASSES, "in_channels": 3}
    if takes_image_size(origin.model):
        arguments["image_size"] = preprocess.size
    model, arguments = _filled(path, origin.model, arguments)
    return _imported(origin.model, model, arguments, preprocess, origin)


def _preprocess(path: Path, origin: Origin) -> interop.Preprocess:
    """Return how images are prepared, as far as it is known before the network is."""
    if path.suffix != ".safetensors" or not has_settings(path):
        published = WEIGHTS[origin.model].preprocess if origin.model in WEIGHTS else interop.Preprocess(224)
        return replace(published, size=origin.image_size or published.size)
    if origin.image_size is None:  # written by this package, for images in [0, 1]
        raise UserError(f"{path} does not say for which images it is: add `image_size=64` or whichever it is")
    return interop.Preprocess(origin.image_size, 1.0, "bilinear", (0.0,), (1.0,))


def _filled(path: Path, name: str, arguments: Mapping[str, Any]) -> tuple[Module, dict[str, Any]]:
    """Return the network with the weights of a file, and its arguments: with the file's classes and channels."""
    load = SUFFIXES[path.suffix.lower()]
    model = _built(name, arguments)
    try:
        load(model, path)
        return model, dict(arguments)
    except MisfitError as error:
        shapes = error.shapes.values()
        classes = {own[0] for own, expected in shapes if own[1:] == expected[1:]} or {arguments["num_classes"]}
        channels = {
            own[1] for own, expected in shapes if len(own) == 4 and own[:1] + own[2:] == expected[:1] + expected[2:]
        }
        channels = channels or {arguments["in_channels"]}
        if len(classes) != 1 or len(channels) != 1:
            raise UserError(f"{path}: {error}") from error
    arguments = {**arguments, "num_classes": classes.pop(), "in_channels": channels.pop()}
    model = _built(name, arguments)
    try:
        load(model, path)
    except MisfitError as error:
        raise UserError(f"{path}: {error}") from error
    return model, dict(arguments)


def _built(name: str, arguments: Mapping[str, Any]) -> Module:
    try:
        return without_values(name, dict(arguments))
    except UserError:
        raise
    except ValueError as error:  # of the network's arguments
        raise UserError(f"{name} cannot be built for these images ({error})") from error


def _imported(
    name: str, model: Module, arguments: Mapping[str, Any], preprocess: interop.Preprocess, origin: Origin
) -> Imported:
    count, channels = arguments["num_classes"], arguments.get("in_channels", 3)
    mean, std = (
        given * channels if len(given) == 1 else given
        for given in (origin.mean or preprocess.mean, origin.std or preprocess.std)
    )
    if len(mean) != channels:
        raise UserError(
            f"the images have {channels} channel{'s' * (channels != 1)}, and `mean` {len(mean)} numbers: give `mean` "
            "and `std`, with one number for each or one for all"
        )
    preprocess, size = replace(preprocess, mean=mean, std=std), preprocess.size
    log.warning(
        "%s: %d classes; of an image, scaled to %d pixels on its shorter side (%s), the middle %dx%d; mean %s, "
        "deviation %s",
        *(name, count, int(size / preprocess.crop), preprocess.interpolation, size, size),
        *(" ".join(f"{value:g}" for value in values) for values in (mean, std)),
    )
    about = {"model": name, "arguments": dict(arguments), "task": "classification", "loss": "cross-entropy"}
    model = normalized(model, mean, std)
    model.eval()
    shape = (size, size, channels)
    return Imported(model, _names(origin.classes, count), shape, {**about, "mean": mean, "std": std}, preprocess)


def _names(file: Path | None, count: int) -> tuple[str, ...]:
    """Return a name for each output."""
    if file is None:
        return imagenet.class_names() if count == imagenet.CLASSES else tuple(map(str, range(count)))
    try:
        names = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`classes` cannot be read from {file} ({error}): expected a text file") from error
    if len(names) != count or len(set(names)) != count:
        twice = "" if len(set(names)) == len(names) else f", {len(names) - len(set(names))} of them twice"
        raise UserError(
            f"{file} (`classes`) has {len(names)} names{twice}, and the network {count} outputs: expected another name "
            "for each"
        )
    return tuple(names)
