"""All-CNN: nothing but convolutions, with strides instead of poolings and global averages instead of dense layers.

Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for simplicity: the all convolutional net" (2014), tables 1 and
2: the networks derived from its models A, B and C.
"""

from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx

from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import Activation, Conv, Dropout, GlobalAvgPool, Module, Sequential

# Channels, kernel and stride of the convolutions before the last three, which all have in common.
CONVOLUTIONS = {
    "a": ((96, 5, 1), (96, 3, 2), (192, 5, 1), (192, 3, 2)),
    "b": ((96, 5, 1), (96, 1, 1), (96, 3, 2), (192, 5, 1), (192, 1, 1), (192, 3, 2)),
    "c": ((96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2)),
}


class AllCNN(Module):
    """Convolutions with ReLU, the last with a channel for each class, and global averages.

    Args:
        convolutions: channels, kernel and stride of all but the last three, padded to keep the size at stride 1.
        num_classes: number of logits.
        in_channels: channels of the images, at least 9x9 pixels.
        input_dropout: share of the images left out.
        dropout: share left out after each convolution that stands for a pooling.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.0",)

    def __init__(
        self,
        convolutions: Sequence[tuple[int, int, int]],
        *,
        num_classes: int,
        in_channels: int,
        input_dropout: float = 0.2,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        conv = partial(Conv, init="he_normal", rngs=rngs)
        layers: list[Module] = [Dropout(input_dropout, rngs=rngs)]
        channels = in_channels
        for width, kernel, stride in convolutions:
            layers += [conv(channels, width, kernel, stride, "HALF"), Activation(nnx.relu)]
            layers += [Dropout(dropout, rngs=rngs)] if stride > 1 else []
            channels = width
        # Without padding, so that averages run over the paper's 6x6 pixels of 32x32.
        layers += [conv(channels, 192, 3), Activation(nnx.relu)]
        layers += [conv(192, 192, 1), Activation(nnx.relu)]
        self.features = Sequential(*layers)
        self.classifier = Sequential(conv(192, num_classes, 1), Activation(nnx.relu))
        self.avgpool = GlobalAvgPool()

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 9)
        return self.avgpool(self.classifier(self.features(x)))


for letter, convolutions in CONVOLUTIONS.items():
    register(f"all_cnn_{letter}")(partial(AllCNN, convolutions))
