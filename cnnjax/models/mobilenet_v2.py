"""MobileNetV2: depthwise convolutions between a 1x1 expansion and a linear projection, shortcuts between the thin ends.

Sandler, Howard, Zhu, Zhmoginov & Chen, "MobileNetV2: inverted residuals and linear bottlenecks" (2018).
"""

from functools import partial

import jax
from flax import nnx

from cnnjax.models.blocks import conv_norm, stage
from cnnjax.models.registry import register
from cnnjax.nn import BatchNorm, Conv, Dropout, GlobalAvgPool, Linear, Module, Sequential

# Table 2 of the paper: expansion, channels, blocks, stride of the first.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

conv_norm_relu6 = partial(conv_norm, activation=nnx.relu6)


class InvertedResidual(Module):
    """A 1x1 expansion, a depthwise 3x3 convolution and a 1x1 projection without activation, and a shortcut if it fits.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution.
        expansion: channels of the depthwise convolution for each of the input; with 1 nothing is expanded.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, *, rngs: nnx.Rngs):
        expanded = expansion * in_channels
        self.conv = Sequential(
            *([conv_norm_relu6(in_channels, expanded, 1, rngs=rngs)] if expansion > 1 else []),
            conv_norm_relu6(expanded, expanded, 3, stride, groups=expanded, rngs=rngs),
            Conv(expanded, out_channels, 1, bias=False, init="he_normal_fan_out", rngs=rngs),
            BatchNorm(out_channels),
        )
        self.shortcut = stride == 1 and in_channels == out_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv(x) if self.shortcut else self.conv(x)


@register("mobilenet_v2", reference="torchvision")
class MobileNetV2(Module):
    """A 3x3 convolution, seven stages of inverted residuals, a 1x1 convolution, and a linear classifier.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        dropout: share left out before the classifier.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.1",)

    def __init__(self, *, num_classes: int, in_channels: int, dropout: float = 0.2, rngs: nnx.Rngs):
        channels, head = 32, 1280
        layers: list[Module] = [conv_norm_relu6(in_channels, channels, 3, 2, rngs=rngs)]
        for expansion, width, depth, stride in STAGES:
            block = partial(InvertedResidual, expansion=expansion, rngs=rngs)
            layers += stage(block, channels, width, depth, stride)
            channels = width
        self.features = Sequential(*layers, conv_norm_relu6(channels, head, 1, rngs=rngs))
        self.avgpool = GlobalAvgPool()
        self.classifier = Sequential(
            Dropout(dropout, rngs=rngs), Linear(head, num_classes, init="normal_0.01", rngs=rngs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))
