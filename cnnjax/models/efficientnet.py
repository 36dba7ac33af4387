"""EfficientNet: one searched network of inverted residuals, scaled in depth, width and image size together.

Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural networks" (2019), table 1; Tan & Le,
"EfficientNetV2: smaller models and faster training" (2021), table 4, whose early blocks are plain convolutions. With
torchvision's normalisation constants.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
from flax import nnx

from cnnjax.models.blocks import InvertedResidual, Norm, Residual, SqueezeExcitation, conv_norm, make_divisible, silu
from cnnjax.models.registry import register
from cnnjax.nn import BatchNorm, Dropout, GlobalAvgPool, Linear, Module, Sequential


class MBConv(InvertedResidual):
    """An inverted residual with squeeze-and-excitation to a quarter of the input's channels, and SiLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution.
        expansion: channels of the depthwise convolution for each of the input.
        kernel_size: of the depthwise convolution.
        norm: after each convolution.
        drop_path: share of the images that take only the shortcut in training.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        kernel_size: int,
        *,
        norm: Norm,
        drop_path: float,
        rngs: nnx.Rngs,
    ):
        expanded = make_divisible(in_channels * expansion)
        super().__init__(
            in_channels,
            expanded,
            out_channels,
            kernel_size,
            stride,
            excitation=SqueezeExcitation(expanded, max(1, in_channels // 4), activation=silu, rngs=rngs),
            norm=norm,
            activation=silu,
            drop_path=drop_path,
            rngs=rngs,
        )


class FusedMBConv(Residual):
    """`MBConv` with one full convolution for its expansion and depthwise convolution, and without excitation.

    Where nothing is expanded, that convolution is all. Arguments as `MBConv`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        kernel_size: int,
        *,
        norm: Norm,
        drop_path: float,
        rngs: nnx.Rngs,
    ):
        conv_norm_silu = partial(conv_norm, norm=norm, activation=silu, rngs=rngs)
        if expansion == 1:
            layers = [conv_norm_silu(in_channels, out_channels, kernel_size, stride)]
        else:
            expanded = make_divisible(in_channels * expansion)
            layers = [
                conv_norm_silu(in_channels, expanded, kernel_size, stride),
                conv_norm(expanded, out_channels, 1, norm=norm, activation=None, rngs=rngs),
            ]
        super().__init__(Sequential(*layers), stride == 1 and in_channels == out_channels, drop_path, rngs=rngs)


class Stage(NamedTuple):
    """Equal blocks one after another, of which the first changes channels and stride."""

    block: type[MBConv] | type[FusedMBConv]
    expansion: int
    kernel_size: int
    stride: int
    channels: int
    depth: int


B0 = (
    Stage(MBConv, 1, 3, 1, 16, 1),
    Stage(MBConv, 6, 3, 2, 24, 2),
    Stage(MBConv, 6, 5, 2, 40, 2),
    Stage(MBConv, 6, 3, 2, 80, 3),
    Stage(MBConv, 6, 5, 1, 112, 3),
    Stage(MBConv, 6, 5, 2, 192, 4),
    Stage(MBConv, 6, 3, 1, 320, 1),
)
V2_S = (
    Stage(FusedMBConv, 1, 3, 1, 24, 2),
    Stage(FusedMBConv, 4, 3, 2, 48, 4),
    Stage(FusedMBConv, 4, 3, 2, 64, 4),
    Stage(MBConv, 4, 3, 2, 128, 6),
    Stage(MBConv, 6, 3, 1, 160, 9),
    Stage(MBConv, 6, 3, 2, 256, 15),
)


class EfficientNet(Module):
    """A 3x3 convolution, stages of inverted residuals, a 1x1 convolution, and a linear classifier.

    Args:
        stem: channels of the first convolution.
        stages: the blocks.
        head: channels of the last convolution.
        num_classes: number of logits.
        in_channels: channels of the images.
        norm: after each convolution.
        dropout: share left out before the classifier.
        drop_path: times i / n, the share of the images that take only the shortcut of block i of n, counted from 0, in
            training.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.1",)

    def __init__(
        self,
        stem: int,
        stages: Sequence[Stage],
        head: int,
        *,
        num_classes: int,
        in_channels: int,
        norm: Norm = BatchNorm,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        rngs: nnx.Rngs,
    ):
        conv_norm_silu = partial(conv_norm, norm=norm, activation=silu, rngs=rngs)
        layers = [conv_norm_silu(in_channels, stem, 3, 2)]
        channels, total = stem, sum(stage.depth for stage in stages)
        rates = iter(drop_path * index / total for index in range(total))
        for kind, expansion, kernel_size, stride, width, depth in stages:
            block = partial(kind, expansion=expansion, kernel_size=kernel_size, norm=norm, rngs=rngs)
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, width, 1 if index else stride, drop_path=next(rates)))
                channels = width
            layers.append(Sequential(*blocks))
        self.features = Sequential(*layers, conv_norm_silu(channels, head, 1))
        self.avgpool = GlobalAvgPool()
        self.classifier = Sequential(
            Dropout(dropout, rngs=rngs), Linear(head, num_classes, init="uniform_fan_out", rngs=rngs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.avgpool(self.features(x)))


def _scaled(width: float, depth: float, dropout: float, norm: Norm = BatchNorm) -> partial[EfficientNet]:
    """Return B0 with `width` times the channels and `depth` times the blocks."""
    stages = [
        stage._replace(channels=make_divisible(width * stage.channels), depth=math.ceil(depth * stage.depth))
        for stage in B0
    ]
    head = 4 * stages[-1].channels
    return partial(EfficientNet, make_divisible(width * 32), stages, head, dropout=dropout, norm=norm)


# torchvision's largest come from TensorFlow, with its constants.
_tensorflow_norm = partial(BatchNorm, eps=1e-3, momentum=0.01)

VARIANTS = {
    "efficientnet_b0": _scaled(1.0, 1.0, 0.2),
    "efficientnet_b1": _scaled(1.0, 1.1, 0.2),
    "efficientnet_b2": _scaled(1.1, 1.2, 0.3),
    "efficientnet_b3": _scaled(1.2, 1.4, 0.3),
    "efficientnet_b4": _scaled(1.4, 1.8, 0.4),
    "efficientnet_b5": _scaled(1.6, 2.2, 0.4, _tensorflow_norm),
    "efficientnet_b6": _scaled(1.8, 2.6, 0.5, _tensorflow_norm),
    "efficientnet_b7": _scaled(2.0, 3.1, 0.5, _tensorflow_norm),
    "efficientnet_v2_s": partial(EfficientNet, 24, V2_S, 1280, norm=partial(BatchNorm, eps=1e-3)),
}
for name, build in VARIANTS.items():
    register(name, reference="torchvision")(build)
