"""Parameters by patterns of their names: what stays as it is, and what has a learning rate of its own."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import optax

from cnnjax.errors import UserError, unknown_name
from cnnjax.nn import path_name
from cnnjax.train.state import Tree


def parse_factors(text: str) -> dict[str, float]:
    """Return the factor of every pattern, from "PATTERN=FACTOR ...".

    Raises:
        UserError: it is written otherwise, or a factor is not above 0.
    """
    factors = {}
    for word in text.split():
        pattern, _, number = word.rpartition("=")
        try:
            factors[pattern] = float(number)
        except ValueError:
            factors[pattern] = 0.0
        if not pattern or not 0 < factors[pattern] < float("inf"):
            raise UserError(f'--lr-factors takes "PATTERN=FACTOR ...", factors above 0, got {word!r}')
    return factors


def freeze(transform: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """Leave parameters as they are whose names match one of the patterns; the transform sees the others alone.

    A name is the path of a layer and its variable, "layer1.0.conv1.kernel". In a pattern * stands for anything, and a
    layer's name for all that it holds.

    Raises:
        UserError: at `init`, a pattern matches nothing.
    """

    def labels(params: Tree) -> Tree:
        return _by_name("parameter or layer", params, dict.fromkeys(patterns, "frozen"), "learned")

    return optax.partition({"learned": transform, "frozen": optax.set_to_zero()}, labels)


def scale_by_name(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the update of a parameter by the factor of the first pattern that its name matches, others by 1.

    Patterns are as `freeze` has them.

    Raises:
        UserError: a pattern matches nothing that is updated.
    """

    def scale(updates: Tree, _: Tree) -> Tree:
        chosen = _by_name("parameter or layer that is not frozen", updates, factors, 1.0)
        return jax.tree.map(lambda factor, update: factor * update, chosen, updates)

    return optax.stateless(scale)


def _by_name(what: str, params: Tree, values: Mapping[str, Any], default: Any) -> Tree:
    """A tree like `params`, called `what`, with the value of the first pattern that each one's name matches."""
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
