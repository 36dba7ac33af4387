"""The published networks of torchvision and timm, with random weights and statistics, where both are installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from cnnjax.models import registry

# One or two of each family, which are compared where comparing all would take too long.
FAMILIES = [
    "alexnet",
    "vgg11_bn",
    "googlenet",
    "inception_v3",
    "resnet18",
    "densenet121",
    "xception",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "mnasnet",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "convnext_tiny",
]
SIZES = {"inception_v3": 75}  # of images, where 64 is too small
# Where torchvision warns unless it is told whether to begin with the published initial values.
OPTIONS: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": True}, "inception_v3": {"init_weights": True}}
# Without a download, and with the auxiliary heads that its published weights have.
SEGMENTATION = registry.list_models(task="segmentation")
OPTIONS |= {name: {"weights_backbone": None, "aux_loss": not name.startswith("lraspp")} for name in SEGMENTATION}


def has_reference(name: str) -> bool:
    """Return whether torchvision or timm has the network; the others are compared with their papers in tests/models."""
    return registry.lookup(name).reference is not None


def installed() -> bool:
    """Return whether torch, torchvision and timm are there."""
    return all(map(find_spec, ("torch", "torchvision", "timm")))


def build(name: str, **options: Any) -> Any:
    """Return a torch module with random parameters and running statistics; the same ones every time."""
    return randomised(lambda: create(name, **options))


def randomised(create: Callable[[], Any]) -> Any:
    """Return the torch module that a function creates, with random values in the place of its initial ones."""
    import torch

    with torch.device("meta"):  # their own initial values take longer than the rest of a test
        model = create()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
                parameter.normal_(0, (2 / fan_in) ** 0.5)
            if hasattr(module, "running_mean"):  # far from 0 and 1, close enough to keep 200 layers tame
                module.weight.uniform_(0.8, 1.25)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.25)
                module.num_batches_tracked.zero_()
        for module in model.modules():
            if getattr(module, "use_res_connect", False):  # the sum over fifty such blocks would explode
                last = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)][-1]
                last.weight.mul_(0.2)
    return model


def create(name: str, **options: Any) -> Any:
    """Return the reference of a network, or timm's network "timm/NAME", as a torch module with its initial values."""
    from experiments.bench import torchvision_without_ops  # noqa: F401

    reference = name if "/" in name else registry.lookup(name).reference or f"torchvision/{name}"
    library, name = reference.split("/")
    if library == "timm":
        import timm

        return timm.create_model(name, **options)
    from torchvision import models

    return models.get_model(name, **OPTIONS.get(name, {}), **options)


def images(name: str, batch: int = 2) -> np.ndarray:
    """Return random images NHWC of a size that the network takes."""
    size = SIZES.get(name, 64)
    return np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)
