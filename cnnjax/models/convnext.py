"""ConvNeXt: a residual network with the choices of vision transformers, depthwise 7x7 convolutions for attention.

Liu, Mao, Wu, Feichtenhofer, Darrell & Xie, "A ConvNet for the 2020s" (2022).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.models.blocks import gelu
from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import (
    Activation,
    Conv,
    DepthwiseConv,
    Flatten,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    Linear,
    Module,
    Sequential,
    StochasticDepth,
)
from cnnjax.ops.norm import spread
from cnnjax.ops.precision import in_single_precision

norm = partial(LayerNorm, eps=1e-6)
conv = partial(Conv, init="normal_0.02")
linear = partial(Linear, init="normal_0.02")


class ConvNeXtBlock(Module):
    """`x + scale * mlp(norm(depthwise(x)))`: 7x7 filters, then at each pixel a hidden layer of four times the channels.

    Args:
        channels: of input and output.
        layer_scale: initial scale of every channel.
        drop_path: share of the images that take only the shortcut in training.
        rngs: source of the initial parameters.
    """

    def __init__(self, channels: int, layer_scale: float, drop_path: float, *, rngs: nnx.Rngs):
        self.block = Sequential(
            DepthwiseConv(channels, 7, padding=3, init="normal_0.02", rngs=rngs),
            Identity(),  # where torchvision moves the channels to the last axis
            norm(channels),
            linear(channels, 4 * channels, rngs=rngs),
            Activation(gelu),
            linear(4 * channels, channels, rngs=rngs),
        )
        self.layer_scale = nnx.Param(layer_scale * jnp.ones((channels, 1, 1)))  # torchvision's shape
        self.stochastic_depth = StochasticDepth(drop_path, rngs=rngs) if drop_path else Identity()

    def __call__(self, x: jax.Array) -> jax.Array:
        added = self.block(x)
        scale = self.layer_scale[...].reshape(-1).astype(x.dtype)
        return x + self.stochastic_depth(in_single_precision(lambda x, scale: spread(scale, x) * x)(added, scale))


class ConvNeXt(Module):
    """A 4x4 convolution with stride 4, four stages of blocks with 2x2 convolutions between, and a linear classifier.

    Args:
        widths: channels of each stage.
        depths: blocks of each stage.
        num_classes: number of logits.
        in_channels: channels of the images.
        layer_scale: initial scale of what a block adds.
        drop_path: share of the images that take only a block's shortcut in training; it grows linearly from 0 at the
            first block to this share at the last.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.2",)

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        layer_scale: float = 1e-6,
        drop_path: float = 0.1,
        rngs: nnx.Rngs,
    ):
        rates = iter(drop_path * index / (sum(depths) - 1) for index in range(sum(depths)))
        layers = [Sequential(conv(in_channels, widths[0], 4, 4, rngs=rngs), norm(widths[0]))]
        for width, depth, next_width in zip(widths, depths, (*widths[1:], None), strict=True):
            layers.append(
                Sequential(*(ConvNeXtBlock(width, layer_scale, next(rates), rngs=rngs) for _ in range(depth)))
            )
            if next_width:
                layers.append(Sequential(norm(width), conv(width, next_width, 2, 2, rngs=rngs)))
        self.features = Sequential(*layers)
        self.avgpool = GlobalAvgPool()
        self.classifier = Sequential(norm(widths[-1]), Flatten(), linear(widths[-1], num_classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 32)  # the product of all strides
        return self.classifier(self.avgpool(self.features(x)))


register("convnext_tiny", reference="torchvision")(partial(ConvNeXt, (96, 192, 384, 768), (3, 3, 9, 3)))
