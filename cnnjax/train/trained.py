"""A trained network on disk and in use: `weights.safetensors`, and `model.json` with all else that predicting needs."""

import difflib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.data.decode import MODES, decode
from cnnjax.errors import UserError
from cnnjax.interop import load_safetensors, save_safetensors
from cnnjax.interop.preprocess import resize
from cnnjax.models import create_model
from cnnjax.nn import Module, normalized
from cnnjax.runs import read_json, write_json
from cnnjax.runs.directory import Run
from cnnjax.runs.files import PARTIAL
from cnnjax.tasks import Classification, ClassificationLoss, Task
from cnnjax.train.callbacks import Callback, EpochEnd
from cnnjax.train.checkpoints import Checkpoints
from cnnjax.train.state import Fit, Network, TrainState

log = logging.getLogger(__name__)

MODEL, WEIGHTS = "model.json", "weights.safetensors"
TASKS = ("classification", "localization", "segmentation")  # that a trained network is loaded for
BATCH = 64  # images that are predicted at once
NEEDED = ("model", "arguments", "task", "loss", "classes", "image_size", "channels")  # in model.json


class Predictions(NamedTuple):
    """What a network makes of images.

    Attributes:
        names: the most probable class of each image.
        probabilities: of all classes, float32 (images, classes).
    """

    names: tuple[str, ...]
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network for classification, and what it needs to predict.

    Attributes:
        model: the network in evaluation mode, from float images (batch, height, width, channels) in [0, 1] to logits;
            where it was trained on normalised images, the normalisation is a part of it.
        classes: name of the class with label k.
        image_shape: (height, width, channels) that the network was trained on.
        about: the content of `model.json`.
    """

    model: Module
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    about: Mapping[str, Any]

    @property
    def task(self) -> Classification:
        """What the network has learned."""
        loss = ClassificationLoss(self.about["loss"], **self.about.get("loss_options", {}))
        return Classification(loss, self.classes)

    def predict(self, images: Any) -> Predictions:
        """Classify images of any size; each is scaled until it covers `image_shape`, and cropped to its middle.

        Args:
            images: an array (height, width, channels) or (batch, height, width, channels), bytes or floats in [0, 1];
                the path of an image file; or a sequence of such arrays and paths, whose sizes may differ.

        Raises:
            UserError: there is no such file, it is no image, an array has another number of channels, or floats are
                outside [0, 1].
        """
        found = [self.probabilities(np.stack(part)) for part in _chunks(map(self.fit_image, self._each(images)))]
        probabilities = np.concatenate(found) if found else np.zeros((0, len(self.classes)), np.float32)
        return Predictions(tuple(self.classes[k] for k in probabilities.argmax(1)), probabilities)

    def fit_image(self, image: Any) -> np.ndarray:
        """Return an image, a file or an array, as float32 of the network's size, in [0, 1].

        Raises:
            UserError: as `predict`.
        """
        if isinstance(image, str | os.PathLike):
            return self._read(image, self._decoded)
        return self._covered(np.asarray(image))

    def _read(self, file: Any, decoded: Callable[[bytes], np.ndarray]) -> np.ndarray:
        """An image file as float32 in [0, 1]."""
        try:
            return decoded(Path(file).read_bytes()) / np.float32(255)
        except OSError as error:
            reason = error.strerror or "no image of a known format"
            raise UserError(f"{os.fspath(file)} is no image that can be read ({reason})") from error
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise UserError(f"{os.fspath(file)} is no image that can be read ({error})") from error

    def _decoded(self, encoded: bytes) -> np.ndarray:
        """A file as uint8 of the network's size."""
        return decode(encoded, self.image_shape, self.about.get("deep", "refuse"))

    def _covered(self, image: np.ndarray) -> np.ndarray:
        """An array as float32 of the network's size, in [0, 1]."""
        return cover(image, self.image_shape)

    def _each(self, images: Any) -> Iterable[Any]:
        """The images that `predict` is given, one or several."""
        one = isinstance(images, str | os.PathLike) or (hasattr(images, "ndim") and np.ndim(images) == 3)
        return [images] if one else images

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return those of all classes for images as `fit_image` makes them, (batch, *image_shape)."""
        return np.asarray(self._found(images))

    def _found(self, images: np.ndarray) -> Any:
        """What `_scores` makes of the network's outputs, as NumPy arrays."""
        missing = -len(images) % BATCH if len(images) > 1 else 0  # so that two programs are compiled, not one a size
        padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(images)], self._compiled(padded))

    def _scores(self, logits: Any) -> Any:
        """Probabilities of all classes."""
        found: jax.Array = self.task.decode(logits)["scores"]
        return found

    @cached_property
    def flipped(self) -> "Trained":
        """The same network on an image and on its mirror image: its probabilities are the means of both."""
        return replace(self, model=Mirrored(self.model, self.task))

    @cached_property
    def _compiled(self) -> Any:
        graphdef, state = nnx.split(self.model)

        def scores(state: Any, images: jax.Array) -> Any:
            return self._scores(jax.tree.map(jnp.float32, nnx.merge(graphdef, state)(images)))

        program = jax.jit(scores)
        return lambda images: program(state, images)

    def split(self) -> tuple[Network, TrainState]:
        """Return the network as `train.evaluate` takes it."""
        graphdef, *parts = nnx.split(self.model, nnx.Param, nnx.BatchStat, ..., graph=False)
        params, model_state, rng_state = (nnx.as_pure(part).raw_mapping for part in parts)
        return Network(graphdef, rng_state), TrainState(jnp.int32(0), params, model_state, (), {})


