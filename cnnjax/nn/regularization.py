"""Layers that drop parts of the network in training, scale up the rest, and are the identity in `eval`.

Each layer has a stream of random numbers named "dropout", which `nnx.reseed(model, dropout=key)` starts anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.nn.initializers import next_key
from cnnjax.nn.module import Module

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Dropout(Module):
    """Zero a share `rate` of the values in training and scale the rest by `1 / (1 - rate)`; in `eval` the identity.

    Args:
        rate: probability that a value is zeroed, in [0, 1).
        rngs: source of the random numbers.

    Raises:
        ValueError: the rate is out of range.

    Source: Srivastava et al., "Dropout" (2014).
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate}")
        self.rate = rate
        # Named "dropout" even if `rngs` has only a default stream: `nnx.reseed` finds streams by their names.
        self.dropout = nnx.Dropout(rate, rngs=nnx.Rngs(dropout=next_key(rngs.dropout)))

    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        return self.dropout(x)


class SpatialDropout(Dropout):
    """Dropout of whole feature maps: all pixels of an image's channel together, as `torch.nn.Dropout2d`.

    Neighbouring pixels are strongly correlated, so that dropping single ones removes little information.

    Args:
        rate: probability that a feature map is zeroed, in [0, 1).
        rngs: source of the random numbers.

    Raises:
        ValueError: the rate is out of range.

    Source: Tompson et al., "Efficient object localization using convolutional networks" (2015).
    """

    def __call__(self, x: Float[Array, "n ... c"]) -> Float[Array, "n ... c"]:
        return _drop_together(self.dropout, x, (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]))


class StochasticDepth(Dropout):
    """Dropout of whole images, for the branch of a residual block: `x + StochasticDepth(rate)(branch(x))`.

    In training a share `rate` of the images takes only the shortcut; the branch of the others is scaled
    by `1 / (1 - rate)`, as `torchvision.ops.StochasticDepth(p, "row")`. (The paper does not scale in training, but by
    `1 - rate` in `eval`, and drops a block for the whole batch.)

    Args:
        rate: probability that an image's branch is zeroed, in [0, 1); in the paper it grows linearly with depth.
        rngs: source of the random numbers.

    Raises:
        ValueError: the rate is out of range.

    Source: Huang et al., "Deep networks with stochastic depth" (2016).
    """

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        return _drop_together(self.dropout, x, (x.shape[0], *(1,) * (x.ndim - 1)))


def _drop_together(dropout: nnx.Dropout, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return dropout of `x` with a mask of this shape, broadcast over the other axes; what is dropped is not read."""
    factor = dropout(jnp.ones(shape, x.dtype))
    return jnp.where(factor == 0, jnp.zeros((), x.dtype), x * factor)
