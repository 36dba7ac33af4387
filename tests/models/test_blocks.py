"""The building blocks that several networks share do what their definitions say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax.models.blocks import Residual, channel_shuffle, make_divisible
from cnnjax.models.resnet import BasicBlock
from cnnjax.nn import Identity, Sequential


def test_channel_shuffle_deals_the_groups_out_in_turn():
    x = jnp.arange(2 * 1 * 3 * 6).reshape(2, 1, 3, 6)
    y = channel_shuffle(x, 2)
    np.testing.assert_array_equal(y, x[..., jnp.array([0, 3, 1, 4, 2, 5])])
    np.testing.assert_array_equal(channel_shuffle(y, 3), x)  # the groups swapped: the way back


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(3, 8), (8, 8), (8.8, 8), (11, 16), (35.2, 32), (35.9, 40), (36, 40)],
)
def test_make_divisible_takes_the_nearest_but_loses_at_most_a_tenth(channels, expected):
    assert make_divisible(channels) == expected


def test_drop_path_leaves_whole_images_out_in_training_only():
    layer = Residual(Sequential(Identity()), shortcut=True, drop_path=0.75, rngs=nnx.Rngs(0))
    x = jnp.ones((200, 2, 2, 3))
    scale = np.unique(np.asarray(layer(x)).reshape(200, -1), axis=1)
    assert scale.shape == (200, 1)
    assert set(np.unique(scale)) == {1, 5}  # 1 + 0, or 1 + 1 / (1 - 0.75)
    assert 100 < (scale == 1).sum() < 190
    layer.eval()
    np.testing.assert_array_equal(layer(x), 2 * x)


def operands_of_the_largest_loop(model):
    """In the compiled gradient of a network: it grows with the depth if a block adds up the blocks before again."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    gradient = jax.jit(jax.grad(lambda params, x: nnx.merge(graphdef, params, rest, copy=True)(x).sum()))
    program = gradient.lower(params, jnp.zeros((8, 8, 8, 16))).compile().as_text()
    return max(line.count("%") for line in program.splitlines() if " fusion(" in line and "kind=kLoop" in line)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA:CPU")
def test_a_residual_block_does_not_add_up_the_blocks_before():
    rngs = nnx.Rngs(0)
    shallow, deep = (Sequential(*[BasicBlock(16, 16, 1, rngs=rngs) for _ in range(depth)]) for depth in (2, 5))
    assert operands_of_the_largest_loop(deep) == operands_of_the_largest_loop(shallow)
