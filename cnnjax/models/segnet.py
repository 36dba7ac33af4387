"""SegNet: VGG-16's convolutions and their mirror image, which puts values back where the poolings found them.

Badrinarayanan, Kendall & Cipolla, "SegNet: a deep convolutional encoder-decoder architecture for image segmentation"
(2015).
"""

from functools import partial

import jax
from flax import nnx

from cnnjax import ops
from cnnjax.errors import UserError
from cnnjax.models.backbones import Backbone, Builder
from cnnjax.models.images import check_images, pad_to_multiple
from cnnjax.models.registry import register
from cnnjax.models.vgg import TINY
from cnnjax.nn import Activation, BatchNorm, Conv, MaxPool, Module, Sequential
from cnnjax.ops.arguments import spatial

STRIDES = (2, 4, 8, 16, 32)


class SegNet(Module):
    """A VGG encoder that remembers where its maxima were, and a decoder that unpools and convolves in its mirror image.

    The decoder has a convolution, a batch normalisation and a ReLU for each convolution of the encoder, but its last
    convolution gives the logits. Images are padded to multiples of 32, and the logits cut back. An encoder without max
    pooling, such as `mobilenet_v2`, has no switches to unpool with: `unet` with its `backbone` is the encoder-decoder
    for these.

    Args:
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        backbone: a VGG of the zoo; the paper has batch normalisation in it.
        rngs: source of the initial parameters.

    Raises:
        UserError: the backbone is no VGG.
    """

    def __init__(self, *, num_classes: int, in_channels: int, backbone: Builder = "vgg16_bn", rngs: nnx.Rngs):
        self.backbone = Backbone(backbone, STRIDES, in_channels=in_channels, rngs=rngs)
        if self.backbone.kind != "VGG":
            raise UserError(
                f"SegNet unpools where max pooling found the maxima, and {self.backbone.kind} has no such poolings: "
                'choose a VGG, or the encoder-decoder with skips, create_model("unet", backbone=...)'
            )
        conv = partial(Conv, kernel_size=3, padding=1, init="he_normal_fan_out", rngs=rngs)
        convs = [layer for layer in self.backbone.layers.values() if isinstance(layer, Conv | MaxPool)]
        stages: list[Module] = []
        layers: list[Module] = []
        for layer in reversed(convs):
            if isinstance(layer, MaxPool):
                stages, layers = [*stages, Sequential(*layers)] if layers else stages, []
            elif layer is convs[0]:
                layers.append(conv(layer.out_channels, num_classes))
            else:
                width = layer.in_channels
                layers += [conv(layer.out_channels, width), BatchNorm(width), Activation(nnx.relu)]
        self.decoder = Sequential(*stages, Sequential(*layers))
        self.heads = (f"decoder.{len(stages)}.{len(layers) - 1}",)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 1)
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, STRIDES[-1])
        switches = []
        for name in self.backbone.names:
            layer = self.backbone.layers[name]
            if isinstance(layer, MaxPool):
                size = spatial(x)
                x, indices = ops.max_pool2d_with_indices(x, layer.kernel_size)
                switches.append((indices, size))
            else:
                x = layer(x)
        for stage, (indices, size) in zip(self.decoder, reversed(switches), strict=True):
            x = stage(ops.max_unpool2d(x, indices, size))
        return x[:, :height, :width]


register("segnet_vgg16", task="segmentation")(SegNet)
register("segnet_tiny", task="segmentation")(partial(SegNet, backbone=TINY))
