"""Inception-v3: inception blocks whose larger convolutions are split into smaller ones.

Szegedy et al., "Rethinking the Inception architecture for computer vision" (2015), as torchvision has it, whose trained
weights take images scaled to [-1, 1]. The blocks are data: for each branch, its convolutions.
"""

from functools import partial

import jax
from flax import nnx

from cnnjax.models.googlenet import BasicConv, Concat, WithAuxiliary
from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import AvgPool, Dropout, GlobalAvgPool, Linear, MaxPool, Module, Sequential
from cnnjax.ops.arguments import Ints, Pair

AUXILIARY_WEIGHT = 0.4  # torchvision's; the paper names none
INIT = "normal_0.1_torch_bias"

# Channels, kernel (or two kernels side by side), and an optional stride; without it the size is kept.
Step = tuple[int, Ints | list[Pair]] | tuple[int, Ints, int]
Branches = dict[str, list[Step]]

WIDE, TALL = (1, 7), (7, 1)  # 7x7 in two steps


def blocks_35x35(pooled: int) -> Branches:
    """Figure 5, with a 5x5 branch as all released networks have it; 224 channels and `pooled` ones."""
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "branch_pool": [(pooled, 1)],
    }


def blocks_17x17(width: int) -> Branches:
    """Figure 6; 768 channels, `width` within the branches."""
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), (width, WIDE), (192, TALL)],
        "branch7x7dbl": [(width, 1), (width, TALL), (width, WIDE), (width, TALL), (192, WIDE)],
        "branch_pool": [(192, 1)],
    }


# Figure 7: 2,048 channels.
BLOCK_8X8: Branches = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), (384, [(1, 3), (3, 1)])],
    "branch3x3dbl": [(448, 1), (384, 3), (384, [(1, 3), (3, 1)])],
    "branch_pool": [(192, 1)],
}
# Figure 10: both halve the size, and keep the input's channels beside their own.
REDUCTION_35X35: Branches = {
    "branch3x3": [(384, 3, 2)],
    "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)],
    "branch_pool": [],
}
REDUCTION_17X17: Branches = {
    "branch3x3": [(192, 1), (320, 3, 2)],
    "branch7x7x3": [(192, 1), (192, WIDE), (192, TALL), (192, 3, 2)],
    "branch_pool": [],
}


def inception(in_channels: int, branches: Branches, *, rngs: nnx.Rngs) -> Concat:
    """Return the block that branches describe; `branch_pool` begins with a pooling and may contain nothing else."""
    layers = {name: _chain(in_channels, steps, rngs) for name, steps in branches.items() if steps}
    if branches["branch_pool"]:
        layers["branch_pool"] = Sequential(AvgPool(3, 1, 1), layers["branch_pool"])
    else:
        layers["branch_pool"] = MaxPool(3, 2)
    return Concat(**layers)


def _chain(channels: int, steps: list[Step], rngs: nnx.Rngs) -> Module:
    """Return a sequence of convolutions named "1", "2", ..., or the convolution itself if there is only one."""
    layers: dict[str, Module] = {}
    for name, (width, kernels, *stride) in enumerate(steps, 1):
        conv = partial(BasicConv, channels, width, padding=0 if stride else "HALF", init=INIT, rngs=rngs)
        if isinstance(kernels, list):
            layers[str(name)] = Concat(a=conv(kernels[0]), b=conv(kernels[1]))
        else:
            layers[str(name)] = conv(kernels, *stride)
        channels = width
    return layers["1"] if len(layers) == 1 else Sequential(**layers)


class Auxiliary(Module):
    """A classifier on the last 17x17 feature maps.

    Args:
        in_channels: of the feature maps.
        num_classes: number of logits.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, num_classes: int, *, rngs: nnx.Rngs):
        self.pool = AvgPool(5, 3)
        self.conv0 = BasicConv(in_channels, 128, 1, init=INIT, rngs=rngs)
        self.conv1 = BasicConv(128, 768, 5, init=INIT, rngs=rngs)  # torchvision intends 0.01, but sets 0.1
        self.avgpool = GlobalAvgPool()
        self.fc = Linear(768, num_classes, init="normal_0.001_torch_bias", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.avgpool(self.conv1(self.conv0(self.pool(x)))))


@register("inception_v3", reference="torchvision")
class InceptionV3(Module):
    """Five convolutions, eleven inception blocks on maps of 35, 17 and 8 pixels, and a linear classifier.

    In training it returns `WithAuxiliary`, with the logits of an auxiliary classifier; in `eval` logits.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images, made for 299x299 pixels; at least 75x75, 299x299 for the auxiliary one.
        auxiliary: whether there is the auxiliary classifier.
        dropout: share left out before the classifier.
        rngs: source of the initial parameters.
    """

    heads = ("fc", "aux_logits.fc")

    def __init__(
        self, *, num_classes: int, in_channels: int, auxiliary: bool = True, dropout: float = 0.5, rngs: nnx.Rngs
    ):
        conv, block = partial(BasicConv, init=INIT, rngs=rngs), partial(inception, rngs=rngs)
        self.conv2d_1a_3x3 = conv(in_channels, 32, 3, 2)
        self.conv2d_2a_3x3 = conv(32, 32, 3)
        self.conv2d_2b_3x3 = conv(32, 64, 3, padding=1)
        self.maxpool1 = MaxPool(3, 2)
        self.conv2d_3b_1x1 = conv(64, 80, 1)
        self.conv2d_4a_3x3 = conv(80, 192, 3)
        self.maxpool2 = MaxPool(3, 2)
        self.mixed_5b = block(192, blocks_35x35(32))
        self.mixed_5c = block(256, blocks_35x35(64))
        self.mixed_5d = block(288, blocks_35x35(64))
        self.mixed_6a = block(288, REDUCTION_35X35)
        self.mixed_6b = block(768, blocks_17x17(128))
        self.mixed_6c = block(768, blocks_17x17(160))
        self.mixed_6d = block(768, blocks_17x17(160))
        self.mixed_6e = block(768, blocks_17x17(192))
        self.aux_logits = Auxiliary(768, num_classes, rngs=rngs) if auxiliary else None
        self.mixed_7a = block(768, REDUCTION_17X17)
        self.mixed_7b = block(1280, BLOCK_8X8)
        self.mixed_7c = block(2048, BLOCK_8X8)
        self.avgpool = GlobalAvgPool()
        self.dropout = Dropout(dropout, rngs=rngs)
        self.fc = Linear(2048, num_classes, init=INIT, rngs=rngs)
        self.deterministic = False  # set by train() and eval()

    def __call__(self, x: jax.Array) -> jax.Array | WithAuxiliary:
        auxiliary = None if self.deterministic else self.aux_logits
        if auxiliary is None:
            check_images(self, x, 75)
        else:
            check_images(self, x, 299, " in training, fewer with auxiliary=False")
        x = self.maxpool1(self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(x))))
        x = self.maxpool2(self.conv2d_4a_3x3(self.conv2d_3b_1x1(x)))
        x = self.mixed_6a(self.mixed_5d(self.mixed_5c(self.mixed_5b(x))))
        middle = self.mixed_6e(self.mixed_6d(self.mixed_6c(self.mixed_6b(x))))
        x = self.mixed_7c(self.mixed_7b(self.mixed_7a(middle)))
        logits = self.fc(self.dropout(self.avgpool(x)))
        return logits if auxiliary is None else WithAuxiliary(logits, (auxiliary(middle),), AUXILIARY_WEIGHT)
