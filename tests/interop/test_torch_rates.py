"""Constants of layers are torchvision's and timm's: rates of dropout, and those of batch normalisation."""

import functools

import pytest
from flax import nnx

from cnnjax import models
from cnnjax.interop.names import namings, rename
from cnnjax.nn import BatchNorm, Dropout, path_name
from experiments.bench import references
from tests.models.tracing import eval_shape

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
# Where the paper leaves out a share, and timm by default none.
FROM_THE_PAPER = {"xception": {"dropout": 0.5}}
NAMES = [
    name if name in references.FAMILIES else pytest.param(name, marks=pytest.mark.zoo)
    for name in models.list_models()
    if references.has_reference(name)
]


@pytest.mark.parametrize("name", NAMES)
def test_rates_of_dropout_and_stochastic_depth_are_the_reference_s(name):
    layers, theirs = _layers(name)
    ours = {path: layer.rate for path, layer in layers.items() if isinstance(layer, Dropout)}
    # torchvision's EfficientNet has a stochastic depth also where there is no shortcut, and does not use it.
    unused = {
        f"{path}.stochastic_depth" for path, module in theirs.items() if not getattr(module, "use_res_connect", True)
    }
    rates = {path: module.p for path, module in theirs.items() if hasattr(module, "p") and path not in unused}
    expected = {path: rate for path, rate in rates.items() if rate} | FROM_THE_PAPER.get(name, {})
    assert {layer: rate for layer, rate in ours.items() if rate} == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_constants_of_batch_normalisation_are_the_reference_s(name):
    layers, theirs = _layers(name)
    ours = {path: (layer.eps, layer.momentum) for path, layer in layers.items() if isinstance(layer, BatchNorm)}
    assert ours == {
        path: pytest.approx((module.eps, module.momentum))
        for path, module in theirs.items()
        if hasattr(module, "running_mean")
    }


@functools.cache
def _layers(name):
    """Return the layers here and there by the reference's names."""
    import torch

    model = eval_shape(lambda: models.create_model(name))
    renames = namings(model)[0].renames
    with torch.device("meta"):
        reference = references.create(name)
    layers = {rename(f"{path_name(path)}.", renames)[:-1]: layer for path, layer in nnx.iter_modules(model)}
    return layers, dict(reference.named_modules())
