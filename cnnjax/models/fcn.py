"""Fully convolutional networks: a classifier's layers as convolutions, and learnt enlargement with skips.

Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation" (2014): FCN-32s, FCN-16s and FCN-8s,
which add the logits of earlier, finer feature maps. `deeplab.py` has torchvision's FCN, without skips.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.backbones import Backbone, Builder
from cnnjax.models.images import check_images, pad_to_multiple
from cnnjax.models.registry import register
from cnnjax.models.vgg import TINY
from cnnjax.nn import Activation, Conv, ConvTranspose, Dropout, Module, Sequential

HIDDEN = 4096  # features of VGG's fully connected layers


class BilinearUpsample(ConvTranspose):
    """A transposed convolution that enlarges maps, and begins as bilinear interpolation of each of them by itself.

    Its kernel of twice the stride is `(1 - |a - c| / stride) * (1 - |b - c| / stride)`, c its centre. The interpolation
    takes zeros beyond the border.

    Args:
        channels: of input and output.
        stride: how many times larger the output is; even.
        rngs: counted, but nothing is random.
    """

    def __init__(self, channels: int, stride: int, *, rngs: nnx.Rngs):
        super().__init__(channels, channels, 2 * stride, stride, stride // 2, bias=False, init="zeros", rngs=rngs)
        weights = 1 - np.abs(np.arange(2 * stride) - (stride - 0.5)) / stride
        kernel = np.zeros(self.kernel[...].shape)
        kernel[:, :, np.arange(channels), np.arange(channels)] = np.outer(weights, weights)[:, :, None]
        self.kernel.set_value(jnp.asarray(kernel, self.kernel[...].dtype))
        self.scale = stride

    def for_classes(self, num_classes: int, rngs: nnx.Rngs) -> "BilinearUpsample":
        """Return the same for as many maps as there are classes."""
        return BilinearUpsample(num_classes, self.scale, rngs=rngs)


def fully_connected(channels: int, hidden: int, rate: int, dropout: float, *, rngs: nnx.Rngs) -> Sequential:
    """Return VGG's two fully connected layers as convolutions, 7x7 with a dilation and 1x1; with 0 features nothing."""
    if not hidden:
        return Sequential()
    conv = partial(Conv, init="he_normal_fan_in", rngs=rngs)
    return Sequential(
        fc6=conv(channels, hidden, 7, padding=3 * rate, dilation=rate),
        relu6=Activation(nnx.relu),
        drop6=Dropout(dropout, rngs=rngs),
        fc7=conv(hidden, hidden, 1),
        relu7=Activation(nnx.relu),
        drop7=Dropout(dropout, rngs=rngs),
    )


class FCN(Module):
    """A backbone, VGG's fully connected layers as convolutions, and logits enlarged step by step, with skips.

    Logits of stride 32 are enlarged by transposed convolutions, which are learnt. On the way, FCN-16s adds the logits
    of the maps of stride 16, and FCN-8s those of strides 16 and 8. Images are padded to multiples of 32, and the logits
    cut back; the paper pads all of them by 100 pixels.

    Args:
        stride: of the finest logits: 8, 16 or 32.
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        backbone: a network of the zoo; `backbones.TRUNKS` lists the families.
        hidden: features of the fully connected layers; 0 for none. By default 4096 on a VGG and none on others, whose
            classifiers have no such layers.
        dropout: share left out behind each of them.
        rngs: source of the initial parameters.

    Raises:
        UserError: another stride.
    """

    def __init__(
        self,
        stride: int,
        *,
        num_classes: int,
        in_channels: int,
        backbone: Builder = "vgg16",
        hidden: int | None = None,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        if stride not in (8, 16, 32):
            raise UserError(f"stride must be 8, 16 or 32, got {stride!r}")
        skips = tuple(finer for finer in (8, 16) if finer >= stride)
        self.backbone = Backbone(backbone, (*skips, 32), in_channels=in_channels, rngs=rngs)
        *channels, last = self.backbone.channels
        hidden = (HIDDEN if self.backbone.kind == "VGG" else 0) if hidden is None else hidden
        self.fully_connected = fully_connected(last, hidden, 1, dropout, rngs=rngs)
        # Zero as in the paper: a layer adds nothing to the logits until it has learnt something.
        score = partial(Conv, kernel_size=1, init="zeros", rngs=rngs)
        self.score = score(hidden or last, num_classes)
        self.skips = Sequential(*(score(each, num_classes) for each in reversed(channels)))
        factors = (*(2 for _ in skips), stride)
        self.upscores = Sequential(*(BilinearUpsample(num_classes, factor, rngs=rngs) for factor in factors))
        numbers = [f"skips.{number}" for number in range(len(skips))]
        self.heads = ("score", *numbers, *(f"upscores.{number}" for number in range(len(factors))))

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 1)
        height, width = x.shape[1:3]
        *maps, x = self.backbone(pad_to_multiple(x, 32))
        logits = self.score(self.fully_connected(x))
        *steps, last = self.upscores
        for step, skip, finer in zip(steps, self.skips, reversed(maps), strict=True):
            logits = step(logits) + skip(finer)
        return last(logits)[:, :height, :width]


for stride in (8, 16, 32):
    register(f"fcn{stride}s_vgg16", task="segmentation")(partial(FCN, stride))
register("fcn8s_tiny", task="segmentation")(partial(FCN, 8, backbone=TINY, hidden=128, dropout=0.0))
