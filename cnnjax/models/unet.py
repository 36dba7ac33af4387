"""U-Net: an encoder-decoder that puts the encoder's maps beside the decoder's at every size.

Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image segmentation" (2015).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.models.backbones import Backbone, Builder
from cnnjax.models.blocks import conv_norm
from cnnjax.models.images import check_images, pad_to_multiple
from cnnjax.models.registry import register
from cnnjax.nn import Activation, BatchNorm, Conv, ConvTranspose, MaxPool, Module, Sequential

WIDTHS = (64, 128, 256, 512, 1024)  # channels at each size, from the image on
DECODER_WIDTHS = (256, 128, 64, 32, 16)  # on a backbone, from stride 16 to the image


def two_convolutions(in_channels: int, width: int, padding: int, batch_norm: bool, *, rngs: nnx.Rngs) -> Sequential:
    """Return two 3x3 convolutions, each with ReLU, and with batch normalisation before it if wanted."""
    layers: list[Module] = []
    for channels in (in_channels, width):
        layers.append(Conv(channels, width, 3, padding=padding, init="he_normal_fan_in", rngs=rngs))
        layers += [BatchNorm(width)] if batch_norm else []
        layers.append(Activation(nnx.relu))
    return Sequential(*layers)


class UNet(Module):
    """Two convolutions at each size, poolings down, 2x2 transposed convolutions up, and skips at every size.

    With `padded`, convolutions keep the size: images are padded to a multiple of the largest stride and the logits cut
    back. Without, as in the paper, each convolution loses a pixel at every border: images are mirrored there, so that
    the logits still have their size, and every pixel's context is image.

    Args:
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        widths: channels at each size.
        padded: whether convolutions keep the size.
        batch_norm: whether a batch normalisation follows each 3x3 convolution; the paper has none.
        rngs: source of the initial parameters.
    """

    heads = ("score",)

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        widths: Sequence[int] = WIDTHS,
        padded: bool = True,
        batch_norm: bool = False,
        rngs: nnx.Rngs,
    ):
        block = partial(two_convolutions, padding=int(padded), batch_norm=batch_norm, rngs=rngs)
        self.padded = padded
        self.down = Sequential(*(block(ins, outs) for ins, outs in zip((in_channels, *widths), widths, strict=False)))
        self.pool = MaxPool(2)
        ups, blocks = [], []
        for wide, width in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
            ups.append(ConvTranspose(wide, width, 2, 2, init="he_normal_fan_in", rngs=rngs))
            blocks.append(block(2 * width, width))
        self.up, self.merge = Sequential(*ups), Sequential(*blocks)
        self.score = Conv(widths[0], num_classes, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 1)
        height, width = x.shape[1:3]
        stride = 2 ** len(self.up)
        x = pad_to_multiple(x, stride) if self.padded else self._mirrored(x, stride)
        skips: list[jax.Array] = []
        for block in self.down:
            x = block(self.pool(x) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = up(x)
            top, left = ((have - want) // 2 for have, want in zip(skip.shape[1:3], x.shape[1:3], strict=True))
            middle = skip[:, top : top + x.shape[1], left : left + x.shape[2]]
            x = merge(jnp.concatenate([middle, x], axis=-1))
        return self.score(x)[:, :height, :width]

    def _mirrored(self, x: jax.Array, stride: int) -> jax.Array:
        """Return images with mirrored borders, so large that the logits cover the images.

        Of maps with n pixels at the lowest resolution, `stride * n - outer` pixels have logits, for images of
        `stride * (n + 4) + inner` pixels: two convolutions at each size lose four pixels of it.
        """
        inner, outer = 4 * (stride - 1), 4 * (stride - 1)
        margin = (inner + outer + 4 * stride) // 2
        sides = [(margin, margin + (-(size + outer)) % stride) for size in x.shape[1:3]]
        return jnp.pad(x, ((0, 0), *sides, (0, 0)), mode="reflect" if min(x.shape[1:3]) > 1 else "edge")


class BackboneUNet(Module):
    """U-Net's decoder on the feature maps of a network of the zoo, from stride 32 up to the images' size.

    At each size a 2x2 transposed convolution, the backbone's maps of that size beside its output, and two 3x3
    convolutions with batch normalisation. Images are padded to multiples of 32, and the logits cut back.

    Args:
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        backbone: a network of the zoo; `backbones.TRUNKS` lists the families.
        widths: channels of the decoder at strides 16, 8, 4, 2 and 1.
        rngs: source of the initial parameters.
    """

    heads = ("score",)

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        backbone: Builder,
        widths: Sequence[int] = DECODER_WIDTHS,
        rngs: nnx.Rngs,
    ):
        self.backbone = Backbone(backbone, (2, 4, 8, 16, 32), in_channels=in_channels, rngs=rngs)
        *skips, channels = self.backbone.channels
        ups, blocks = [], []
        for width, skip in zip(widths, (*reversed(skips), 0), strict=True):
            ups.append(ConvTranspose(channels, width, 2, 2, init="he_normal_fan_in", rngs=rngs))
            blocks.append(Sequential(conv_norm(width + skip, width, rngs=rngs), conv_norm(width, width, rngs=rngs)))
            channels = width
        self.up, self.merge = Sequential(*ups), Sequential(*blocks)
        self.score = Conv(channels, num_classes, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 1)
        height, width = x.shape[1:3]
        *skips, x = self.backbone(pad_to_multiple(x, 32))
        for up, merge, skip in zip(self.up, self.merge, (*reversed(skips), None), strict=True):
            x = up(x)
            x = merge(x if skip is None else jnp.concatenate([skip, x], axis=-1))
        return self.score(x)[:, :height, :width]


@register("unet", task="segmentation")
def unet(
    *,
    num_classes: int,
    in_channels: int,
    backbone: Builder | None = None,
    widths: Sequence[int] | None = None,
    padded: bool = True,
    batch_norm: bool = False,
    rngs: nnx.Rngs,
) -> UNet | BackboneUNet:
    """Return U-Net as published, or with another encoder: the encoder-decoder for any backbone, with skips.

    Args:
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        backbone: a network of the zoo as the encoder, for `BackboneUNet`.
        widths: channels at each size, of `UNet` from the images on, on a backbone of the decoder from stride 16 on.
        padded: as `UNet`; on a backbone always.
        batch_norm: as `UNet`; on a backbone always.
        rngs: source of the initial parameters.
    """
    classes = {"num_classes": num_classes, "in_channels": in_channels}
    if backbone is not None:
        return BackboneUNet(**classes, backbone=backbone, widths=widths or DECODER_WIDTHS, rngs=rngs)
    return UNet(**classes, widths=widths or WIDTHS, padded=padded, batch_norm=batch_norm, rngs=rngs)


register("unet_tiny", task="segmentation")(partial(UNet, widths=(16, 32, 64, 96, 128), batch_norm=True))
