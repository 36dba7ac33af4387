"""MnasNet: inverted residuals whose kernels, expansions and depths were found by search on a phone.

Tan et al., "MnasNet: platform-aware neural architecture search for mobile" (2018): MnasNet-B1, the one without
squeeze-and-excitation, as torchvision's mnasnet1_0.
"""

from functools import partial

import jax
from flax import nnx

from cnnjax.models import blocks
from cnnjax.models.blocks import Residual
from cnnjax.models.registry import register
from cnnjax.nn import BatchNorm, Dropout, GlobalAvgPool, Linear, Module, Sequential

# Expansion, kernel size, channels, blocks, stride of the first.
STAGES = (
    (3, 3, 24, 3, 2),
    (3, 5, 40, 3, 2),
    (6, 5, 80, 3, 2),
    (6, 3, 96, 2, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)

# 0.9997 in TensorFlow's sense, where momentum is the weight of the past.
conv_norm = partial(blocks.conv_norm, norm=partial(BatchNorm, momentum=1 - 0.9997))


@register("mnasnet", reference="torchvision/mnasnet1_0")
class MNASNet(Module):
    """A 3x3 and a separable convolution, six stages of inverted residuals, a 1x1 convolution, and a classifier.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        dropout: share left out before the classifier.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.1",)

    def __init__(self, *, num_classes: int, in_channels: int, dropout: float = 0.2, rngs: nnx.Rngs):
        stem, channels, head = 32, 16, 1280
        layers = [
            *conv_norm(in_channels, stem, 3, 2, rngs=rngs),
            *conv_norm(stem, stem, 3, groups=stem, rngs=rngs),
            *conv_norm(stem, channels, 1, activation=None, rngs=rngs),
        ]
        for expansion, kernel_size, width, depth, stride in STAGES:
            block = partial(_inverted_residual, expansion=expansion, kernel_size=kernel_size, rngs=rngs)
            layers.append(Sequential(*blocks.stage(block, channels, width, depth, stride)))
            channels = width
        self.features = Sequential(*layers, *conv_norm(channels, head, 1, rngs=rngs))
        self.avgpool = GlobalAvgPool()
        self.classifier = Sequential(
            Dropout(dropout, rngs=rngs), Linear(head, num_classes, init="lecun_uniform_fan_out", rngs=rngs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))


def _inverted_residual(
    in_channels: int, out_channels: int, stride: int, expansion: int, kernel_size: int, rngs: nnx.Rngs
) -> Residual:
    """`blocks.InvertedResidual` with its layers in one row, as torchvision has this network's."""
    expanded = expansion * in_channels
    layers = Sequential(
        *conv_norm(in_channels, expanded, 1, rngs=rngs),
        *conv_norm(expanded, expanded, kernel_size, stride, groups=expanded, rngs=rngs),
        *conv_norm(expanded, out_channels, 1, activation=None, rngs=rngs),
    )
    return Residual(layers, stride == 1 and in_channels == out_channels, rngs=rngs)
