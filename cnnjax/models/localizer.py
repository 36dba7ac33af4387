"""Classification and localization: the class of an image's object and the one box around it, from shared features.

Two heads on the feature maps of a classification network, as in Sermanet et al., "OverFeat" (2013), and Simonyan &
Zisserman (2014), section A; the box does not depend on the class.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.models.backbones import Backbone, Builder
from cnnjax.models.detection import Localized
from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.models.vgg import TINY
from cnnjax.nn import Activation, AdaptiveAvgPool, Flatten, GlobalAvgPool, Linear, Module, Sequential

STRIDE = 32  # pixels of the image for one of the last feature maps


@register("localizer", task="localization")
class Localizer(Module):
    """A backbone, and from its last feature maps the logits of the classes and one box.

    The logits come from the mean of the maps, the box from their means in the cells of a grid, which keep the place
    of things. Of the four numbers t of the box head, `sigmoid(t)` are the box's centre (x, y) and its width and height,
    in shares of the image's: it always has an area, and gradients.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        backbone: a network of the zoo, or what builds one; default: a narrow VGG.
        width: hidden units of the box head.
        grid: rows and columns of cells that the box head sees, whatever the size of the images.
        rngs: source of the initial parameters.
    """

    heads = ("classifier",)

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        backbone: Builder | None = None,
        width: int = 256,
        grid: int = 4,
        rngs: nnx.Rngs,
    ):
        self.backbone = Backbone(backbone or TINY, (STRIDE,), in_channels=in_channels, rngs=rngs)
        (channels,) = self.backbone.channels
        self.pool = GlobalAvgPool()
        self.classifier = Linear(channels, num_classes, rngs=rngs)
        self.box_head = Sequential(
            AdaptiveAvgPool(grid),
            Flatten(),
            Linear(channels * grid**2, width, rngs=rngs),
            Activation(nnx.relu),
            Linear(width, 4, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> Localized:
        check_images(self, x, STRIDE)
        height, width = x.shape[1:3]
        (maps,) = self.backbone(x)
        boxes = boxes_of(self.box_head(maps), (height, width))
        return Localized(self.classifier(self.pool(maps)), boxes, (height, width))


def boxes_of(codes: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """Return boxes x0, y0, x1, y1 in pixels, whose centres and sizes are `sigmoid(codes)` of the image's.

    Args:
        codes: (batch, 4), of x, y, width and height. Half precision becomes float32, which has room for pixels.
        image_size: (height, width).
    """
    shares = nnx.sigmoid(codes.astype(jnp.promote_types(codes.dtype, jnp.float32)))
    centre, half = shares[:, :2], shares[:, 2:] / 2
    height, width = image_size
    return jnp.concatenate([centre - half, centre + half], 1) * jnp.asarray([width, height] * 2, shares.dtype)
