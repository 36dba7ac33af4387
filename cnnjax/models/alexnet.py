"""AlexNet, whose win on ImageNet in 2012 began the field's turn to deep networks, as torchvision has it.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014): a single column, without the local
response normalisation and the two groups of Krizhevsky, Sutskever & Hinton (2012).
"""

from functools import partial

import jax
from flax import nnx

from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import Activation, AdaptiveAvgPool, Conv, Dropout, Linear, MaxPool, Module, Sequential


@register("alexnet", reference="torchvision")
class AlexNet(Module):
    """Five convolutions with three overlapping poolings, and three fully connected layers.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images, at least 63x63 pixels.
        dropout: share left out before the first two fully connected layers.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.6",)

    def __init__(self, *, num_classes: int, in_channels: int, dropout: float = 0.5, rngs: nnx.Rngs):
        conv, linear = partial(Conv, rngs=rngs), partial(Linear, rngs=rngs)
        self.features = Sequential(
            conv(in_channels, 64, 11, 4, 2),
            Activation(nnx.relu),
            MaxPool(3, 2),
            conv(64, 192, 5, padding=2),
            Activation(nnx.relu),
            MaxPool(3, 2),
            conv(192, 384, 3, padding=1),
            Activation(nnx.relu),
            conv(384, 256, 3, padding=1),
            Activation(nnx.relu),
            conv(256, 256, 3, padding=1),
            Activation(nnx.relu),
            MaxPool(3, 2),
        )
        self.avgpool = AdaptiveAvgPool(6)
        self.classifier = Sequential(
            Dropout(dropout, rngs=rngs),
            linear((6, 6, 256), 4096),
            Activation(nnx.relu),
            Dropout(dropout, rngs=rngs),
            linear(4096, 4096),
            Activation(nnx.relu),
            linear(4096, num_classes),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 63)
        return self.classifier(self.avgpool(self.features(x)))
