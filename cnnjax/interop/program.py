"""A network as a program that JAX alone runs, for batches of any size, on CPUs, GPUs and TPUs."""

import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

from cnnjax.errors import UserError
from cnnjax.interop.preprocess import Preprocess
from cnnjax.nn import Module, path_name

PLATFORMS = ("cpu", "cuda", "tpu")

LOADER = """\
from pathlib import Path
import jax, numpy as np
from jax import export
from PIL import Image, ImageOps

program = export.deserialize(bytearray(Path({file!r}).read_bytes()))
classes = {classes}
image = ImageOps.fit(Image.open("photo.jpg").convert({mode!r}), ({width}, {height}), {fit})
images = np.asarray(image, np.float32).reshape(1, {height}, {width}, {channels}) / 255  # any number of images at once
logits = jax.jit(program.call)(images)
print(classes[int(logits[0].argmax())], logits[0])
"""

MASK_LOADER = """\
from pathlib import Path
import jax, numpy as np
from jax import export
from PIL import Image, ImageOps

program = export.deserialize(bytearray(Path({file!r}).read_bytes()))
classes = {classes}
image = ImageOps.pad(Image.open("photo.jpg").convert({mode!r}), ({width}, {height}), {fit})
images = np.asarray(image, np.float32).reshape(1, {height}, {width}, {channels}) / 255  # any number of images at once
mask = np.asarray(jax.jit(program.call)(images))[0].argmax(-1)  # the class of every pixel
print({{classes[k]: float((mask == k).mean()) for k in np.unique(mask)}})
"""

BOX_LOADER = """\
from pathlib import Path
import jax, numpy as np
from jax import export
from PIL import Image, ImageOps

program = export.deserialize(bytearray(Path({file!r}).read_bytes()))
classes = {classes}
photo = Image.open("photo.jpg").convert({mode!r})
image = ImageOps.pad(photo, ({width}, {height}), {fit})
images = np.asarray(image, np.float32).reshape(1, {height}, {width}, {channels}) / 255  # any number of images at once
found = jax.jit(program.call)(images)
scale = min({width} / photo.width, {height} / photo.height)
black = (np.array([{width}, {height}]) - scale * np.array(photo.size)) / 2  # on the left and at the top
box = np.clip((np.reshape(found["boxes"][0], (2, 2)) - black) / scale, 0, photo.size).ravel()
print(classes[int(found["logits"][0].argmax())], box)  # x0, y0, x1, y1 in pixels of photo.jpg
"""


def save_program(model: Module, path: str | Path, image_shape: tuple[int, int, int]) -> None:
    """Write a network in evaluation mode as StableHLO, with its parameters, by `jax.export`.

    `jax.export.deserialize(bytes).call(images)` maps float32 images (batch, height, width, channels) to the network's
    outputs, for any batch; outputs with names, such as `models.detection.Localized`, become a dictionary of their
    arrays. That needs JAX and flatbuffers, neither this package nor Flax.

    Args:
        model: the network; its mode is not changed.
        path: of the file.
        image_shape: (height, width, channels).

    Raises:
        UserError: the network cannot be exported for such images, or the file cannot be written.
    """
    copy = nnx.clone(model)
    copy.eval()
    graphdef, state = nnx.split(copy)
    (count,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((count, *image_shape), jnp.float32)
    try:
        exported = export.export(jax.jit(lambda x: _named(nnx.merge(graphdef, state)(x))), platforms=PLATFORMS)(images)
        content = exported.serialize()
    except Exception as error:  # of many kinds, where a layer cannot be traced for any batch
        first = str(error).partition("\n")[0]
        raise UserError(
            f"{type(model).__name__} cannot be written as StableHLO for images of {image_shape} and any batch "
            f"({type(error).__name__}: {first}): choose another format"
        ) from error
    _write(path, bytes(content))


def _named(outputs: Any) -> Any:
    """The arrays of a dataclass by their names, which a program can return without its class; others as they are."""
    if not is_dataclass(outputs):
        return outputs
    return {field.name: getattr(outputs, field.name) for field in fields(outputs) if not field.metadata.get("static")}


def save_npz(model: Module, path: str | Path) -> None:
    """Write parameters and batch statistics as NumPy's .npz, under this package's names, kernels as HWIO.

    Raises:
        UserError: the file cannot be written.
    """
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    arrays: dict[str, Any] = {path_name(key): np.asarray(value[...]) for key, value in nnx.to_flat_state(state)}
    try:
        with open(path, "wb") as file:  # to a path without .npz NumPy would add it
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"weights cannot be written to {os.fspath(path)} ({error.strerror})") from error


def loader(
    file: str,
    classes: list[str] | str,
    image_shape: tuple[int, int, int],
    preprocess: Preprocess | None = None,
    script: str = LOADER,
) -> str:
    """Return a script that uses a program that `save_program` has written on photo.jpg.

    Args:
        file: the program.
        classes: their names, or the file that has one in each line.
        image_shape: (height, width, channels).
        preprocess: how an image is resized and cropped; by default it is scaled until it covers the shape.
        script: `LOADER` classifies the image, `MASK_LOADER` its pixels; `BOX_LOADER` locates its object.
    """
    height, width, channels = image_shape
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "RGB")
    listed = f"Path({classes!r}).read_text().splitlines()" if isinstance(classes, str) else repr(classes)
    fit = f"Image.Resampling.{preprocess.interpolation.upper() if preprocess else 'BILINEAR'}"
    if preprocess and preprocess.crop < 1:
        fit += f", {(1 - preprocess.crop) / 2:g}"  # of each side
    return script.format(file=file, classes=listed, mode=mode, height=height, width=width, channels=channels, fit=fit)


def _write(path: str | Path, content: bytes) -> None:
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"the program cannot be written to {os.fspath(path)} ({error.strerror})") from error
