"""Load weights of keras.applications, which turns a model into Keras's version of the network."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.interop.keras_files import read
from cnnjax.interop.keras_names import Family, family_of
from cnnjax.interop.names import rename
from cnnjax.interop.preprocess import MEAN, STD
from cnnjax.interop.slots import Slot, check, configure, slots
from cnnjax.nn import BatchNorm, Conv, Linear, Module

_CAFFE_MEAN = (103.939, 116.779, 123.68)  # of blue, green and red from 0 to 255
_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
_SMALLEST_STD = 1e-7  # keras.config.epsilon(): its Normalization divides by nothing smaller


class Normalization(Module):
    """`(x / 255 - mean) / std`, with which Keras's EfficientNet begins.

    Args:
        mean: of each channel, from 0 to 1.
        std: of each channel, likewise.
    """

    def __init__(self, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD):
        self.mean, self.std = mean, std

    def __call__(self, x: jax.Array) -> jax.Array:
        return (x / 255 - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)


def load_keras(model: Module, source: Any) -> None:
    """Put weights of keras.applications into the model of that architecture, and make it Keras's network.

    Then its logits are Keras's (`classifier_activation=None`), for images that are scaled as Keras scales them
    (`keras_preprocess`). Every array is used exactly once, and every shape is checked before anything is changed.
    A bias before a batch normalisation goes into its mean. `as_keras` says what else changes.

    Args:
        model: vgg16, vgg19, resnet50, resnet101, resnet152, inception_v3, xception, mobilenet_v1, mobilenet_v2,
            densenet121, densenet169, densenet201, or efficientnet_b0 to _b7.
        source: a keras.Model with its classifier; a mapping from "layer/weight" to arrays, as `weight.path` has them;
            or the path of an HDF5 file, Keras 3's `.weights.h5` or the older `.h5`, for which h5py is needed.

    Raises:
        UserError: the source is none of these, or Keras has no such network.
        ValueError: an array is missing, unknown or of another shape, or holds a NaN or infinity; each is listed.
    """
    family = family_of(model)
    given = read(source)
    targets = {_key(family.renames(model), path, slot): slot for path, slot in _slots(model)}
    filled = {key: slot for key, slot in targets.items() if family.scaled or not key.endswith("/gamma")}
    expected = {key: _shape(family, slot) for key, slot in filled.items()}
    if family.biased:
        biases = {key: slot for key, slot in filled.items() if key.endswith("_conv/kernel")}
        expected |= {key.replace("/kernel", "/bias"): slot.shape[-1:] for key, slot in biases.items()}
    if family.normalizes:
        channels = (given["normalization/mean"].size if "normalization/mean" in given else 3,)
        expected |= {"normalization/mean": channels, "normalization/variance": channels, "normalization/count": ()}
        given.setdefault("rescaling/scale", _rescaling(given.get("normalization/variance")))
        expected["rescaling/scale"] = given["rescaling/scale"].shape
    check(model, expected, given)
    for key, slot in targets.items():
        if key not in filled:
            slot.fill(np.ones(slot.shape))
        elif family.biased and key.endswith("_bn/moving_mean"):
            slot.fill(given[key] - given[key.replace("_bn/moving_mean", "_conv/bias")])
        else:
            slot.fill(given[key].reshape(slot.shape))
    as_keras(model)
    if family.normalizes:
        features: Any = model
        features.features.layers["normalization"] = _normalization(given)


def as_keras(model: Module) -> None:
    """Set everything except the weights in which Keras's network differs from torchvision's.

    Those are static attributes of layers, `keras_names` lists them: strides, padding, constants beside variances,
    whether an average counts the padding. Inception-v3 loses its auxiliary classifier, EfficientNet takes images from
    0 to 255 by a first layer that scales them. A checkpoint stores none of this and a safetensors file not all:
    call `as_keras` on a new model before its weights are loaded from there.

    Raises:
        UserError: Keras has no such network.
    """
    family = family_of(model)
    configure(model, family.settings)
    network: Any = model
    if hasattr(model, "aux_logits"):
        network.aux_logits = None
    if family.normalizes and "normalization" not in network.features.names:
        network.features.layers["normalization"] = Normalization()
        network.features.names = ("normalization", *network.features.names)


def keras_preprocess(model: Module, images: Any) -> jax.Array:
    """Scale images as the `preprocess_input` of Keras's network does.

    Args:
        model: the network.
        images: (..., height, width, 3), red, green and blue from 0 to 255.

    Raises:
        UserError: Keras has no such network, or the images have other than three channels.
    """
    x = jnp.asarray(images)
    if x.ndim < 3 or x.shape[-1] != 3:
        raise UserError(f"expected images (..., height, width, 3), got shape {x.shape}")
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    kind = family_of(model).preprocessing
    if kind == "caffe":  # blue first, and only shifted
        return x[..., ::-1] - jnp.asarray(_CAFFE_MEAN, x.dtype)
    if kind == "tf":
        return x / 127.5 - 1
    if kind == "torch":
        return (x / 255 - jnp.asarray(MEAN, x.dtype)) / jnp.asarray(STD, x.dtype)
    return x


def _slots(model: Module) -> list[tuple[str, Slot]]:
    return [(path, slot) for path, slot in slots(model) if not path.startswith("aux_logits.")]


def _key(renames: Any, path: str, slot: Slot) -> str:
    leaf = _LEAVES[slot.name] if isinstance(slot.layer, BatchNorm) else slot.name
    return rename(f"{path}/{leaf}", renames)


def _shape(family: Family, slot: Slot) -> tuple[int, ...]:
    """The shape that Keras has; the elements have the same order."""
    layer = slot.layer
    if slot.name == "kernel" and isinstance(layer, Conv) and layer.groups > 1:  # depthwise
        return (*layer.kernel_size, layer.in_channels, layer.out_channels // layer.in_channels)
    if slot.name == "kernel" and isinstance(layer, Linear) and family.classifier_is_conv:
        return (1, 1, *slot.shape)
    return slot.shape


def _rescaling(variance: np.ndarray | None) -> np.ndarray:
    """Return the factor by which Keras multiplies images around its normalisation, which files do not store.

    The variances of its weights for ImageNet are standard deviations, so with `weights="imagenet"` Keras divides by
    their roots once more.
    """
    published = variance is not None and variance.shape == (3,) and np.allclose(variance, STD, atol=1e-4)
    return np.asarray(1 / np.sqrt(STD) if published else np.ones(1)) / 255


def _normalization(given: Mapping[str, np.ndarray]) -> Normalization:
    root = np.maximum(np.sqrt(given["normalization/variance"].astype(np.float64)), _SMALLEST_STD)
    mean = given["normalization/mean"].astype(np.float64)
    std = np.broadcast_to(root / (given["rescaling/scale"] * 255), mean.shape)
    return Normalization(tuple(map(float, mean)), tuple(map(float, std)))
