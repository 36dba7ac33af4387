"""Dilated networks: a classifier whose last poolings are left out, and a context module of ever wider dilations.

Yu & Koltun, "Multi-scale context aggregation by dilated convolutions" (2015): the front end of section 4, and the basic
context module of table 1.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import ops
from cnnjax.models.backbones import Backbone, Builder
from cnnjax.models.fcn import HIDDEN, fully_connected
from cnnjax.models.images import check_images, pad_to_multiple
from cnnjax.models.registry import register
from cnnjax.models.vgg import TINY
from cnnjax.nn import Activation, Conv, Module, Sequential

RATES = (1, 1, 2, 4, 8, 16, 1)  # table 1: dilations of the 3x3 convolutions; together they see 67x67 pixels
OUTPUT_STRIDE = 8


def identity(channels: int, kernel_size: int, rate: int, *, rngs: nnx.Rngs) -> Conv:
    """Return a convolution that keeps the size, and that begins as the identity."""
    padding = kernel_size // 2 * rate
    conv = Conv(channels, channels, kernel_size, padding=padding, dilation=rate, init="zeros", rngs=rngs)
    kernel = np.zeros(conv.kernel[...].shape)
    kernel[kernel_size // 2, kernel_size // 2] = np.eye(channels)
    conv.kernel.set_value(jnp.asarray(kernel, conv.kernel[...].dtype))
    return conv


class Context(Sequential):
    """Seven 3x3 convolutions with ReLU and a 1x1 convolution on maps of logits, at their resolution.

    Each begins as the identity, the paper's equation 4: its kernel has ones from each map to itself at the centre.

    Args:
        channels: of input and output, the number of classes.
        rngs: counted, but nothing is random.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        layers: list[Module] = []
        for rate in RATES:
            layers += [identity(channels, 3, rate, rngs=rngs), Activation(nnx.relu)]
        super().__init__(*layers, identity(channels, 1, 1, rngs=rngs))

    def for_classes(self, num_classes: int, rngs: nnx.Rngs) -> "Context":
        """Return the same for another number of classes."""
        return Context(num_classes, rngs=rngs)


class DilatedNet(Module):
    """A backbone dilated to stride 8, logits of its maps, the context module, and bilinear enlargement.

    VGG's fully connected layers are convolutions, the first with dilation 4 in the place of two poolings. Images are
    padded with zeros to multiples of 8, and the logits cut back; the paper mirrors the images' borders.

    The paper trains the front end alone, `context=False`, and then the context module on it. Trained together from the
    start they hardly learn: the module's ReLUs hide the classes whose logits are negative, at first all but one.

    Args:
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        backbone: a network of the zoo; `backbones.TRUNKS` lists the families.
        context: whether there is the context module; without it, this is the paper's front end.
        hidden: features of the fully connected layers; 0 for none. By default 4096 on a VGG and none on others.
        dropout: share left out behind each of them.
        rngs: source of the initial parameters.
    """

    heads = ("final", "context")

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        backbone: Builder = "vgg16",
        context: bool = True,
        hidden: int | None = None,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        self.backbone = Backbone(backbone, (32,), OUTPUT_STRIDE, in_channels=in_channels, rngs=rngs)
        (channels,) = self.backbone.channels
        hidden = (HIDDEN if self.backbone.kind == "VGG" else 0) if hidden is None else hidden
        self.fully_connected = fully_connected(channels, hidden, 32 // OUTPUT_STRIDE, dropout, rngs=rngs)
        self.final = Conv(hidden or channels, num_classes, 1, init="normal_0.01", rngs=rngs)
        self.context = Context(num_classes, rngs=rngs) if context else None

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 1)
        height, width = x.shape[1:3]
        (x,) = self.backbone(pad_to_multiple(x, OUTPUT_STRIDE))
        logits = self.final(self.fully_connected(x))
        logits = logits if self.context is None else self.context(logits)
        return ops.upsample_bilinear(logits, OUTPUT_STRIDE)[:, :height, :width]


register("dilatednet_vgg16", task="segmentation")(DilatedNet)
register("dilatednet_tiny", task="segmentation")(partial(DilatedNet, backbone=TINY, hidden=128, dropout=0.0))
