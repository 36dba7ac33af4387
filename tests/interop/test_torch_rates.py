"""What networks leave out in training is what torchvision's and timm's leave out: each rate, at its layer."""

import pytest
from flax import nnx

from cnnjax import models
from cnnjax.nn import Dropout, path_name
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
    model = eval_shape(lambda: models.create_model(name))
    ours = {path_name(path): layer.rate for path, layer in nnx.iter_modules(model) if isinstance(layer, Dropout)}
    theirs = _reference_rates(name) | FROM_THE_PAPER.get(name, {})
    assert {layer: rate for layer, rate in ours.items() if rate} == pytest.approx(theirs)


def _reference_rates(name):
    import torch

    with torch.device("meta"):
        reference = references.create(name)
    # torchvision's EfficientNet has a stochastic depth also where there is no shortcut, and does not use it.
    unused = {
        f"{path}.stochastic_depth"
        for path, module in reference.named_modules()
        if not getattr(module, "use_res_connect", True)
    }
    rates = {path: module.p for path, module in reference.named_modules() if hasattr(module, "p")}
    return {path: rate for path, rate in rates.items() if rate and path not in unused}
