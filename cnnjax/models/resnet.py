"""Residual networks: ResNet, ResNeXt and Wide ResNet for ImageNet.

He, Zhang, Ren & Sun, "Deep residual learning for image recognition" (2015); Xie et al., "Aggregated residual
transformations for deep neural networks" (2016); Zagoruyko & Komodakis, "Wide residual networks" (2016). As in
torchvision, a bottleneck strides in its 3x3 convolution.
"""

from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.registry import register
from cnnjax.nn import BatchNorm, Conv, GlobalAvgPool, Identity, Linear, MaxPool, Module, Sequential
from cnnjax.ops.cpu.fusion import stored_on_cpu

STEMS = ("imagenet", "cifar")
WIDTHS = (64, 128, 256, 512)  # of the four stages

conv = partial(Conv, bias=False, init="he_normal_fan_out")


class BasicBlock(Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes.

    Args:
        in_channels: of the input.
        width: channels of both convolutions.
        stride: of the first.
        groups: 1; the thinner block has none.
        base_width: 64.
        rngs: source of the initial parameters.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, *, groups: int = 1, base_width: int = 64, rngs: nnx.Rngs
    ):
        if (groups, base_width) != (1, 64):
            raise UserError(f"a basic block has groups=1 and base_width=64, got {groups} and {base_width}")
        self.conv1 = conv(in_channels, width, 3, stride, 1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, 1, 1, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.downsample = shortcut(in_channels, width, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return stored_on_cpu(_relu_of_sum, y, self.downsample(x))


class Bottleneck(Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the last has four times the channels.

    Args:
        in_channels: of the input.
        width: channels of the 3x3 convolution, before `groups` and `base_width` widen it.
        stride: of the 3x3 convolution.
        groups: of the 3x3 convolution; ResNeXt's cardinality.
        base_width: channels of a group where `width` is 64.
        rngs: source of the initial parameters.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, *, groups: int = 1, base_width: int = 64, rngs: nnx.Rngs
    ):
        inner, outer = width * base_width // 64 * groups, width * self.expansion
        self.conv1 = conv(in_channels, inner, 1, rngs=rngs)
        self.bn1 = BatchNorm(inner)
        self.conv2 = conv(inner, inner, 3, stride, 1, groups=groups, rngs=rngs)
        self.bn2 = BatchNorm(inner)
        self.conv3 = conv(inner, outer, 1, rngs=rngs)
        self.bn3 = BatchNorm(outer)
        self.downsample = shortcut(in_channels, outer, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return stored_on_cpu(_relu_of_sum, y, self.downsample(x))


def _relu_of_sum(y: jax.Array, shortcut: jax.Array) -> jax.Array:
    """Return the output of a block, to be stored: XLA:CPU otherwise repeats all earlier blocks' sums in every reader.

    Without it, ResNet-152's training step took 2.0 s instead of 1.2.
    """
    return nnx.relu(y + shortcut)


def shortcut(in_channels: int, out_channels: int, stride: int, rngs: nnx.Rngs) -> Module:
    """Return the identity, or a 1x1 projection where the shape changes (He et al.'s option B)."""
    if stride == 1 and in_channels == out_channels:
        return Identity()
    return Sequential(conv(in_channels, out_channels, 1, stride, rngs=rngs), BatchNorm(out_channels))


class ResNet(Module):
    """A 7x7 convolution and pooling, four stages of residual blocks, and a linear classifier.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks of each stage.
        num_classes: number of logits.
        in_channels: channels of the images.
        groups: as the block takes it.
        base_width: as the block takes it.
        stem: "imagenet", or "cifar" for small images: a 3x3 convolution with stride 1 and no pooling.
        rngs: source of the initial parameters.

    Raises:
        UserError: an unknown stem.
    """

    heads = ("fc",)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        groups: int = 1,
        base_width: int = 64,
        stem: str = "imagenet",
        rngs: nnx.Rngs,
    ):
        if stem not in STEMS:
            raise UserError(f"stem must be one of {', '.join(STEMS)}, got {stem!r}")
        large = stem == "imagenet"
        self.conv1 = conv(in_channels, 64, 7 if large else 3, 2 if large else 1, 3 if large else 1, rngs=rngs)
        self.bn1 = BatchNorm(64)
        self.maxpool = MaxPool(3, 2, 1) if large else Identity()
        stages, channels = [], 64
        for number, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride, groups=groups, base_width=base_width, rngs=rngs))
                channels = width * block.expansion
            stages.append(Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = GlobalAvgPool()
        self.fc = Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.maxpool(nnx.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x))


VARIANTS = {
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
    "resnext50_32x4d": partial(ResNet, Bottleneck, (3, 4, 6, 3), groups=32, base_width=4),
    "resnext101_32x8d": partial(ResNet, Bottleneck, (3, 4, 23, 3), groups=32, base_width=8),
    "wide_resnet50_2": partial(ResNet, Bottleneck, (3, 4, 6, 3), base_width=128),
}
for name, build in VARIANTS.items():
    register(name, reference="torchvision")(build)
