"""ZFNet: AlexNet with a finer first layer, found by looking at what the layers respond to.

Zeiler & Fergus, "Visualizing and understanding convolutional networks" (2013), figure 3.
"""

from functools import partial

import jax
from flax import nnx

from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import Activation, AdaptiveAvgPool, Conv, Dropout, Linear, LocalResponseNorm, MaxPool, Module, Sequential


@register("zfnet")
class ZFNet(Module):
    """Five convolutions, the first 7x7 with stride 2, three poolings, and three fully connected layers.

    Feature maps of 224x224 images: 110x110x96, pooled to 55x55; 26x26x256, pooled to 13x13; three of 13x13, pooled to
    6x6x256. Those sizes follow when poolings round up, as those of the time did.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images, at least 63x63 pixels.
        dropout: share left out before the last two fully connected layers.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.6",)

    def __init__(self, *, num_classes: int, in_channels: int, dropout: float = 0.5, rngs: nnx.Rngs):
        conv, linear = partial(Conv, init="normal_0.01", rngs=rngs), partial(Linear, init="normal_0.01", rngs=rngs)
        self.features = Sequential(
            conv(in_channels, 96, 7, 2, 1),
            Activation(nnx.relu),
            MaxPool(3, 2, ceil_mode=True),
            _contrast_norm(),
            conv(96, 256, 5, 2),
            Activation(nnx.relu),
            MaxPool(3, 2, ceil_mode=True),
            _contrast_norm(),
            conv(256, 384, 3, padding=1),
            Activation(nnx.relu),
            conv(384, 384, 3, padding=1),
            Activation(nnx.relu),
            conv(384, 256, 3, padding=1),
            Activation(nnx.relu),
            MaxPool(3, 2, ceil_mode=True),
        )
        self.avgpool = AdaptiveAvgPool(6)
        self.classifier = Sequential(
            linear((6, 6, 256), 4096),
            Activation(nnx.relu),
            Dropout(dropout, rngs=rngs),
            linear(4096, 4096),
            Activation(nnx.relu),
            Dropout(dropout, rngs=rngs),
            linear(4096, num_classes),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 63)
        return self.classifier(self.avgpool(self.features(x)))


def _contrast_norm() -> LocalResponseNorm:
    """Contrast across feature maps, with AlexNet's constants, whose alpha is not divided by the size as torch's is."""
    return LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)
