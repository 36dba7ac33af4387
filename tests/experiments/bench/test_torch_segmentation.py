"""The peers in torch of the networks for segmentation that no library has are the same networks."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from cnnjax.models.vgg import VGG
from experiments.bench import references, zoo

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
DEPTHS, WIDTHS, CLASSES = (1, 1, 1, 1, 2), (4, 5, 6, 7, 8), 3
THERE = {"depths": DEPTHS, "widths": WIDTHS}


def narrow(batch_norm, **options):
    return VGG(DEPTHS, widths=WIDTHS, batch_norm=batch_norm, **options)


NARROW = {
    "fcn8s_vgg16": (THERE | {"hidden": 5}, {"backbone": lambda **options: narrow(False, **options), "hidden": 5}),
    "segnet_vgg16": (THERE, {"backbone": lambda **options: narrow(True, **options)}),
    "unet": ({"widths": WIDTHS}, {"widths": WIDTHS}),
}


@pytest.mark.parametrize(
    "name", [name if name == "unet" else pytest.param(name, marks=pytest.mark.zoo) for name in NARROW]
)
def test_logits_are_ours_with_the_same_weights(name):
    import torch

    from experiments.bench import torch_segmentation

    there, here = NARROW[name]
    reference = references.randomised(lambda: torch_segmentation.NETWORKS[name](CLASSES, **there)).eval()
    model = nnx.eval_shape(lambda: models.create_model(name, num_classes=CLASSES, **here))
    interop.load_torch(model, reference.state_dict())
    model.eval()
    x = np.random.default_rng(0).standard_normal((1, 37, 41, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    ours = jax.jit(lambda x: model(x))(x)
    assert theirs.shape == (1, 37, 41, CLASSES)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", zoo.OWN_PEERS)
def test_parameters_are_as_many_as_ours(name):
    import torch

    from experiments.bench import torch_segmentation

    with torch.device("meta"):
        reference = torch_segmentation.NETWORKS[name]()
    ours = nnx.eval_shape(lambda: models.create_model(name))
    assert sum(parameter.numel() for parameter in reference.parameters()) == models.count_params(ours)


def test_the_main_logits_come_first_as_ours_have_them():
    """Of a network whose outputs have names, as torchvision's for segmentation, with labels for every pixel."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = torch.nn.Conv2d(3, 5, 1), torch.nn.Conv2d(3, 5, 1)

        def forward(self, x):
            return {"out": self.main(x), "aux": self.aux(x)}

    network = Network()
    images, labels = zoo._batch(zoo.networks()["fcn_resnet50"], 4)
    contender = zoo.torch_contender(network, images, labels % 5)
    kernel, bias = (value.detach().numpy().copy() for value in (network.main.weight, network.main.bias))
    np.testing.assert_allclose(contender.logits(), images @ kernel[:, :, 0, 0].T + bias, atol=1e-5)
    before = network.aux.weight.detach().clone()
    contender.calls["training"]()
    assert not torch.equal(before, network.aux.weight)
