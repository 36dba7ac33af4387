"""ShuffleNet: grouped 1x1 convolutions with a channel shuffle between, and a depthwise 3x3 convolution.

Zhang, Zhou, Lin & Sun, "ShuffleNet: an extremely efficient convolutional neural network for mobile devices" (2017),
table 1 at 1.0x: the more groups, the more channels for the same multiply-adds.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.blocks import channel_shuffle, conv_norm, stage
from cnnjax.models.registry import register
from cnnjax.nn import AvgPool, GlobalAvgPool, Linear, MaxPool, Module, Sequential

STEM = 24  # channels of the first convolution
DEPTHS = (4, 8, 4)  # units of the three stages; each stage has twice the channels of the one before
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # of the first stage by groups


class ShuffleUnit(Module):
    """Grouped 1x1, shuffle, depthwise 3x3 and grouped 1x1 convolution; added to the input, or beside it with stride 2.

    With stride 2 the input, averaged over 3x3 windows, makes the first channels of the output.

    Args:
        in_channels: of the input.
        out_channels: of the output; the depthwise convolution has a quarter of them.
        stride: 1 or 2.
        groups: of the 1x1 convolutions and the shuffle; the stem's few channels are not split by the first.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, *, rngs: nnx.Rngs):
        self.groups, self.stride = groups, stride
        width = out_channels // 4
        new_channels = out_channels - in_channels if stride == 2 else out_channels
        self.conv1 = conv_norm(in_channels, width, 1, groups=1 if in_channels == STEM else groups, rngs=rngs)
        self.conv2 = conv_norm(width, width, 3, stride, groups=width, activation=None, rngs=rngs)
        self.conv3 = conv_norm(width, new_channels, 1, groups=groups, activation=None, rngs=rngs)
        self.avgpool = AvgPool(3, 2, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = channel_shuffle(self.conv1(x), self.groups)
        y = self.conv3(self.conv2(y))
        return nnx.relu(x + y if self.stride == 1 else jnp.concatenate([self.avgpool(x), y], axis=-1))


class ShuffleNetV1(Module):
    """A 3x3 convolution and pooling, three stages of shuffle units, and a linear classifier.

    Args:
        groups: of the 1x1 convolutions, a key of `CHANNELS`.
        num_classes: number of logits.
        in_channels: channels of the images.
        rngs: source of the initial parameters.

    Raises:
        UserError: a number of groups that the paper does not have.
    """

    heads = ("fc",)

    def __init__(self, groups: int, *, num_classes: int, in_channels: int, rngs: nnx.Rngs):
        if groups not in CHANNELS:
            raise UserError(f"groups must be one of {', '.join(map(str, CHANNELS))}, got {groups!r}")
        self.conv1 = conv_norm(in_channels, STEM, 3, 2, rngs=rngs)
        self.maxpool = MaxPool(3, 2, 1)
        unit, stages, channels = partial(ShuffleUnit, groups=groups, rngs=rngs), [], STEM
        for number, depth in enumerate(DEPTHS):
            width = CHANNELS[groups] * 2**number
            stages.append(Sequential(*stage(unit, channels, width, depth, 2)))
            channels = width
        self.stage2, self.stage3, self.stage4 = stages
        self.avgpool = GlobalAvgPool()
        self.fc = Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        return self.fc(self.avgpool(x))


for groups in CHANNELS:
    register(f"shufflenet_v1_g{groups}")(partial(ShuffleNetV1, groups))
