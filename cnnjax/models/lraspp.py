"""LR-ASPP: a light head on MobileNetV3 that weighs channels by the whole image, and adds logits of earlier maps.

Howard et al., "Searching for MobileNetV3" (2019), figure 10, as torchvision has it.
"""

from functools import partial

import jax
from flax import nnx

from cnnjax import ops
from cnnjax.models.backbones import Backbone, Builder
from cnnjax.models.deeplab import conv_norm
from cnnjax.models.images import check_images, pad_to_multiple
from cnnjax.models.registry import register
from cnnjax.nn import Activation, Conv, GlobalAvgPool, Module, Sequential
from cnnjax.ops.arguments import spatial


class Head(Module):
    """Logits of each pixel from the last feature maps and from earlier, larger ones.

    Args:
        low: channels of the earlier maps.
        high: channels of the last maps.
        num_classes: number of logits.
        width: channels that the last maps are mixed to.
        rngs: source of the initial parameters.
    """

    def __init__(self, low: int, high: int, num_classes: int, width: int, *, rngs: nnx.Rngs):
        self.cbr = Sequential(*conv_norm(high, width, rngs=rngs))
        self.scale = Sequential(GlobalAvgPool(), Conv(high, width, 1, bias=False, rngs=rngs), Activation(nnx.sigmoid))
        self.low_classifier = Conv(low, num_classes, 1, rngs=rngs)
        self.high_classifier = Conv(width, num_classes, 1, rngs=rngs)

    def __call__(self, maps: tuple[jax.Array, ...]) -> jax.Array:
        low, high = maps
        pool, mix, gate = self.scale
        x = self.cbr(high) * gate(mix(pool(high)[:, None, None, :]))
        x = ops.resize_bilinear(x, spatial(low))
        return self.low_classifier(low) + self.high_classifier(x)


class LRASPP(Module):
    """A backbone dilated to stride 16, the light head on its maps of strides 8 and 16, and bilinear enlargement.

    With another backbone than the published one, images are padded, as `deeplab.Segmenter` says.

    Args:
        published: the backbone of the published network.
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        backbone: a network of the zoo in place of the published one.
        output_stride: 8, 16 or 32, pixels of the image for one of the last feature maps.
        width: channels of the head.
        rngs: source of the initial parameters.
    """

    heads = ("classifier.high_classifier", "classifier.low_classifier")

    def __init__(
        self,
        published: str,
        *,
        num_classes: int,
        in_channels: int,
        backbone: Builder | None = None,
        output_stride: int = 16,
        width: int = 128,
        rngs: nnx.Rngs,
    ):
        network = backbone or published
        self.padded_to = 1 if network == published else output_stride
        self.backbone = Backbone(network, (8, 32), output_stride, in_channels=in_channels, rngs=rngs)
        low, high = self.backbone.channels
        self.classifier = Head(low, high, num_classes, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 1)
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.padded_to)
        logits = self.classifier(self.backbone(x))
        return ops.resize_bilinear(logits, spatial(x))[:, :height, :width]


register("lraspp_mobilenet_v3_large", task="segmentation", reference="torchvision")(
    partial(LRASPP, "mobilenet_v3_large")
)
