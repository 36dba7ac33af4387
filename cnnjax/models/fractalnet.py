"""FractalNet: very deep without residuals, by a rule that expands a network into a fractal of itself.

Larsson, Maire & Shakhnarovich, "FractalNet: ultra-deep neural networks without residuals" (2016): `f1(x) = conv(x)`,
`f(C+1)(x)` is the mean of `fC(fC(x))` and `conv(x)`. Means that follow each other are one, over all columns that meet,
as in the paper's figure 1.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.images import check_images
from cnnjax.models.registry import register
from cnnjax.nn import BatchNorm, Conv, Dropout, GlobalAvgPool, Linear, MaxPool, Module, Sequential
from cnnjax.ops.arguments import integer

FIRST, WIDEST = 64, 512  # channels double from block to block


class ConvUnit(Module):
    """Convolution, dropout, batch normalisation and ReLU, in this order, as the authors have it."""

    def __init__(self, in_channels: int, width: int, dropout: float, *, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, width, 3, padding=1, bias=False, init="glorot_uniform", rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.bn = BatchNorm(width)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.bn(self.dropout(self.conv(x))))


class Join(Module):
    """The element-wise mean of the columns that meet; in training of those that drop-path keeps, at least one.

    Args:
        column: the first of the columns, which follow each other.
        rate: probability that an input is left out, for the whole batch.
        rngs: source of the random numbers.
    """

    def __init__(self, column: int, rate: float, *, rngs: nnx.Rngs):
        self.column, self.rate = column, rate
        self.rngs = nnx.Rngs(dropout=rngs.dropout())

    def __call__(self, inputs: list[jax.Array], only: jax.Array | None = None) -> jax.Array:
        if only is None:
            return sum(inputs[1:], inputs[0]) / len(inputs)
        keep = self._draw(len(inputs), only)
        weight = (1 / keep.sum()).astype(inputs[0].dtype)
        # A selection: a product would let an infinity through that is left out.
        first, *others = (jnp.where(kept, weight * x, 0) for kept, x in zip(keep, inputs, strict=True))
        return sum(others, first)

    def _draw(self, count: int, only: jax.Array) -> jax.Array:
        """Return which of the inputs are kept: that of column `only`, or where it is -1 what the join draws itself."""
        draws = jax.random.uniform(self.rngs.dropout(), (count,))
        local = (draws >= self.rate) | (draws == draws.max())
        keep = jnp.where(only < 0, local, only == self.column + jnp.arange(count))
        # Where that column does not pass this join, its output is left out later; batch statistics still see it.
        return keep | ~keep.any()


class Fractal(Module):
    """The columns of a block, from one on: a convolution beside two fractals of one column less.

    Args:
        in_channels: of the input.
        width: channels of every convolution.
        column: the first column, that of the single convolution.
        columns: how many there are in the block.
        dropout: share left out after each convolution.
        drop_path: rate of the joins.
        rngs: source of the initial parameters and of what is left out.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        column: int,
        columns: int,
        *,
        dropout: float,
        drop_path: float,
        rngs: nnx.Rngs,
    ):
        self.unit = ConvUnit(in_channels, width, dropout, rngs=rngs)
        self.deeper = column + 1 < columns
        if self.deeper:
            smaller = partial(Fractal, dropout=dropout, drop_path=drop_path, rngs=rngs)
            self.first = smaller(in_channels, width, column + 1, columns)
            self.join = Join(column + 1, drop_path, rngs=rngs)
            self.second = smaller(width, width, column + 1, columns)

    def __call__(self, x: jax.Array, only: jax.Array | None = None) -> list[jax.Array]:
        """Return the output of each column, still to be joined; `only` as `Join` takes it."""
        if not self.deeper:
            return [self.unit(x)]
        halfway = self.join(self.first(x, only), only)
        return [self.unit(x), *self.second(halfway, only)]


class Block(Module):
    """A fractal, the join of its columns, and a pooling; arguments as `Fractal`.

    The paper lets join and pooling change places where that is easier to build.
    """

    def __init__(self, in_channels: int, width: int, columns: int, *, dropout: float, drop_path: float, rngs: nnx.Rngs):
        self.fractal = Fractal(in_channels, width, 0, columns, dropout=dropout, drop_path=drop_path, rngs=rngs)
        self.join = Join(0, drop_path, rngs=rngs)
        self.pool = MaxPool(2)

    def __call__(self, x: jax.Array, only: jax.Array | None = None) -> jax.Array:
        return self.pool(self.join(self.fractal(x, only), only))


@register("fractalnet")
class FractalNet(Module):
    """Fractal blocks with poolings, `blocks * 2**(columns - 1)` convolutions deep, and a linear classifier.

    Drop-path draws anew for every batch: either every join leaves out each of its inputs with probability `drop_path`
    but keeps one (local), or a single column is kept in the whole network (global).

    Args:
        num_classes: number of logits.
        in_channels: channels of the images, at least `2**blocks` pixels high and wide.
        columns: C; the longest path through a block has `2**(C - 1)` convolutions, the shortest one.
        blocks: B; None: as many as widths, or 5.
        widths: channels of each block; None: 64, and twice as many from block to block, up to 512.
        dropout: share left out after convolutions of the second block; it grows by as much from each to the next.
        drop_path: rate of local drop-path; 0: no drop-path at all.
        global_share: probability of global drop-path.
        rngs: source of the initial parameters and of what is left out.

    Raises:
        ValueError: an argument is out of range.
    """

    heads = ("fc",)

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        columns: int = 3,
        blocks: int | None = None,
        widths: Sequence[int] | None = None,
        dropout: float = 0.1,
        drop_path: float = 0.15,
        global_share: float = 0.5,
        rngs: nnx.Rngs,
    ):
        for name, rate in {"drop_path": drop_path, "global_share": global_share}.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {rate}")
        self.columns = integer("columns", columns, 1)
        widths = _widths(blocks, widths)
        self.smallest = 2 ** len(widths)
        self.drop_path, self.global_share = drop_path, global_share
        layers, channels = [], in_channels
        for number, width in enumerate(widths):
            layers.append(Block(channels, width, columns, dropout=number * dropout, drop_path=drop_path, rngs=rngs))
            channels = width
        self.blocks = Sequential(*layers)
        self.avgpool = GlobalAvgPool()
        self.fc = Linear(channels, num_classes, init="glorot_uniform", rngs=rngs)
        self.rngs = nnx.Rngs(dropout=rngs.dropout())
        self.deterministic = False  # set by train() and eval()

    def __call__(self, x: jax.Array) -> jax.Array:
        check_images(self, x, self.smallest)
        only = None if self.deterministic or not self.drop_path else self._draw_column()
        for block in self.blocks:
            x = block(x, only)
        return self.fc(self.avgpool(x))

    def _draw_column(self) -> jax.Array:
        """Return the only column that is kept, or -1 where every join draws on its own."""
        whole, column = jax.random.split(self.rngs.dropout())
        return jnp.where(
            jax.random.bernoulli(whole, self.global_share), jax.random.randint(column, (), 0, self.columns), -1
        )


def _widths(blocks: int | None, widths: Sequence[int] | None) -> Sequence[int]:
    if widths is None:
        return [
            min(FIRST * 2**number, WIDEST) for number in range(integer("blocks", 5 if blocks is None else blocks, 1))
        ]
    if not isinstance(widths, Sequence) or not widths or blocks not in (None, len(widths)):
        wanted = "each block" if blocks is None else f"each of {blocks} blocks"
        raise UserError(f"widths must be a list of the channels of {wanted}, got {widths!r}")
    return [integer("widths", width, 1) for width in widths]
