"""ShuffleNetV2: half of the channels pass a unit untouched, then the halves are shuffled.

Ma, Zhang, Zheng & Sun, "ShuffleNet V2: practical guidelines for efficient CNN architecture design" (2018), table 5.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.models import blocks
from cnnjax.models.registry import register
from cnnjax.nn import GlobalAvgPool, Linear, MaxPool, Module, Sequential

STEM = 24  # channels of the first convolution
DEPTHS = (4, 8, 4)  # units of the three stages

conv_norm = partial(blocks.conv_norm, init="torch")


class ShuffleUnit(Module):
    """1x1, depthwise 3x3 and 1x1 convolution on half of the channels; with stride 2 on all, and a second branch.

    Args:
        in_channels: of the input.
        out_channels: of the output, half from each branch; with stride 1 as many as of the input.
        stride: 1 or 2.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, rngs: nnx.Rngs):
        self.stride = stride
        half = out_channels // 2
        used = half if stride == 1 else in_channels
        depthwise = partial(conv_norm, kernel_size=3, stride=stride, activation=None, rngs=rngs)
        self.branch1 = Sequential()
        if stride == 2:
            self.branch1 = Sequential(
                *depthwise(in_channels, in_channels, groups=in_channels), *conv_norm(in_channels, half, 1, rngs=rngs)
            )
        self.branch2 = Sequential(
            *conv_norm(used, half, 1, rngs=rngs),
            *depthwise(half, half, groups=half),
            *conv_norm(half, half, 1, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        kept, used = jnp.split(x, 2, axis=-1) if self.stride == 1 else (x, x)
        y = jnp.concatenate([self.branch1(kept), self.branch2(used)], axis=-1)
        return blocks.channel_shuffle(y, 2)


class ShuffleNetV2(Module):
    """A 3x3 convolution and pooling, three stages of shuffle units, a 1x1 convolution, and a linear classifier.

    Args:
        widths: channels of the three stages.
        head: channels of the last convolution.
        num_classes: number of logits.
        in_channels: channels of the images.
        rngs: source of the initial parameters.
    """

    heads = ("fc",)

    def __init__(self, widths: Sequence[int], head: int, *, num_classes: int, in_channels: int, rngs: nnx.Rngs):
        self.conv1 = conv_norm(in_channels, STEM, 3, 2, rngs=rngs)
        self.maxpool = MaxPool(3, 2, 1)
        unit, stages, channels = partial(ShuffleUnit, rngs=rngs), [], STEM
        for width, depth in zip(widths, DEPTHS, strict=True):
            stages.append(Sequential(*blocks.stage(unit, channels, width, depth, 2)))
            channels = width
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = conv_norm(channels, head, 1, rngs=rngs)
        self.avgpool = GlobalAvgPool()
        self.fc = Linear(head, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        return self.fc(self.avgpool(self.conv5(x)))


VARIANTS = {
    "shufflenet_v2_x0_5": partial(ShuffleNetV2, (48, 96, 192), 1024),
    "shufflenet_v2_x1_0": partial(ShuffleNetV2, (116, 232, 464), 1024),
    "shufflenet_v2_x1_5": partial(ShuffleNetV2, (176, 352, 704), 1024),
    "shufflenet_v2_x2_0": partial(ShuffleNetV2, (244, 488, 976), 2048),
}
for name, build in VARIANTS.items():
    register(name, reference="torchvision")(build)
