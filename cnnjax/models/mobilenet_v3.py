"""MobileNetV3: inverted residuals with squeeze-and-excitation, found by search and trimmed by hand.

Howard et al., "Searching for MobileNetV3" (2019), tables 1 and 2.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
from flax import nnx

from cnnjax.models.blocks import InvertedResidual, SqueezeExcitation, conv_norm, make_divisible
from cnnjax.models.registry import register
from cnnjax.nn import Activation, BatchNorm, Dropout, GlobalAvgPool, Linear, Module, Sequential

STEM = 16  # channels of the first convolution

norm = partial(BatchNorm, eps=1e-3, momentum=0.01)


class Block(NamedTuple):
    """A line of the paper's tables."""

    kernel_size: int
    expanded: int  # channels of the depthwise convolution
    channels: int  # of the output
    excitation: bool
    hard_swish: bool  # else ReLU
    stride: int


LARGE = (
    Block(3, 16, 16, False, False, 1),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False, 1),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False, 1),
    Block(5, 120, 40, True, False, 1),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 480, 112, True, True, 1),
    Block(3, 672, 112, True, True, 1),
    Block(5, 672, 160, True, True, 2),
    Block(5, 960, 160, True, True, 1),
    Block(5, 960, 160, True, True, 1),
)
SMALL = (
    Block(3, 16, 16, True, False, 2),
    Block(3, 72, 24, False, False, 2),
    Block(3, 88, 24, False, False, 1),
    Block(5, 96, 40, True, True, 2),
    Block(5, 240, 40, True, True, 1),
    Block(5, 240, 40, True, True, 1),
    Block(5, 120, 48, True, True, 1),
    Block(5, 144, 48, True, True, 1),
    Block(5, 288, 96, True, True, 2),
    Block(5, 576, 96, True, True, 1),
    Block(5, 576, 96, True, True, 1),
)


class MobileNetV3(Module):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution, and a classifier of two fully connected layers.

    Args:
        blocks: the inverted residuals.
        hidden: features between the two fully connected layers.
        num_classes: number of logits.
        in_channels: channels of the images.
        dropout: share left out before the last layer.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.3",)

    def __init__(
        self,
        blocks: Sequence[Block],
        hidden: int,
        *,
        num_classes: int,
        in_channels: int,
        dropout: float = 0.2,
        rngs: nnx.Rngs,
    ):
        conv_norm_swish = partial(conv_norm, norm=norm, activation=nnx.hard_swish, rngs=rngs)
        layers: list[Module] = [conv_norm_swish(in_channels, STEM, 3, 2)]
        channels = STEM
        for block in blocks:
            layers.append(_inverted_residual(channels, block, rngs))
            channels = block.channels
        head = 6 * channels
        self.features = Sequential(*layers, conv_norm_swish(channels, head, 1))
        self.avgpool = GlobalAvgPool()
        self.classifier = Sequential(
            Linear(head, hidden, init="normal_0.01", rngs=rngs),
            Activation(nnx.hard_swish),
            Dropout(dropout, rngs=rngs),
            Linear(hidden, num_classes, init="normal_0.01", rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))


def _inverted_residual(in_channels: int, block: Block, rngs: nnx.Rngs) -> InvertedResidual:
    excitation = None
    if block.excitation:
        squeezed = make_divisible(block.expanded // 4)
        excitation = SqueezeExcitation(block.expanded, squeezed, gate=nnx.hard_sigmoid, rngs=rngs)
    return InvertedResidual(
        in_channels,
        block.expanded,
        block.channels,
        block.kernel_size,
        block.stride,
        excitation=excitation,
        norm=norm,
        activation=nnx.hard_swish if block.hard_swish else nnx.relu,
        rngs=rngs,
    )


VARIANTS = {
    "mobilenet_v3_small": partial(MobileNetV3, SMALL, 1024),
    "mobilenet_v3_large": partial(MobileNetV3, LARGE, 1280),
}
for name, build in VARIANTS.items():
    register(name, reference="torchvision")(build)
