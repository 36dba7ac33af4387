"""Networks whose weights come from elsewhere: published ones by their name, and files without a `model.json`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
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
from cnnjax.nn import Module
from cnnjax.options import Checked, Count, Range
from cnnjax.train.trained import cover

log = logging.getLogger(__name__)

MEANS = Range("numbers from 0 to 1, one for each channel", lambda given: all(0 <= value <= 1 for value in given))
STDS = Range("numbers larger than 0, one for each channel", lambda given: all(value > 0 for value in given))
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
    mean: Annotated[tuple[float, ...], MEANS] | None = None
    """Subtracted from each channel, from 0 to 1; default: as published weights of the network."""
    std: Annotated[tuple[float, ...], STDS] | None = None
    """Each channel is then divided by this; default: as published weights of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise UserError("`mean` and `std` go together, with as many numbers each as the images have channels")

    def given(self) -> list[str]:
        """Return the options that are not left at their defaults."""
        return [name for name, value in vars(self).items() if value not in (None, "")]


class Normalized(Module):
    """A network behind `(images - mean) / std`, so that it takes images in [0, 1]."""

    def __init__(self, network: Module, mean: tuple[float, ...], std: tuple[float, ...]):
        self.network, self.mean, self.std = network, mean, std

    def __call__(self, x: jax.Array) -> Any:
        return self.network((x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype))


@dataclass(frozen=True, eq=False)
class Imported(train.Trained):
    """A network with weights from elsewhere, which prepares images as these expect them.

    Attributes:
        network: without the normalisation that `model` begins with.
        preprocess: the size, crop and normalisation.
    """

    network: Module
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
    return _imported(name, pretrained.model, {"num_classes": imagenet.CLASSES}, pretrained.preprocess, origin)


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
    arguments: dict[str, Any] = {"num_classes": imagenet.CLASSES, "in_channels": len(preprocess.mean)}
    if takes_image_size(origin.model):
        arguments["image_size"] = preprocess.size
    model, arguments = _filled(path, origin.model, arguments)
    return _imported(origin.model, model, arguments, preprocess, origin)


def _preprocess(path: Path, origin: Origin) -> interop.Preprocess:
    """What is known of how images are prepared, before the options have their say."""
    if path.suffix == ".safetensors" and has_settings(path):  # written here, for images in [0, 1]
        if origin.image_size is None:
            raise UserError(f"{path} does not say for which images it is: add `image_size=64` or whichever it is")
        mean = origin.mean or (0.0, 0.0, 0.0)
        return interop.Preprocess(origin.image_size, 1.0, "bilinear", mean, origin.std or (1.0,) * len(mean))
    published = WEIGHTS[origin.model].preprocess if origin.model in WEIGHTS else interop.Preprocess(224)
    return _changed(published, origin)


def _changed(preprocess: interop.Preprocess, origin: Origin) -> interop.Preprocess:
    size, mean, std = origin.image_size, origin.mean, origin.std
    return replace(preprocess, size=size or preprocess.size, mean=mean or preprocess.mean, std=std or preprocess.std)


def _filled(path: Path, name: str, arguments: Mapping[str, Any]) -> tuple[Module, dict[str, Any]]:
    """Return the network with the weights of a file, and its arguments: as many classes as the file has outputs."""
    load = SUFFIXES[path.suffix.lower()]
    model = _built(name, arguments)
    try:
        load(model, path)
        return model, dict(arguments)
    except MisfitError as error:
        counts = {own[0] for own, expected in error.shapes.values() if own[1:] == expected[1:]}
        if len(counts) != 1:
            raise UserError(f"{path}: {error}") from error
    arguments = {**arguments, "num_classes": counts.pop()}
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
    preprocess = _changed(preprocess, origin)
    count, size, channels = arguments["num_classes"], preprocess.size, len(preprocess.mean)
    log.warning(
        "%s: %d classes; of an image, scaled to %d pixels on its shorter side (%s), the middle %dx%d; mean %s, "
        "deviation %s",
        *(name, count, int(size / preprocess.crop), preprocess.interpolation, size, size),
        *(" ".join(f"{value:g}" for value in values) for values in (preprocess.mean, preprocess.std)),
    )
    model.eval()
    classes = _names(origin.classes, count)
    about = {"model": name, "arguments": dict(arguments), "task": "classification", "loss": "cross-entropy"}
    normalized = Normalized(model, preprocess.mean, preprocess.std)
    normalized.eval()
    return Imported(normalized, classes, (size, size, channels), about, model, preprocess)


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
