"""GoogLeNet (Inception-v1): blocks that look at an image through windows of several sizes at once.

Szegedy et al., "Going deeper with convolutions" (2014), table 1, as torchvision has it: with batch normalisation, and
with 3x3 convolutions where the paper has 5x5. Its trained weights take images scaled to [-1, 1].
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import AdaptiveAvgPool, BatchNorm, Conv, Dropout, GlobalAvgPool, Linear, MaxPool, Module, Sequential
from cnnjax.ops.arguments import Ints, Padding

AUXILIARY_WEIGHT = 0.3
INIT = "normal_0.01_torch_bias"


class WithAuxiliary(NamedTuple):
    """What a network with auxiliary classifiers returns in training.

    Its loss is that of `logits` plus `weight` times the sum of the auxiliary ones.

    Attributes:
        logits: of the main classifier, (batch, num_classes), or one set a pixel.
        auxiliary: those of the auxiliary classifiers, from the image on.
        weight: of the auxiliary losses.
    """

    logits: jax.Array
    auxiliary: tuple[jax.Array, ...]
    weight: float


class BasicConv(Module):
    """A convolution without bias, batch normalisation and ReLU; arguments as `Conv`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: int = 1,
        padding: Padding = 0,
        *,
        init: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(in_channels, out_channels, kernel_size, stride, padding, bias=False, init=init, rngs=rngs)
        self.bn = BatchNorm(out_channels, eps=1e-3)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.conv(x)))


class Concat(Sequential):
    """Call layers on the same input, and put the channels of their outputs side by side."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([layer(x) for layer in self], axis=-1)


def inception(
    in_channels: int, width1: int, widths3: tuple[int, int], widths5: tuple[int, int], pooled: int, *, rngs: nnx.Rngs
) -> Concat:
    """Return an inception block, `width1 + widths3[1] + widths5[1] + pooled` channels.

    Args:
        in_channels: of the input.
        width1: channels of the 1x1 branch.
        widths3: of the 3x3 branch, after its 1x1 reduction and after its 3x3 convolution.
        widths5: of the paper's 5x5 branch, likewise.
        pooled: of the 1x1 convolution after a pooling.
        rngs: source of the initial parameters.
    """
    conv = partial(BasicConv, init=INIT, rngs=rngs)
    return Concat(
        branch1=conv(in_channels, width1, 1),
        branch2=Sequential(conv(in_channels, widths3[0], 1), conv(*widths3, 3, padding=1)),
        branch3=Sequential(conv(in_channels, widths5[0], 1), conv(*widths5, 3, padding=1)),
        branch4=Sequential(MaxPool(3, 1, 1), conv(in_channels, pooled, 1)),
    )


class Auxiliary(Module):
    """A classifier on feature maps in the middle of the network, which brings them a gradient by a shorter way.

    Args:
        in_channels: of the feature maps.
        num_classes: number of logits.
        dropout: share left out before the last layer.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float, *, rngs: nnx.Rngs):
        self.avgpool = AdaptiveAvgPool(4)
        self.conv = BasicConv(in_channels, 128, 1, init=INIT, rngs=rngs)
        self.fc1 = Linear((4, 4, 128), 1024, init=INIT, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.fc2 = Linear(1024, num_classes, init=INIT, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.fc1(self.conv(self.avgpool(x))))
        return self.fc2(self.dropout(x))


@register("googlenet", reference="torchvision")
class GoogLeNet(Module):
    """Three convolutions, nine inception blocks between poolings, and a linear classifier of global averages.

    In training it returns `WithAuxiliary`, with the logits of two auxiliary classifiers; in `eval` logits.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images, at least 15x15 pixels.
        auxiliary: whether there are the auxiliary classifiers.
        dropout: share left out before the classifier; the paper has 0.4, torchvision 0.2.
        auxiliary_dropout: share left out before the last layer of the auxiliary classifiers.
        rngs: source of the initial parameters.
    """

    heads = ("fc", "aux1.fc2", "aux2.fc2")

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        auxiliary: bool = True,
        dropout: float = 0.2,
        auxiliary_dropout: float = 0.7,
        rngs: nnx.Rngs,
    ):
        conv, block = partial(BasicConv, init=INIT, rngs=rngs), partial(inception, rngs=rngs)
        pool = partial(MaxPool, stride=2, ceil_mode=True)
        self.conv1 = conv(in_channels, 64, 7, 2, 3)
        self.maxpool1 = pool(3)
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3, padding=1)
        self.maxpool2 = pool(3)
        self.inception3a = block(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = block(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = pool(3)
        self.inception4a = block(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = block(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = block(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = block(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = block(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = pool(2)
        self.inception5a = block(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = block(832, 384, (192, 384), (48, 128), 128)
        self.aux1 = Auxiliary(512, num_classes, auxiliary_dropout, rngs=rngs) if auxiliary else None
        self.aux2 = Auxiliary(528, num_classes, auxiliary_dropout, rngs=rngs) if auxiliary else None
        self.avgpool = GlobalAvgPool()
        self.dropout = Dropout(dropout, rngs=rngs)
        self.fc = Linear(1024, num_classes, init=INIT, rngs=rngs)
        self.deterministic = False  # set by train() and eval()

    def __call__(self, x: jax.Array) -> jax.Array | WithAuxiliary:
        check_images(self, x, 15)
        x = self.conv3(self.conv2(self.maxpool1(self.conv1(x))))
        x = self.inception3b(self.inception3a(self.maxpool2(x)))
        early = self.inception4a(self.maxpool3(x))
        late = self.inception4d(self.inception4c(self.inception4b(early)))
        x = self.maxpool4(self.inception4e(late))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(self.avgpool(x)))
        if self.deterministic or self.aux1 is None or self.aux2 is None:
            return logits
        return WithAuxiliary(logits, (self.aux1(early), self.aux2(late)), AUXILIARY_WEIGHT)
