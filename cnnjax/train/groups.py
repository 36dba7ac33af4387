"""Parameters by their names: frozen ones, ones with a learning rate of their own, and kernels."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnnjax.errors import UserError, unknown_name
from cnnjax.nn import path_name
from cnnjax.train.state import Tree


def parse_factors(text: str) -> dict[str, float]:
    """Return the factor of every pattern, from "PATTERN=FACTOR ...".

    Raises:
        UserError: the text has another form, or a factor is not larger than 0.
    """
    factors = {}
    for word in text.split():
        pattern, _, number = word.rpartition("=")
        try:
            factors[pattern] = float(number)
        except ValueError:
            factors[pattern] = 0.0
        if not pattern or not 0 < factors[pattern] < float("inf"):
            raise UserError(f'`lr_factors` must be "PATTERN=FACTOR ..." with factors larger than 0, got {word!r}')
    return factors


def freeze(transform: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """Freeze the parameters whose names match one of the patterns; the transform sees only the others.

    A name is the path of a layer and its variable, "layer1.0.conv1.kernel". In a pattern * stands for any text, and
    a layer's name for all its parameters.

    Raises:
        UserError: at `init`, a pattern matches nothing.
    """

    def labels(params: Tree) -> Tree:
        return _by_name("parameter or layer", params, dict.fromkeys(patterns, "frozen"), "learned")

    return optax.partition({"learned": transform, "frozen": optax.set_to_zero()}, labels)


def scale_by_name(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the update of each parameter by the factor of the first pattern that matches its name, else by 1.

    Patterns are those of `freeze`.

    Raises:
        UserError: a pattern matches no parameter that is updated.
    """

    def scale(updates: Tree, _: Tree) -> Tree:
        chosen = _by_name("parameter or layer that is not frozen", updates, factors, 1.0)
        return jax.tree.map(lambda factor, update: factor * update, chosen, updates)

    return optax.stateless(scale)


def _by_name(what: str, params: Tree, values: Mapping[str, Any], default: Any) -> Tree:
    """A tree like `params`, called `what`, with the value of the first pattern that matches each name."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = [path_name(tuple(getattr(key, "key", key) for key in path)) for path in paths]
    found = [[p for p in values if fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*")] for name in names]
    for pattern in values:
        if not any(pattern in patterns for patterns in found):
            parts = [name.split(".") for name in names]
            known = {".".join(path[:depth]) for path in parts for depth in range(1, len(path) + 1)}
            raise unknown_name(what, pattern, known)
    chosen = [values[patterns[0]] if patterns else default for patterns in found]
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


# ---------------------------------------------------------------- kernels


def kernel_mask(params: Tree) -> Tree:
    """Return which parameters weight decay and penalties act on: True for a "kernel" of two axes or more.

    Kernels of convolutions and of fully connected layers scale what they are given; shrinking a bias, or the scale of a
    normalisation, only moves activations.
    """

    def is_kernel(path: Any, param: jax.Array) -> bool:
        return jax.tree_util.keystr(path[-1:], simple=True) == "kernel" and param.ndim >= 2

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def l1_penalty(params: Tree) -> jax.Array:
    """Return the sum of `|w|` over all kernels, a scalar, with the gradient sign(w), 0 at 0."""
    return _sum_over_kernels(lambda w: w * lax.stop_gradient(jnp.sign(w)), params)  # abs has the gradient 1 at 0


def l2_penalty(params: Tree) -> jax.Array:
    """Return the sum of `w^2` over all kernels, a scalar, as Keras has it.

    Its gradient is 2 w: torch's `weight_decay` in SGD and Adam is twice the strength of this penalty.
    """
    return _sum_over_kernels(jnp.square, params)


def _sum_over_kernels(function: Callable[[jax.Array], jax.Array], params: Tree) -> jax.Array:
    chosen = zip(jax.tree.leaves(params), jax.tree.leaves(kernel_mask(params)), strict=True)
    return sum((function(param).sum() for param, is_kernel in chosen if is_kernel), start=jnp.float32(0))


def penalty(l1: float, l2: float, params: Tree) -> jax.Array | float:
    """Return what a recipe adds to the mean loss: `l1 * sum |w| + l2 * sum w^2` over all kernels.

    Once for the whole batch: where replicas add up their gradients, each adds its share.
    """
    total: jax.Array | float = 0.0
    for strength, compute in ((l1, l1_penalty), (l2, l2_penalty)):
        if strength:
            total = total + strength * compute(params)
    return total
