"""DenseNet: every layer sees the feature maps of all layers before it and adds a few of its own.

Huang, Liu, van der Maaten & Weinberger, "Densely connected convolutional networks" (2016): the networks with bottleneck
layers and compression (DenseNet-BC), for ImageNet as torchvision has them, and for CIFAR.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import Activation, AvgPool, BatchNorm, Conv, Dropout, GlobalAvgPool, Linear, MaxPool, Module, Sequential
from cnnjax.ops.cpu.fusion import stored_on_cpu

SMALLEST = {"imagenet": 29, "cifar": 4}  # images, by stem
BOTTLENECK = 4  # channels of a layer's 1x1 convolution, in growth rates

conv = partial(Conv, bias=False, init="he_normal_fan_in")


class DenseLayer(Module):
    """Normalisation, ReLU and convolution, 1x1 and then 3x3: `growth_rate` new feature maps.

    Args:
        in_channels: of the input.
        growth_rate: channels of the output.
        dropout: share of the output left out.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, growth_rate: int, dropout: float, *, rngs: nnx.Rngs):
        inner = BOTTLENECK * growth_rate
        self.norm1 = BatchNorm(in_channels)
        self.conv1 = conv(in_channels, inner, 1, rngs=rngs)
        self.norm2 = BatchNorm(inner)
        self.conv2 = conv(inner, growth_rate, 3, padding=1, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv1(nnx.relu(self.norm1(x)))
        return self.dropout(self.conv2(nnx.relu(self.norm2(x))))


class DenseBlock(Sequential):
    """Layers that each append their output's channels to their input's."""

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self:
            # Stored, because XLA:CPU otherwise repeats the concatenation in every kernel that reads it: densenet121's
            # training step took a tenth longer, and densenet201's took 65 s to compile instead of 54.
            x = stored_on_cpu(lambda *parts: jnp.concatenate(parts, axis=-1), x, layer(x))
        return x


class DenseNet(Module):
    """A convolution, blocks of dense layers with transitions that halve channels and size, and a linear classifier.

    Args:
        growth_rate: channels that each layer adds.
        depths: layers of each block.
        num_classes: number of logits.
        in_channels: channels of the images.
        stem: "imagenet", a 7x7 convolution with stride 2 and a pooling; "cifar", a 3x3 convolution. Both have twice as
            many channels as a layer.
        dropout: share of each layer's output left out; the paper uses 0.2 on CIFAR without augmentation.
        rngs: source of the initial parameters.

    Raises:
        UserError: an unknown stem.
    """

    heads = ("classifier",)

    def __init__(
        self,
        growth_rate: int,
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        stem: str = "imagenet",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        if stem not in SMALLEST:
            raise UserError(f"stem must be one of {', '.join(SMALLEST)}, got {stem!r}")
        self.smallest = SMALLEST[stem]
        channels = 2 * growth_rate
        if stem == "imagenet":
            layers: dict[str, Module] = {
                "conv0": conv(in_channels, channels, 7, 2, 3, rngs=rngs),
                "norm0": BatchNorm(channels),
                "relu0": Activation(nnx.relu),
                "pool0": MaxPool(3, 2, 1),
            }
        else:
            layers = {"conv0": conv(in_channels, channels, 3, padding=1, rngs=rngs)}
        for block, depth in enumerate(depths, 1):
            if block > 1:
                layers[f"transition{block - 1}"] = Sequential(
                    norm=BatchNorm(channels),
                    relu=Activation(nnx.relu),
                    conv=conv(channels, channels // 2, 1, rngs=rngs),
                    pool=AvgPool(2),
                )
                channels //= 2
            dense = {}
            for layer in range(1, depth + 1):
                dense[f"denselayer{layer}"] = DenseLayer(channels, growth_rate, dropout, rngs=rngs)
                channels += growth_rate
            layers[f"denseblock{block}"] = DenseBlock(**dense)
        layers["norm5"] = BatchNorm(channels)
        self.features = Sequential(**layers)
        self.avgpool = GlobalAvgPool()
        self.classifier = Linear(channels, num_classes, init="torch_zero_bias", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, self.smallest)
        return self.classifier(self.avgpool(nnx.relu(self.features(x))))


register("densenet121", reference="torchvision")(partial(DenseNet, 32, (6, 12, 24, 16)))
register("densenet161", reference="torchvision")(partial(DenseNet, 48, (6, 12, 36, 24)))
register("densenet169", reference="torchvision")(partial(DenseNet, 32, (6, 12, 32, 32)))
register("densenet201", reference="torchvision")(partial(DenseNet, 32, (6, 12, 48, 32)))
register("densenet_bc_100_12")(partial(DenseNet, 12, (16, 16, 16), stem="cifar"))
