"""Networks for segmentation that no library has compute what their papers draw, in a few lines of torch.

With the same random weights, in training (with batch statistics) and without dropout: logits and their gradient by the
images. Images are of a size that no stride divides.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from cnnjax.models.vgg import VGG
from experiments.bench import references

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
CLASSES, DEPTHS, WIDTHS = 3, (1, 1, 2, 2, 2), (4, 5, 6, 7, 8)
SIZE = (37, 41)


def narrow(*, batch_norm=False, **options):
    return VGG(DEPTHS, widths=WIDTHS, batch_norm=batch_norm, **options)


def narrow_bn(**options):
    return narrow(batch_norm=True, **options)


class Net:
    """Layers with a network's weights, by torch's names."""

    def __init__(self, state):
        import torch

        self.F = torch.nn.functional
        self.state = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}

    def conv(self, name, x, **options):
        weight = self.state[f"{name}.weight"]
        options = {"padding": weight.shape[2] // 2 * options.get("dilation", 1)} | options
        return self.F.conv2d(x, weight, self.state.get(f"{name}.bias"), **options)

    def norm(self, name, x):
        return self.F.batch_norm(x, None, None, self.state[f"{name}.weight"], self.state[f"{name}.bias"], True)

    def up(self, name, x, stride):
        weight = self.state[f"{name}.weight"]
        padding = (weight.shape[2] - stride) // 2
        return self.F.conv_transpose2d(x, weight, self.state.get(f"{name}.bias"), stride, padding)

    def pad(self, x, stride):
        return self.F.pad(x, (0, -x.shape[3] % stride, 0, -x.shape[2] % stride))

    def vgg(self, x, kept_poolings=5):
        """Yield the maps after each of the five stages; without a pooling, later convolutions are dilated."""
        number, rate = 0, 1
        for stage, depth in enumerate(DEPTHS):
            for _ in range(depth):
                x = self.conv(f"backbone.{number}", x, dilation=rate).relu()
                number += 2
            x = self.F.max_pool2d(x, 2) if stage < kept_poolings else x
            rate *= 1 if stage < kept_poolings else 2
            number += 1
            yield x

    def fully_connected(self, x, rate=1):
        x = self.conv("fully_connected.fc6", x, dilation=rate).relu()
        return self.conv("fully_connected.fc7", x).relu()


def fcn8s(net, x):
    *_, pool3, pool4, pool5 = net.vgg(net.pad(x, 32))
    logits = net.conv("score", net.fully_connected(pool5))
    logits = net.up("upscores.0", logits, 2) + net.conv("skips.0", pool4)
    logits = net.up("upscores.1", logits, 2) + net.conv("skips.1", pool3)
    return net.up("upscores.2", logits, 8)


def fcn16s(net, x):
    *_, pool4, pool5 = net.vgg(net.pad(x, 32))
    logits = net.conv("score", net.fully_connected(pool5))
    return net.up("upscores.1", net.up("upscores.0", logits, 2) + net.conv("skips.0", pool4), 16)


def fcn32s(net, x):
    *_, pool5 = net.vgg(net.pad(x, 32))
    return net.up("upscores.0", net.conv("score", net.fully_connected(pool5)), 32)


def dilated(net, x):
    *_, x = net.vgg(net.pad(x, 8), kept_poolings=3)
    x = net.conv("final", net.fully_connected(x, rate=4))
    for number, rate in enumerate((1, 1, 2, 4, 8, 16, 1)):
        x = net.conv(f"context.{2 * number}", x, dilation=rate).relu()
    return net.F.interpolate(net.conv("context.14", x), scale_factor=8, mode="bilinear")


def segnet(net, x):
    x, number, switches = net.pad(x, 32), 0, []
    for depth in DEPTHS:
        for _ in range(depth):
            x = net.norm(f"backbone.{number + 1}", net.conv(f"backbone.{number}", x)).relu()
            number += 3
        x, indices = net.F.max_pool2d(x, 2, return_indices=True)
        switches.append(indices)
        number += 1
    for stage, depth in enumerate(reversed(DEPTHS)):
        x = net.F.max_unpool2d(x, switches.pop(), 2)
        for layer in range(depth):
            x = net.conv(f"decoder.{stage}.{3 * layer}", x)
            if (stage, layer) != (4, 0):
                x = net.norm(f"decoder.{stage}.{3 * layer + 1}", x).relu()
    return x


def unet(net, x, padding=1):
    skips = []
    if padding:
        x = net.pad(x, 4)
    else:  # so that 4n - 12 >= size of the 4n + 28 pixels remain
        sides = [(20, 20 + (-(size + 12)) % 4) for size in x.shape[2:]]
        x = net.F.pad(x, (*sides[1], *sides[0]), mode="reflect")
    for level in range(3):
        for layer in (0, 2):
            x = net.conv(f"down.{level}.{layer}", x, padding=padding).relu()
        skips.append(x)
        x = net.F.max_pool2d(x, 2) if level < 2 else x
    for level in range(2):
        x = net.up(f"up.{level}", x, 2)
        skip = skips[1 - level]
        cut = [(skip.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3)]
        skip = skip[:, :, cut[0] : cut[0] + x.shape[2], cut[1] : cut[1] + x.shape[3]]
        x = _cat(skip, x)
        for layer in (0, 2):
            x = net.conv(f"merge.{level}.{layer}", x, padding=padding).relu()
    return net.conv("score", x)


def unpadded_unet(net, x):
    return unet(net, x, padding=0)


def backbone_unet(net, x):
    """Its backbone is VGG with batch normalisation, whose poolings end the strides."""
    x, number, maps = net.pad(x, 32), 0, []
    for depth in DEPTHS:
        for _ in range(depth):
            x = net.norm(f"backbone.{number + 1}", net.conv(f"backbone.{number}", x)).relu()
            number += 3
        x = net.F.max_pool2d(x, 2)
        maps.append(x)
        number += 1
    for level, skip in enumerate((*reversed(maps[:-1]), None)):
        x = net.up(f"up.{level}", x, 2)
        x = x if skip is None else _cat(skip, x)
        for layer in range(2):
            x = net.norm(f"merge.{level}.{layer}.1", net.conv(f"merge.{level}.{layer}.0", x)).relu()
    return net.conv("score", x)


def _cat(*parts):
    import torch

    return torch.cat(parts, 1)


NETWORKS = {
    "fcn32s_vgg16": (fcn32s, {"backbone": narrow, "hidden": 5, "dropout": 0.0}),
    "fcn16s_vgg16": (fcn16s, {"backbone": narrow, "hidden": 5, "dropout": 0.0}),
    "fcn8s_vgg16": (fcn8s, {"backbone": narrow, "hidden": 5, "dropout": 0.0}),
    "dilatednet_vgg16": (dilated, {"backbone": narrow, "hidden": 5, "dropout": 0.0}),
    "segnet_vgg16": (segnet, {"backbone": narrow_bn}),
    "unet": (unet, {"widths": (4, 5, 6)}),
    "unet unpadded": (unpadded_unet, {"widths": (4, 5, 6), "padded": False}),
    "unet backbone": (backbone_unet, {"backbone": narrow_bn, "widths": (8, 7, 6, 5, 4)}),
}
SIMILAR = ("fcn32s_vgg16", "fcn16s_vgg16")  # with fewer skips than FCN-8s


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.zoo) if n in SIMILAR else n for n in NETWORKS])
def test_logits_and_gradients_are_those_of_the_network_in_torch(name):
    import torch

    reference, options = NETWORKS[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        model = models.create_model(name.split()[0], num_classes=CLASSES, **options)
        params = nnx.to_flat_state(nnx.state(model, nnx.Param))
        for path, variable in params:
            shape = variable.get_value().shape
            spread = np.sqrt(2 / np.prod(shape[:-1])) if path[-1] == "kernel" else 0.2
            variable.set_value(rng.standard_normal(shape) * spread + (path[-1] == "scale"))
        graphdef, state, rest = nnx.split(model, nnx.Param, ...)
        state = nnx.from_flat_state(params)
        x, cotangent = rng.standard_normal((2, *SIZE, 3)), rng.standard_normal((2, *SIZE, CLASSES))
        ours, pull = jax.vjp(jax.jit(lambda x: nnx.merge(graphdef, state, rest, copy=True)(x)), x)
        (slope,) = pull(cotangent)
        exported = interop.to_torch(nnx.merge(graphdef, state, rest, copy=True))
    images = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    theirs = reference(Net(exported), images)[:, :, : SIZE[0], : SIZE[1]].permute(0, 2, 3, 1)
    theirs.backward(torch.from_numpy(cotangent))
    expected = theirs.detach().numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    expected = images.grad.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