class Mirrored(Module):
    """A network on images and their mirror images, left and right exchanged.

    Args:
        network: gives outputs of the task.
        task: has `mean_outputs`.
    """

    def __init__(self, network: Module, task: Any):
        self.layers, self.task = network, task

    def __call__(self, x: jax.Array) -> Any:
        return self.task.mean_outputs(self.layers(x), self.layers(x[:, :, ::-1]))


def cover(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return an array as an image of this shape, float32 in [0, 1]: scaled until it covers it, cropped to its middle.

    Bytes are scaled as `data.decode` scales files, to the same bits.

    Raises:
        UserError: another number of axes or channels, or floats outside [0, 1].
    """
    height, width, channels = shape
    check_image(image, channels)
    scale = max(width / image.shape[1], height / image.shape[0])
    tall, wide = max(round(image.shape[0] * scale), height), max(round(image.shape[1] * scale), width)
    top, left = (tall - height) // 2, (wide - width) // 2
    if image.dtype == np.uint8 and channels in MODES:
        from PIL import Image

        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized = np.asarray(picture.resize((wide, tall), Image.Resampling.BILINEAR))
        scaled = resized.reshape(tall, wide, channels) / np.float32(255)
    else:
        scaled = np.asarray(resize(jnp.asarray(image[None]), tall, wide, "bilinear"))[0]
    return scaled[top : top + height, left : left + width].astype(np.float32)


def check_image(image: np.ndarray, channels: int) -> None:
    """Raise a UserError unless an array is an image (height, width, channels) of bytes or floats in [0, 1]."""
    if image.ndim != 3 or image.shape[2] != channels or not image.size:
        raise UserError(
            f"the network takes images (height, width, {channels}), or a batch of them, got an array of shape "
            f"{image.shape}{'' if image.ndim != 3 else f': it was trained on images of {channels} channels'}"
        )
    if image.dtype == np.uint8:
        return
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f"images are bytes (uint8) or floats in [0, 1], got {image.dtype}: convert them")
    if not (image.min() >= 0 and image.max() <= 1):
        raise UserError(f"float images are in [0, 1], got {image.min():g} to {image.max():g}: divide bytes by 255")


def _chunks(images: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    chunk: list[np.ndarray] = []
    for image in images:
        chunk.append(image)
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# ---------------------------------------------------------------- on disk


def save(folder: Path, model: Module, about: Mapping[str, Any]) -> None:
    """Write `weights.safetensors` and `model.json`; a reader sees each whole or not at all."""
    partial = folder / f"{PARTIAL}{WEIGHTS}"
    save_safetensors(model, partial)
    os.replace(partial, folder / WEIGHTS)
    write_json(folder / MODEL, about)


def load(path: str | Path) -> Trained:
    """Load a trained network: `train.load("results/runs/RUN").predict("photo.jpg")`.

    Args:
        path: directory of a run of `train`, or the `weights.safetensors` in it. While the run is not finished, the
            network is the best so far, which a message says.

    Raises:
        UserError: there is no such directory, it has no network, or the network is damaged.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        near = [str(one) for one in folder.glob("*") if (one / MODEL).is_file()] if folder.is_dir() else []
        close = difflib.get_close_matches(str(path), near, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "expected the directory of a run of `train`"
        raise UserError(f"there is no {path}: {hint}")
    about = read_json(folder / MODEL)
    if about is None:
        raise UserError(_without_model(path, folder))
    missing = [name for name in NEEDED if name not in about]
    if missing or about["task"] not in TASKS:
        what = (
            f"has no {', '.join(missing)}" if missing else f"is of the task {about['task']!r}, not {' or '.join(TASKS)}"
        )
        raise UserError(f"{folder / MODEL} {what}: expected what a run of `train` writes")
    weights = folder / WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise UserError(f"{folder} has no weights yet, which the first epoch ends with: let the run go on")
    if not about.get("finished", True):
        log.warning("%s is not finished: this is its best network so far, of epoch %s", folder, about.get("epoch"))
    model = create_model(about["model"], **about["arguments"])
    load_safetensors(model, weights)
    model = normalized(model, about.get("mean"), about.get("std"))
    model.eval()
    height, width = about["image_size"]
    return _class_of(about["task"])(model, tuple(about["classes"]), (height, width, about["channels"]), about)


def _class_of(task: str) -> type[Trained]:
    if task == "segmentation":
        from cnnjax.train.segmented import Segmenter  # which is a kind of Trained itself

        return Segmenter
    if task == "localization":
        from cnnjax.train.located import Locator

        return Locator
    return Trained


def _without_model(path: Path, folder: Path) -> str:
    if path.is_file():
        return (
            f"{path} has no {MODEL} beside it, which names the network and its classes: give the directory of a "
            "run, or put the run's file there"
        )
    config = read_json(folder / "config.json")
    if config is None:
        return f"{folder} is no run of `train`: it has no {MODEL}"
    if config.get("experiment") == "train":
        return f"{folder} has no network yet: let the run go on"
    return f"{folder} is a run of {config.get('experiment')}, which keeps no {MODEL}: expected a run of `train`"


# ---------------------------------------------------------------- the best of a training


class KeepBest(Callback):
    """Writes the network of an epoch that is the best by validation so far, so that it can be used during a training.

    Args:
        model: the network; its parameters are not used.
        run: the directory.
        task: whose figure `best` decides.
        about: what `model.json` says, but for the epoch and its figures.
    """

    def __init__(self, model: Module, run: Run, task: Task, about: Mapping[str, Any]):
        self._model, self._run, self._task, self._about = model, run, task, about
        self._sign = 1 if task.highest else -1
        earlier = (read_json(run.path / MODEL) or {}).get("metrics", {}).get("validation", {})  # of a killed process
        self._best = self._sign * earlier[task.best] if task.best in earlier else None

    def on_epoch(self, epoch: EpochEnd) -> None:
        score = self._sign * epoch.figures.get("validation", {}).get(self._task.best, 0.0)
        if not self._run.writes or (self._best is not None and score <= self._best):
            return
        self._best = score
        figures = {"validation": epoch.figures.get("validation", {})}
        try:
            about = {**self._about, "epoch": epoch.number, "metrics": figures, "finished": False}
            save(self._run.path, with_state(self._model, epoch.state), about)
        except (OSError, UserError) as error:  # the checkpoint has it, and the end of the training writes it again
            log.warning("the best network so far cannot be written (%s): training continues", error)


def with_state(model: Module, state: TrainState) -> Module:
    """Return a network with the parameters of a state, averages if it has any, in evaluation mode."""
    graphdef, *parts = nnx.split(model, nnx.Param, nnx.BatchStat, ..., graph=False)
    return Fit(Network(graphdef, nnx.as_pure(parts[-1]).raw_mapping), state, {}).model()


def best_state(fit: Fit, run: Run) -> TrainState:
    """Return the state of the epoch that is the best by validation, from the run's checkpoints; else the final one."""
    checkpoints = Checkpoints(run.checkpoints / run.tag)
    try:
        return checkpoints.restore_best(fit.state) or fit.state
    finally:
        checkpoints.close()
