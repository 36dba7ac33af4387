"""VGG: stacks of 3x3 convolutions between poolings, and three fully connected layers.

Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition" (2014): configurations A, B,
D and E, each with batch normalisation too.
"""

from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx

from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import Activation, AdaptiveAvgPool, BatchNorm, Conv, Dropout, Linear, MaxPool, Module, Sequential

WIDTHS = (64, 128, 256, 512, 512)  # channels of the convolutions before each pooling
# Convolutions in each group.
DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


class VGG(Module):
    """Five groups of 3x3 convolutions, each with a pooling, and a classifier of three fully connected layers.

    Args:
        depths: convolutions of each group.
        num_classes: number of logits.
        in_channels: channels of the images, at least 32x32 pixels.
        batch_norm: whether a batch normalisation follows each convolution.
        dropout: share left out before the last two fully connected layers.
        widths: channels of the convolutions of each group.
        hidden: features of the first two fully connected layers.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.6",)

    def __init__(
        self,
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        batch_norm: bool = False,
        dropout: float = 0.5,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 4096,
        rngs: nnx.Rngs,
    ):
        layers: list[Module] = []
        channels = in_channels
        for width, depth in zip(widths, depths, strict=True):
            for _ in range(depth):
                layers.append(Conv(channels, width, 3, padding=1, init="he_normal_fan_out", rngs=rngs))
                layers += [BatchNorm(width)] if batch_norm else []
                layers.append(Activation(nnx.relu))
                channels = width
            layers.append(MaxPool(2))
        self.features = Sequential(*layers)
        self.avgpool = AdaptiveAvgPool(7)
        linear = partial(Linear, init="normal_0.01", rngs=rngs)
        self.classifier = Sequential(
            linear((7, 7, channels), hidden),
            Activation(nnx.relu),
            Dropout(dropout, rngs=rngs),
            linear(hidden, hidden),
            Activation(nnx.relu),
            Dropout(dropout, rngs=rngs),
            linear(hidden, num_classes),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 32)  # a pixel after five poolings
        return self.classifier(self.avgpool(self.features(x)))


for name, depths in DEPTHS.items():
    register(name, reference="torchvision")(partial(VGG, depths))
    register(f"{name}_bn", reference="torchvision")(partial(VGG, depths, batch_norm=True))

# A narrow one without classifier, the backbone of small networks for segmentation.
TINY = partial(VGG, (1, 1, 2, 2, 2), widths=(16, 32, 64, 96, 128), batch_norm=True)
