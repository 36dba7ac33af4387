"""Residual networks for CIFAR, and the plain networks that they are compared with.

He, Zhang, Ren & Sun, "Deep residual learning for image recognition" (2015), section 4.2.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.registry import register
from cnnjax.nn import BatchNorm, Conv, GlobalAvgPool, Linear, Module, Sequential

WIDTHS = (16, 32, 64)  # of the three stages
DEPTHS = (20, 32, 44, 56, 110)  # of the paper's networks

conv = partial(Conv, kernel_size=3, padding=1, bias=False, init="he_normal_fan_out")


class Block(Module):
    """Two 3x3 convolutions, beside a shortcut without parameters if the network is residual.

    Args:
        in_channels: of the input.
        width: channels of both convolutions.
        stride: of the first.
        residual: whether there is the shortcut.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, width: int, stride: int, residual: bool, *, rngs: nnx.Rngs):
        self.width, self.stride, self.residual = width, stride, residual
        self.conv1 = conv(in_channels, width, stride=stride, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, rngs=rngs)
        self.bn2 = BatchNorm(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + shortcut(x, self.width, self.stride) if self.residual else y)


def shortcut(x: jax.Array, channels: int, stride: int) -> jax.Array:
    """Return every `stride`-th pixel with channels of zeros appended (He et al.'s option A)."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


class CifarResNet(Module):
    """A 3x3 convolution, three stages of blocks, and a linear classifier; images of any size.

    Args:
        depth: convolutions and the classifier, 6n + 2 for n blocks in each stage.
        num_classes: number of logits.
        in_channels: channels of the images.
        residual: whether blocks have shortcuts; without, it is the paper's plain network.
        rngs: source of the initial parameters.

    Raises:
        UserError: no whole number of blocks gives that depth.
    """

    heads = ("fc",)

    def __init__(self, depth: int, *, num_classes: int, in_channels: int, residual: bool = True, rngs: nnx.Rngs):
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise UserError(f"depth must be 8, 14, 20, ..., 6n + 2 for n blocks in each stage, got {depth}")
        self.conv1 = conv(in_channels, WIDTHS[0], rngs=rngs)
        self.bn1 = BatchNorm(WIDTHS[0])
        stages, channels = [], WIDTHS[0]
        for width in WIDTHS:
            stage = []
            for _ in range(blocks):
                stage.append(Block(channels, width, 1 if channels == width else 2, residual, rngs=rngs))
                channels = width
            stages.append(Sequential(*stage))
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = GlobalAvgPool()
        self.fc = Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x))


for depth in DEPTHS:
    register(f"resnet{depth}")(partial(CifarResNet, depth))
    register(f"plain{depth}")(partial(CifarResNet, depth, residual=False))
