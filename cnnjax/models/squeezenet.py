"""SqueezeNet: 1x1 convolutions squeeze the channels before 1x1 and 3x3 convolutions expand them.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and < 0.5 MB model size" (2016); version
1.1 of the authors pools earlier and needs 2.4 times fewer multiply-adds.
"""

from collections.abc import Container
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import Activation, Conv, Dropout, GlobalAvgPool, MaxPool, Module, Sequential

# Channels of the squeezing convolution and of each expanding one.
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))

conv = partial(Conv, init="he_uniform")


class Fire(Module):
    """A 1x1 convolution to few channels, then a 1x1 and a 3x3 convolution side by side, each with ReLU.

    Args:
        in_channels: of the input.
        squeezed: channels of the first convolution.
        expanded: channels of each of the other two.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, squeezed: int, expanded: int, *, rngs: nnx.Rngs):
        self.squeeze = conv(in_channels, squeezed, 1, rngs=rngs)
        self.expand1x1 = conv(squeezed, expanded, 1, rngs=rngs)
        self.expand3x3 = conv(squeezed, expanded, 3, padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1))


class SqueezeNet(Module):
    """A convolution, eight fire modules with poolings between, and a 1x1 convolution to a map for each class.

    Args:
        stem: channels of the first convolution.
        stem_kernel: its size.
        pooled: fire modules with a pooling before them, counted from 0.
        smallest: smallest height and width of the images for which every pooling fits.
        num_classes: number of logits.
        in_channels: channels of the images.
        dropout: share left out before the last convolution.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.1",)

    def __init__(
        self,
        stem: int,
        stem_kernel: int,
        pooled: Container[int],
        smallest: int,
        *,
        num_classes: int,
        in_channels: int,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        self.smallest = smallest
        layers: list[Module] = [conv(in_channels, stem, stem_kernel, 2, rngs=rngs), Activation(nnx.relu)]
        channels = stem
        for index, (squeezed, expanded) in enumerate(FIRES):
            if index in pooled:
                layers.append(MaxPool(3, 2, ceil_mode=True))
            layers.append(Fire(channels, squeezed, expanded, rngs=rngs))
            channels = 2 * expanded
        self.features = Sequential(*layers)
        self.classifier = Sequential(
            Dropout(dropout, rngs=rngs),
            Conv(channels, num_classes, 1, init="normal_0.01", rngs=rngs),
            Activation(nnx.relu),
            GlobalAvgPool(),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, self.smallest)
        return self.classifier(self.features(x))


VARIANTS = {
    "squeezenet1_0": partial(SqueezeNet, 96, 7, (0, 3, 7), 21),
    "squeezenet1_1": partial(SqueezeNet, 64, 3, (0, 2, 4), 17),
}
for name, build in VARIANTS.items():
    register(name, reference="torchvision")(build)
