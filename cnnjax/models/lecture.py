"""The two networks that lecture S0 trains side by side on CIFAR-10."""

import itertools
import math

import jax
from flax import nnx

from cnnjax import geometry
from cnnjax.models.images import check_image_shape
from cnnjax.models.registry import register
from cnnjax.nn import Conv, Flatten, Linear, MaxPool, Module
from cnnjax.ops.arguments import integer


@register("lecture-fcn")
class LectureFCN(Module):
    """Fully connected network: pixels - 2048 - 1024 - 512 - 128 - logits, with ReLU between.

    8,983,434 parameters on 32x32x3 images and 10 classes.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: height and width of the images.
        hidden: features of the hidden layers.
        init: name in `nn.SCHEMES`; the lecture uses Keras's.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int = 32,
        hidden: tuple[int, ...] = (2048, 1024, 512, 128),
        init: str = "keras",
        rngs: nnx.Rngs,
    ):
        image_size = integer("image_size", image_size, 1)
        sizes = (image_size * image_size * in_channels, *hidden, num_classes)
        self.heads = (f"dense.{len(hidden)}",)
        self.image_shape = (image_size, image_size, in_channels)
        self.flatten = Flatten()
        self.dense = nnx.List(
            Linear(inputs, outputs, init=init, rngs=rngs) for inputs, outputs in itertools.pairwise(sizes)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        check_image_shape(self, x, self.image_shape)
        x = self.flatten(x)
        for dense in self.dense[:-1]:
            x = nnx.relu(dense(x))
        return self.dense[-1](x)


@register("lecture-cnn")
class LectureCNN(Module):
    """Convolutional network: conv 32 - max pool - conv 64 - conv 128 - dense 128 - logits, 3x3, valid, with ReLU.

    2,077,130 parameters on 32x32x3 images and 10 classes.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: height and width of the images, at least 12.
        init: name in `nn.SCHEMES`; the lecture uses Keras's.
        rngs: source of the initial parameters.
    """

    heads = ("dense2",)

    def __init__(
        self, *, num_classes: int, in_channels: int, image_size: int = 32, init: str = "keras", rngs: nnx.Rngs
    ):
        image_size = integer("image_size", image_size, 12)  # of which a single pixel is left
        self.image_shape = (image_size, image_size, in_channels)
        self.conv1 = Conv(in_channels, 32, 3, init=init, rngs=rngs)
        self.pool = MaxPool(2)
        self.conv2 = Conv(32, 64, 3, init=init, rngs=rngs)
        self.conv3 = Conv(64, 128, 3, init=init, rngs=rngs)
        self.flatten = Flatten()
        side = image_size
        for kernel, stride in ((3, 1), (2, 2), (3, 1), (3, 1)):
            side = geometry.conv_output_size(side, kernel, stride=stride)
        self.dense1 = Linear(math.prod((side, side, 128)), 128, init=init, rngs=rngs)
        self.dense2 = Linear(128, num_classes, init=init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_image_shape(self, x, self.image_shape)
        x = self.pool(nnx.relu(self.conv1(x)))
        x = nnx.relu(self.conv2(x))
        x = nnx.relu(self.conv3(x))
        x = nnx.relu(self.dense1(self.flatten(x)))
        return self.dense2(x)
