"""Read weights from Keras's models and its two kinds of HDF5 files, under all names that it has given to layers."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.errors import UserError
from cnnjax.interop.keras_names import KERAS_1, automatic
from cnnjax.interop.slots import as_numpy

# Keras's names of the classifier's layer in files that it has published.
_CLASSIFIERS = ("probs", "fc1000", "Logits")
_AUTOMATIC = rf"(conv2d|batch_normalization|normalization|{'|'.join(KERAS_1)})(?:_(\d+))?"


def read(source: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a Keras model, a mapping, or a file as "layer/weight", with automatic names from 0 on.

    A model's `Rescaling` layers count as one, "rescaling/scale".

    Raises:
        UserError: it is none of these, there is no such file, it is damaged, or h5py is not installed.
        ValueError: two arrays have one name.
    """
    if isinstance(source, Mapping):
        pairs: Iterator[tuple[str, Any]] = iter(source.items())
    elif isinstance(source, str | Path):
        pairs = _read_file(Path(source))
    elif hasattr(source, "layers"):
        pairs = _read_model(source)
    else:
        raise UserError(
            f"load_keras takes a keras.Model, a mapping from 'layer/weight' to arrays, or the path of an HDF5 file, "
            f"got a {type(source).__name__}"
        )
    return _usual_names([(key, as_numpy(value)) for key, value in pairs])


def _read_model(model: Any) -> Iterator[tuple[str, Any]]:
    scale = None
    for layer in model.layers:
        for weight in layer.weights:
            value = weight.value() if callable(weight.value) else weight.value  # TensorFlow's, or Keras 3's
            yield f"{layer.name}/{weight.name.split('/')[-1]}", value
        if type(layer).__name__ == "Rescaling":
            scale = np.multiply(1.0 if scale is None else scale, layer.scale)
    if scale is not None:
        yield "rescaling/scale", scale


def _read_file(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        import h5py
    except ImportError:
        raise UserError(f"reading {path} needs h5py: pip install h5py, or cnnjax with its extra 'keras'") from None
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"there is no file {path} to load weights from") from None
    except OSError as error:
        raise UserError(f"{path} is no HDF5 file that can be read ({error})") from error
    try:
        with file:
            for layer, arrays in (_layers if "layers" in file else _legacy_layers)(path, file):
                for name, array in zip(_weights(arrays), arrays, strict=True):
                    yield f"{layer}/{name}", array
    except UserError:
        raise
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or no file of Keras's weights ({type(error).__name__}: {error})"
        ) from error


def _layers(path: Path, file: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the layers of Keras 3's `.weights.h5`, whose groups are called by kind and carry the layer's name."""
    for group in file["layers"].values():
        variables = group.get("vars", {})
        if len(variables):
            if "name" not in variables.attrs:
                raise UserError(
                    f"{path} does not name its layers, as files of the first versions of Keras 3: load it into Keras, "
                    "and give the model"
                )
            yield str(variables.attrs["name"]), [variables[str(index)][()] for index in range(len(variables))]


def _legacy_layers(path: Path, file: Any) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the layers of the older `.h5`, with weights alone or a whole model."""
    root = file.get("model_weights", file)
    names = _texts(root.attrs, "layer_names")
    if not names:
        raise UserError(f"{path} has no Keras weights: neither a group 'layers' nor the attribute 'layer_names'")
    for layer in names:
        if layer not in root:  # without weights, Keras 3 leaves out an input's group
            continue
        arrays = [root[layer][name][()] for name in _texts(root[layer].attrs, "weight_names")]
        if arrays:
            yield layer, arrays


def _texts(attributes: Any, name: str) -> list[str]:
    """Return a list of names, which Keras splits into "name0", "name1", ... where it is long."""
    parts = [name] if name in attributes else []
    while not parts or parts[-1] != name:
        part = f"{name}{len(parts)}"
        if part not in attributes:
            break
        parts.append(part)
    return [text.decode() if isinstance(text, bytes) else str(text) for part in parts for text in attributes[part]]


def _weights(arrays: list[np.ndarray]) -> list[str]:
    """Return what a layer calls its arrays; files have them in this order, and older ones under other names."""
    axes = [array.ndim for array in arrays]
    if axes[:2] == [4, 4]:
        names = ["depthwise_kernel", "pointwise_kernel", "bias"]
    elif axes[0] > 1:
        names = ["kernel", "bias"]
    elif axes == [1, 1, 0]:
        names = ["mean", "variance", "count"]
    else:
        names = ["gamma", "beta", "moving_mean", "moving_variance"][4 - len(arrays) if len(arrays) == 3 else 0 :]
    return [*names, *(f"weight_{index}" for index in range(len(names), len(arrays)))][: len(arrays)]


def _usual_names(arrays: list[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays as Keras 3 would name them in a process that has built nothing else."""
    split = [_split(key) for key, _ in arrays]
    separable = {layer for layer, weight in split if weight == "pointwise_kernel"}
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for layer, _ in split:
        if match := re.fullmatch(_AUTOMATIC, layer):
            numbers[match[1]].add(int(match[2] or 0))
    named: dict[str, np.ndarray] = {}
    for (layer, weight), (_, array) in zip(split, arrays, strict=True):
        if weight == "depthwise_kernel" and layer not in separable:
            weight = "kernel"  # Keras 2's name
        if match := re.fullmatch(_AUTOMATIC, layer):
            number = int(match[2] or 0) - min(numbers[match[1]])
            names = KERAS_1.get(match[1], ())
            layer = names[number] if number < len(names) else automatic(match[1], number)
        key = f"{layer}/{weight}"
        if key in named:
            raise ValueError(f"these weights have {key} twice")
        named[key] = array
    return named


def _split(key: str) -> tuple[str, str]:
    layer, _, weight = str(key).removesuffix(":0").rpartition("/")
    layer = layer.replace("/", "_")  # DenseNet's "conv1/bn"
    return ("predictions" if layer in _CLASSIFIERS else layer), weight
