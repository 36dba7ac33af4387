"""Architectures by the names that users know them by."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from cnnjax.errors import unknown_name
from cnnjax.models import (
    alexnet,
    all_cnn,
    autoencoder,
    convnext,
    densenet,
    efficientnet,
    fractalnet,
    googlenet,
    inception,
    lecture,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    resnet_cifar,
    shufflenet_v1,
    shufflenet_v2,
    squeezenet,
    vgg,
    vgg_attention,
    xception,
    zfnet,
)
from cnnjax.models.features import features
from cnnjax.models.googlenet import WithAuxiliary
from cnnjax.models.heads import replace_head
from cnnjax.models.lecture import LectureCNN, LectureFCN
from cnnjax.models.summary import LayerRow, count_params, layer_rows, summary
from cnnjax.nn import Module
from cnnjax.ops.arguments import integer

__all__ = [
    "LayerRow",
    "LectureCNN",
    "LectureFCN",
    "Module",
    "WithAuxiliary",
    "count_params",
    "create_model",
    "features",
    "layer_rows",
    "list_models",
    "replace_head",
    "summary",
]

_MODELS: dict[str, Callable[..., Module]] = {
    **lecture.MODELS,
    **alexnet.MODELS,
    **zfnet.MODELS,
    **vgg.MODELS,
    **vgg_attention.MODELS,
    **all_cnn.MODELS,
    **googlenet.MODELS,
    **inception.MODELS,
    **xception.MODELS,
    **resnet.MODELS,
    **resnet_cifar.MODELS,
    **densenet.MODELS,
    **fractalnet.MODELS,
    **autoencoder.MODELS,
    **squeezenet.MODELS,
    **mobilenet_v1.MODELS,
    **mobilenet_v2.MODELS,
    **mobilenet_v3.MODELS,
    **shufflenet_v1.MODELS,
    **shufflenet_v2.MODELS,
    **mnasnet.MODELS,
    **efficientnet.MODELS,
    **convnext.MODELS,
}


def list_models() -> list[str]:
    """Return the sorted names that `create_model` knows."""
    return sorted(_MODELS)


def create_model(
    name: str, *, num_classes: int = 1000, in_channels: int = 3, seed: int = 0, **overrides: Any
) -> Module:
    """Build a network with freshly initialised parameters, in training mode.

    Args:
        name: one of `list_models()`.
        num_classes: number of logits.
        in_channels: channels of the images.
        seed: of the initial parameters and of dropout.
        **overrides: further arguments of the architecture, e.g. `image_size=64`.

    Returns:
        A module that maps images (batch, height, width, in_channels), normalised as its reference does, to raw logits
        (batch, num_classes), autoencoders to images. `model.eval()` and `model.train()` switch dropout and batch
        statistics; in training, networks with auxiliary classifiers return `WithAuxiliary`.

    Raises:
        ValueError: unknown name (the nearest one is suggested), or an argument out of range.
        TypeError: the architecture has no such override.
    """
    if name not in _MODELS:
        raise unknown_name("model", name, list_models())
    integer("num_classes", num_classes, 1)
    integer("in_channels", in_channels, 1)
    return _MODELS[name](num_classes=num_classes, in_channels=in_channels, rngs=nnx.Rngs(seed), **overrides)
