"""Several seeds as one program: every array gains a leading axis of seeds. One seed alone does without it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import epoch_order
from cnnjax.train.state import Tree


def over_seeds(step: Callable[..., Any], count: int, in_axes: Any = 0) -> Callable[..., Any]:
    """Return a step of one seed as a step of `count`, by `jax.vmap`."""
    return step if count == 1 else jax.vmap(step, in_axes)


def stack(trees: Sequence[Tree]) -> Tree:
    """Return a tree for every seed as one tree."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Tree, count: int) -> list[Tree]:
    """Return one tree as a tree for every seed."""
    return [tree] if count == 1 else [jax.tree.map(lambda leaf, k=k: leaf[k], tree) for k in range(count)]


def orders(seeds: Sequence[int], epoch: int, count: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `epoch_order` of every seed: indices and weights (steps, seeds, batch), of one seed (steps, batch)."""
    indices, weights = zip(*(epoch_order(seed, epoch, count, batch_size) for seed in seeds), strict=True)
    return (indices[0], weights[0]) if len(seeds) == 1 else (np.stack(indices, 1), np.stack(weights, 1))
