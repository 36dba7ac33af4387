"""DeepLabv3 and FCN on dilated backbones, as torchvision has them: one map of logits, enlarged to the images' size.

Chen, Papandreou, Schroff & Adam, "Rethinking atrous convolution for semantic image segmentation" (2017). torchvision's
FCN is Long, Shelhamer & Darrell's (2014) without skips, its stride kept small by dilation; `fcn.py` has the paper's.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax import ops
from cnnjax.models.backbones import Backbone, Builder
from cnnjax.models.googlenet import Concat, WithAuxiliary
from cnnjax.models.images import check_images, pad_to_multiple
from cnnjax.models.registry import register
from cnnjax.models.vgg import TINY
from cnnjax.nn import Activation, BatchNorm, Conv, Dropout, GlobalAvgPool, Module, Sequential
from cnnjax.ops.arguments import spatial

AUXILIARY_WEIGHT = 0.5  # of torchvision's training script

# Of channels of the feature maps, classes, and the source of initial values.
Head = Callable[[int, int, nnx.Rngs], Sequential]


def conv_norm(in_channels: int, width: int, kernel_size: int = 1, rate: int = 1, *, rngs: nnx.Rngs) -> list[Module]:
    """Return a convolution without bias that keeps the size, batch normalisation and ReLU."""
    padding = kernel_size // 2 * rate
    conv = Conv(in_channels, width, kernel_size, padding=padding, dilation=rate, bias=False, rngs=rngs)
    return [conv, BatchNorm(width), Activation(nnx.relu)]


def fcn_head(channels: int, num_classes: int, rngs: nnx.Rngs) -> Sequential:
    """Return a 3x3 convolution to a quarter of the channels, and the classifier of each pixel."""
    width = channels // 4
    return Sequential(
        *conv_norm(channels, width, 3, rngs=rngs), Dropout(0.1, rngs=rngs), Conv(width, num_classes, 1, rngs=rngs)
    )


class GlobalContext(Sequential):
    """The mean of the whole image, mixed by a 1x1 convolution, at every pixel."""

    def __init__(self, in_channels: int, width: int, *, rngs: nnx.Rngs):
        super().__init__(GlobalAvgPool(), *conv_norm(in_channels, width, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        pool, *rest = self
        y = pool(x)[:, None, None, :]
        for layer in rest:
            y = layer(y)
        return jnp.broadcast_to(y, (*x.shape[:3], y.shape[3]))


class ASPP(Module):
    """Atrous spatial pyramid pooling: a 1x1 and dilated 3x3 convolutions, and the global mean, side by side.

    Args:
        in_channels: of the input.
        width: channels of each branch and of the output.
        rates: dilations of the 3x3 convolutions.
        rngs: source of the initial parameters.
    """

    def __init__(self, in_channels: int, width: int, rates: Sequence[int], *, rngs: nnx.Rngs):
        self.convs = Concat(
            Sequential(*conv_norm(in_channels, width, rngs=rngs)),
            *(Sequential(*conv_norm(in_channels, width, 3, rate, rngs=rngs)) for rate in rates),
            GlobalContext(in_channels, width, rngs=rngs),
        )
        branches = len(rates) + 2
        self.project = Sequential(*conv_norm(branches * width, width, rngs=rngs), Dropout(0.5, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.project(self.convs(x))


def deeplab_head(
    channels: int, num_classes: int, rngs: nnx.Rngs, *, width: int = 256, rates: Sequence[int] = (12, 24, 36)
) -> Sequential:
    """Return `ASPP`, a 3x3 convolution, and the classifier of each pixel; default `rates` are for output stride 8."""
    aspp = ASPP(channels, width, rates, rngs=rngs)
    return Sequential(aspp, *conv_norm(width, width, 3, rngs=rngs), Conv(width, num_classes, 1, rngs=rngs))


class Segmenter(Module):
    """A dilated backbone, a head that classifies each pixel of its last feature maps, and bilinear enlargement.

    In training it returns `WithAuxiliary`, with the logits of a head on earlier maps; in `eval` logits. With the
    published backbone it computes what torchvision's computes, which enlarges maps of any size to the images' size.
    With another one, images whose size is not a multiple of the output stride are padded and the logits cut back:
    stretched maps would lie beside their pixels.

    Args:
        head: from channels and classes to the layers on the last feature maps.
        published: the backbone of the published network; None for a narrow VGG.
        auxiliary_stride: stride of the maps for the auxiliary head, before dilation.
        num_classes: number of logits a pixel.
        in_channels: channels of the images.
        backbone: a network of the zoo in place of the published one; `backbones.TRUNKS` lists the families.
        output_stride: 8, 16 or 32, pixels of the image for one of the last feature maps.
        auxiliary: whether there is the auxiliary head.
        rngs: source of the initial parameters.
        **options: of the head; for DeepLabv3 `width`, channels of its branches, and `rates`, their dilations.
    """

    heads = ("classifier.4", "aux_classifier.4")

    def __init__(
        self,
        head: Head,
        published: str | None,
        auxiliary_stride: int = 16,
        *,
        num_classes: int,
        in_channels: int,
        backbone: Builder | None = None,
        output_stride: int = 8,
        auxiliary: bool = True,
        rngs: nnx.Rngs,
        **options: int | Sequence[int],
    ):
        strides = (auxiliary_stride, 32) if auxiliary else (32,)
        network = backbone or published or TINY
        self.padded_to = 1 if network == published else output_stride
        self.backbone = Backbone(network, strides, output_stride, in_channels=in_channels, rngs=rngs)
        self.classifier = partial(head, **options)(self.backbone.channels[-1], num_classes, rngs)
        self.aux_classifier = fcn_head(self.backbone.channels[0], num_classes, rngs) if auxiliary else None
        self.deterministic = False  # set by train() and eval()

    def __call__(self, x: jax.Array) -> jax.Array | WithAuxiliary:
        check_images(self, x, 1)
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.padded_to)
        *early, last = self.backbone(x)

        def enlarged(logits: jax.Array) -> jax.Array:
            return ops.resize_bilinear(logits, spatial(x))[:, :height, :width]

        logits = enlarged(self.classifier(last))
        if self.deterministic or self.aux_classifier is None:
            return logits
        return WithAuxiliary(logits, (enlarged(self.aux_classifier(early[0])),), AUXILIARY_WEIGHT)


VARIANTS: dict[str, Callable[..., Segmenter]] = {
    "fcn_resnet50": partial(Segmenter, fcn_head, "resnet50"),
    "fcn_resnet101": partial(Segmenter, fcn_head, "resnet101"),
    "deeplabv3_resnet50": partial(Segmenter, deeplab_head, "resnet50"),
    "deeplabv3_resnet101": partial(Segmenter, deeplab_head, "resnet101"),
    "deeplabv3_mobilenet_v3_large": partial(Segmenter, deeplab_head, "mobilenet_v3_large", 8, output_stride=16),
}
for name, build in VARIANTS.items():
    register(name, task="segmentation", reference="torchvision")(build)
register("deeplabv3_tiny", task="segmentation")(
    partial(Segmenter, deeplab_head, None, auxiliary=False, width=64, rates=(3, 6, 9))
)
