"""Weights under timm's own names, where they are others than torchvision's.

In float64: with random weights, networks with excitations amplify the rounding of float32 too much.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from experiments.bench import references

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
NAMES = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mnasnet": "mnasnet_100",
    "efficientnet_b1": "efficientnet_b1",
    "efficientnet_v2_s": "efficientnetv2_s",
    "convnext_tiny": "convnext_tiny",
}


@pytest.mark.parametrize("name", NAMES)
def test_eval_logits_are_timm_s(name):
    import torch

    reference = references.build(f"timm/{NAMES[name]}").eval().double()
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3))
    with torch.no_grad():
        expected = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: models.create_model(name))
        interop.load_torch(model, reference.state_dict())
        model.eval()
        graphdef, state = nnx.split(model)
        ours = np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))
    assert np.abs(ours - expected).max() <= 1e-6 * np.abs(expected).max()


def test_vgg_s_hidden_layers_are_timm_s_convolutions():
    """Compared as arrays, for in float64 the network takes a gigabyte."""
    import torch

    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in references.create("timm/vgg11").state_dict().items()}
    state = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    weight = np.arange(4096 * 512 * 49, dtype=np.float32).reshape(4096, 512, 7, 7)
    state["pre_logits.fc1.weight"] = weight
    model = nnx.eval_shape(lambda: models.create_model("vgg11"))
    interop.load_torch(model, state)
    rows_columns_channels = model.classifier[0].kernel[...].reshape(7, 7, 512, 4096)
    np.testing.assert_array_equal(rows_columns_channels, weight.transpose(2, 3, 1, 0))


def test_a_missing_key_is_named_as_timm_has_it():
    state = references.build("timm/mobilenetv2_100").state_dict()
    del state["blocks.3.1.conv_pwl.weight"]
    with pytest.raises(ValueError, match=r"missing: blocks\.3\.1\.conv_pwl\.weight$"):
        interop.load_torch(nnx.eval_shape(lambda: models.create_model("mobilenet_v2")), state)
