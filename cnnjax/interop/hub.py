"""Trained weights from the Hugging Face hub, with the preprocessing that they were evaluated with.

The repositories are timm's; sizes, crops, interpolation, means and deviations are those of its published
configurations (timm 1.0, `timm.models.get_pretrained_cfg`), which also name the origin of the weights.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from cnnjax.errors import UserError, unknown_name
from cnnjax.interop.preprocess import Preprocess
from cnnjax.interop.safetensors import load_safetensors
from cnnjax.interop.slots import Setting, configure
from cnnjax.models import create_model, list_models
from cnnjax.nn import BatchNorm, Conv, Module

FILE = "model.safetensors"
_HALF = (0.5, 0.5, 0.5)  # as mean and deviation: to [-1, 1]
_TENSORFLOW = (Setting(BatchNorm, {"eps": 1e-3}), Setting(Conv, {"padding": "SAME"}))


class Weights(NamedTuple):
    """Where weights are stored, the preprocessing they expect, and the settings in which their network differs."""

    repository: str
    preprocess: Preprocess
    settings: tuple[Setting, ...] = ()


class Pretrained(NamedTuple):
    """A network with trained weights, in evaluation.

    `model(preprocess(images))` are logits of ImageNet's 1,000 classes.

    Attributes:
        model: the network.
        preprocess: from images (batch, height, width, 3) of any size to what the network takes.
        repository: where the weights come from.
    """

    model: Module
    preprocess: Preprocess
    repository: str


def _torchvision(names: str, preprocess: Preprocess) -> dict[str, Weights]:
    return {name: Weights(f"timm/{name}.tv_in1k", preprocess) for name in names.split()}


WEIGHTS: dict[str, Weights] = {
    **_torchvision(
        "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 "
        "vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn",
        Preprocess(224, interpolation="bilinear"),
    ),
    **_torchvision("densenet121 densenet161 densenet169 densenet201", Preprocess(224)),
    **_torchvision("inception_v3", Preprocess(299, mean=_HALF, std=_HALF)),
    "mobilenet_v1": Weights("timm/mobilenetv1_100.ra4_e3600_r224_in1k", Preprocess(224, mean=_HALF, std=_HALF)),
    "mobilenet_v2": Weights("timm/mobilenetv2_100.ra_in1k", Preprocess(224)),
    "mobilenet_v3_small": Weights("timm/mobilenetv3_small_100.lamb_in1k", Preprocess(224)),
    "mobilenet_v3_large": Weights("timm/mobilenetv3_large_100.ra_in1k", Preprocess(224)),
    "mnasnet": Weights("timm/mnasnet_100.rmsp_in1k", Preprocess(224)),
    "efficientnet_b0": Weights("timm/efficientnet_b0.ra_in1k", Preprocess(224)),
    "efficientnet_b1": Weights("timm/efficientnet_b1.ft_in1k", Preprocess(224)),
    "efficientnet_b2": Weights("timm/efficientnet_b2.ra_in1k", Preprocess(256)),
    "efficientnet_b3": Weights("timm/efficientnet_b3.ra2_in1k", Preprocess(288)),
    "efficientnet_b4": Weights("timm/efficientnet_b4.ra2_in1k", Preprocess(320)),
    "efficientnet_b5": Weights("timm/tf_efficientnet_b5.ra_in1k", Preprocess(456, 0.934), _TENSORFLOW),
    "efficientnet_b6": Weights("timm/tf_efficientnet_b6.aa_in1k", Preprocess(528, 0.942), _TENSORFLOW),
    "efficientnet_b7": Weights("timm/tf_efficientnet_b7.ra_in1k", Preprocess(600, 0.949), _TENSORFLOW),
    "efficientnet_v2_s": Weights(
        "timm/tf_efficientnetv2_s.in1k", Preprocess(300, 1.0, mean=_HALF, std=_HALF), _TENSORFLOW
    ),
    "convnext_tiny": Weights("timm/convnext_tiny.fb_in1k", Preprocess(224)),
}


def from_pretrained(name: str, *, file: str | Path | None = None, **overrides: Any) -> Pretrained:
    """Build a network with weights trained on ImageNet, which `huggingface_hub` downloads once and caches.

    Args:
        name: one of `models.list_models()` that has weights; an error lists or suggests them.
        file: the repository's `model.safetensors` on this machine, for use without a network.
        **overrides: as `models.create_model`.

    Raises:
        UserError: there is no such network, no weights for it, no `huggingface_hub`, or the download fails.
        ValueError: the weights do not fit, e.g. with another `num_classes`.
    """
    if name not in list_models():
        raise unknown_name("model", name, WEIGHTS)
    if name not in WEIGHTS:
        raise UserError(
            f"from_pretrained knows no weights for {name!r} on the hub, but for {', '.join(sorted(WEIGHTS))}; a .pth "
            "file of torchvision or timm is read by load_pth"
        )
    weights = WEIGHTS[name]
    path = fetch(weights.repository) if file is None else Path(file)
    model = without_values(name, overrides)
    load_safetensors(model, path)
    configure(model, weights.settings)
    model.eval()
    return Pretrained(model, weights.preprocess, weights.repository)


def without_values(name: str, overrides: dict[str, Any]) -> Module:
    """Build a network with random keys but without initial parameters, which the weights replace."""
    model: Module = nnx.eval_shape(lambda: create_model(name, **overrides))
    keys = jax.jit(lambda: nnx.state(create_model(name, **overrides), nnx.RngState))()
    nnx.update(model, keys)
    return model


def fetch(repository: str) -> Path:
    """Return the path of a repository's weights in the local cache; download them if necessary.

    Raises:
        UserError: `huggingface_hub` is not installed, or does not get the file.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            f"fetching {repository} needs huggingface_hub: pip install huggingface_hub, or cnnjax with its extra 'hub' "
            f"({error})"
        ) from None
    try:
        return Path(hf_hub_download(repository, FILE))
    except Exception as error:  # of several libraries
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}".rstrip(": ")
        raise UserError(
            f"the Hugging Face hub gave no {FILE} of {repository} ({reason}): is there a network? A file that is "
            "already here is read, too (`file=PATH` in Python)"
        ) from error
