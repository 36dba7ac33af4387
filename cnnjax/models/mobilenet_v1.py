"""MobileNet: depthwise separable convolutions, a 3x3 filter of each channel and a 1x1 convolution that mixes them.

Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications" (2017), as timm's
mobilenetv1_100.
"""

from functools import partial

import jax
from flax import nnx

from cnnjax.models.blocks import stage
from cnnjax.models.registry import register
from cnnjax.nn import BatchNorm, Conv, DepthwiseConv, GlobalAvgPool, Linear, Module, Sequential

STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # channels, blocks, stride of the first

conv = partial(Conv, bias=False, init="he_normal_fan_out")


class SeparableBlock(Module):
    """A depthwise 3x3 and a 1x1 convolution, each with batch normalisation and ReLU6.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, rngs: nnx.Rngs):
        # For the backward pass too: here an input reaches as many outputs as an output has inputs.
        self.conv_dw = DepthwiseConv(
            in_channels, 3, stride=stride, padding=1, bias=False, init="he_normal_fan_in", rngs=rngs
        )
        self.bn1 = BatchNorm(in_channels)
        self.conv_pw = conv(in_channels, out_channels, 1, rngs=rngs)
        self.bn2 = BatchNorm(out_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu6(self.bn1(self.conv_dw(x)))
        return nnx.relu6(self.bn2(self.conv_pw(x)))


@register("mobilenet_v1", reference="timm/mobilenetv1_100")
class MobileNetV1(Module):
    """A 3x3 convolution, thirteen depthwise separable blocks, and a linear classifier.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        rngs: source of the initial parameters.
    """

    heads = ("classifier",)

    def __init__(self, *, num_classes: int, in_channels: int, rngs: nnx.Rngs):
        channels = 32
        self.conv_stem = conv(in_channels, channels, 3, 2, 1, rngs=rngs)
        self.bn1 = BatchNorm(channels)
        block, stages = partial(SeparableBlock, rngs=rngs), []
        for width, depth, stride in STAGES:
            stages.append(Sequential(*stage(block, channels, width, depth, stride)))
            channels = width
        self.blocks = Sequential(*stages)
        self.global_pool = GlobalAvgPool()
        self.classifier = Linear(channels, num_classes, init="uniform_fan_out", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu6(self.bn1(self.conv_stem(x)))
        return self.classifier(self.global_pool(self.blocks(x)))
