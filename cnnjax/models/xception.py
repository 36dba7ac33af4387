"""Xception: depthwise separable convolutions, the extreme of inception blocks, with shortcuts.

Chollet, "Xception: deep learning with depthwise separable convolutions" (2016), figure 5, as timm's `legacy_xception`
has it.
"""

from functools import partial

import jax
from flax import nnx

from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    Module,
    SeparableConv,
    Sequential,
)

conv = partial(Conv, bias=False, init="he_normal_fan_out")
separable = partial(SeparableConv, kernel_size=3, padding=1, bias=False, init="he_normal_fan_out")

# Channels after each separable convolution, and the stride, of each block; the first block's input is past its ReLU.
BLOCKS = (
    ((128, 128), 2),
    ((256, 256), 2),
    ((728, 728), 2),
    *[((728, 728, 728), 1)] * 8,
    ((728, 1024), 2),
)


class Block(Module):
    """ReLU, separable convolution and normalisation, several times, beside a shortcut.

    Args:
        in_channels: of the input.
        widths: channels after each separable convolution.
        stride: of the pooling at the end, where it is 2, and of the shortcut.
        first_relu: whether the first convolution has a ReLU before it.
        rngs: source of the initial parameters.
    """

    def __init__(
        self, in_channels: int, widths: tuple[int, ...], stride: int, *, first_relu: bool = True, rngs: nnx.Rngs
    ):
        layers: list[Module] = []
        channels = in_channels
        for width in widths:
            layers += [Activation(nnx.relu), separable(channels, width, rngs=rngs), BatchNorm(width)]
            channels = width
        if stride > 1:
            layers.append(MaxPool(3, stride, 1))
        self.rep = Sequential(*layers[0 if first_relu else 1 :])
        same = stride == 1 and channels == in_channels
        self.skip = Identity() if same else conv(in_channels, channels, 1, stride, rngs=rngs)
        self.skipbn = Identity() if same else BatchNorm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.rep(x) + self.skipbn(self.skip(x))


@register("xception", reference="timm/legacy_xception")
class Xception(Module):
    """Two convolutions, twelve blocks, two separable convolutions, and a linear classifier.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images, at least 7x7 pixels.
        dropout: share left out before the classifier, the paper's; timm has none.
        rngs: source of the initial parameters.
    """

    heads = ("fc",)

    def __init__(self, *, num_classes: int, in_channels: int, dropout: float = 0.5, rngs: nnx.Rngs):
        self.conv1 = conv(in_channels, 32, 3, 2, rngs=rngs)
        self.bn1 = BatchNorm(32)
        self.conv2 = conv(32, 64, 3, rngs=rngs)
        self.bn2 = BatchNorm(64)
        channels = 64
        for number, (widths, stride) in enumerate(BLOCKS, 1):
            setattr(self, f"block{number}", Block(channels, widths, stride, first_relu=number > 1, rngs=rngs))
            channels = widths[-1]
        self.conv3 = separable(channels, 1536, rngs=rngs)
        self.bn3 = BatchNorm(1536)
        self.conv4 = separable(1536, 2048, rngs=rngs)
        self.bn4 = BatchNorm(2048)
        self.global_pool = GlobalAvgPool()
        self.dropout = Dropout(dropout, rngs=rngs)
        self.fc = Linear(2048, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 7)
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        for number in range(1, len(BLOCKS) + 1):
            x = getattr(self, f"block{number}")(x)
        x = nnx.relu(self.bn3(self.conv3(x)))
        x = nnx.relu(self.bn4(self.conv4(x)))
        return self.fc(self.dropout(self.global_pool(x)))
