"""VGG-16 with trainable attention: the class is decided by what the network looks at, at three of its depths.

Jetley, Lord, Lee & Torr, "Learn to pay attention" (2018): the network for CIFAR that the paper calls
(VGG-att3)-concat-pc, with the dropout of the authors' code.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.features import features
from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    Module,
    Sequential,
)
from cnnjax.ops.precision import in_single_precision, wide

# Channels and number of VGG-16's convolutions up to each attention estimator. The poolings between those of the first
# are left out, so that there are many pixels to choose from.
STAGES = (((64, 2), (128, 2), (256, 3)), ((512, 3),), ((512, 3),))
WIDTH = 512  # of the global descriptor
ESTIMATORS = ("attention1", "attention2", "attention3")

pool = partial(MaxPool, 2, ceil_mode=True)


def conv_unit(in_channels: int, width: int, dropout: float, rngs: nnx.Rngs) -> Sequential:
    """Return a 3x3 convolution, batch normalisation, ReLU and dropout."""
    return Sequential(
        Conv(in_channels, width, 3, padding=1, init="he_normal_fan_out", rngs=rngs),
        BatchNorm(width, eps=1e-3),
        Activation(nnx.relu),
        Dropout(dropout, rngs=rngs),
    )


def vector_unit(width: int, dropout: float, out_features: int | None, rngs: nnx.Rngs) -> Sequential:
    """Return batch normalisation, ReLU and dropout of vectors, and a linear layer if that has a size."""
    layers = (BatchNorm(width), Activation(nnx.relu), Dropout(dropout, rngs=rngs))
    return Sequential(*layers, *([Linear(width, out_features, rngs=rngs)] if out_features else []))


class Attention(Module):
    """Where to look: `softmax(u . (l_i + g) + b)` over the pixels i of local features l, given a global descriptor g.

    What the paper calls parametrised compatibility. Its softmax cancels the score u . g that g adds to every pixel,
    so that the map depends on the local features alone; g gets no gradient except for rounding.

    Args:
        channels: of the local features.
        dropout: share of the global descriptor left out before it is mapped to `channels` features, if it has more.
        rngs: source of the initial parameters.
    """

    def __init__(self, channels: int, dropout: float, *, rngs: nnx.Rngs):
        self.project = Identity() if channels == WIDTH else vector_unit(WIDTH, dropout, channels, rngs)
        self.score = Conv(channels, 1, 1, init="he_normal_fan_out", rngs=rngs)

    def __call__(self, local: jax.Array, descriptor: jax.Array) -> jax.Array:
        """Return the attention map (batch, height, width), which sums to 1 for each image."""
        # In float32 throughout: the softmax and its gradient are sums over pixels, and the gradients of all scores add
        # up to zero, which rounded ones do not.
        total = wide(local.dtype)
        summed = local.astype(total) + self.project(descriptor)[:, None, None].astype(total)
        return jax.nn.softmax(self.score(summed)[..., 0], axis=(1, 2))


@register("vgg16_attention")
class VGGAttention(Module):
    """VGG-16's convolutions in three stages, what attention picks of each, and a linear classifier of the three.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images, at least 17x17 pixels.
        dropout: shares left out after convolutions with 64 channels, after wider ones, and of vectors. Before a pooling
            or an attention estimator there is none.
        rngs: source of the initial parameters.

    Raises:
        ValueError: an argument is out of range.
    """

    heads = ("fc",)

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        dropout: tuple[float, float, float] = (0.3, 0.4, 0.5),
        rngs: nnx.Rngs,
    ):
        if not isinstance(dropout, Sequence) or len(dropout) != 3:
            raise UserError(f"dropout takes three shares, as (0.3, 0.4, 0.5), got {dropout!r}")
        narrow, broad, vector = dropout
        stages, channels = [], in_channels
        for number, stage in enumerate(STAGES):
            layers: list[Module] = [pool()] if number else []
            for width, depth in stage:
                for rate in [narrow if width == 64 else broad] * (depth - 1) + [0.0]:
                    layers.append(conv_unit(channels, width, rate, rngs))
                    channels = width
            stages.append(Sequential(*layers))
        self.stage1, self.stage2, self.stage3 = stages
        self.descriptor = Sequential(
            pool(),
            conv_unit(channels, WIDTH, broad, rngs),
            pool(),
            conv_unit(WIDTH, WIDTH, broad, rngs),
            pool(),
            GlobalAvgPool(),  # of a single pixel for 32x32 images
            Dropout(vector, rngs=rngs),
            Linear(WIDTH, WIDTH, rngs=rngs),
        )
        widths = [stage[-1][0] for stage in STAGES]
        self.attention1, self.attention2, self.attention3 = (Attention(width, vector, rngs=rngs) for width in widths)
        self.head1, self.head2, self.head3 = (vector_unit(width, vector, None, rngs) for width in widths)
        self.fc = Linear(sum(widths), num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, 17)
        first = self.stage1(x)
        second = self.stage2(first)
        third = self.stage3(second)
        descriptor = self.descriptor(third)
        picked = [
            self.head1(_mean(first, self.attention1(first, descriptor))),
            self.head2(_mean(second, self.attention2(second, descriptor))),
            self.head3(_mean(third, self.attention3(third, descriptor))),
        ]
        return self.fc(jnp.concatenate(picked, axis=-1))

    def attention_maps(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Return where the network looks in images x: (batch, height, width) at each of the three depths."""
        return tuple(features(self, x, ESTIMATORS).values())


def _mean(local: jax.Array, weights: jax.Array) -> jax.Array:
    """Return local features (batch, height, width, channels) averaged with the weights of an attention map."""
    mean = partial(jnp.einsum, "nhwc,nhw->nc", precision="highest")
    return in_single_precision(mean)(local, weights.astype(wide(local.dtype)))
