"""Parameters by their names: frozen ones, ones with a learning rate of their own, and kernels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
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
    a layer's name for all its parameters. Batch statistics are no parameters: see `Frozen`.

    Raises:
        UserError: at `init`, a pattern matches nothing.
    """

    def labels(params: Tree) -> Tree:
        return _by_name("parameter or layer", params, dict.fromkeys(patterns, "frozen"), "learned")

    return optax.partition({"learned": transform, "frozen": optax.set_to_zero()}, labels)


class Frozen(NamedTuple):
    """What patterns freeze: trees of booleans like the parameters and the batch statistics, and names of layers.

    The statistics of a layer are frozen with all its parameters, so that what is frozen computes the same after
    training. Such a layer normalises by its running statistics in training, too, as Keras's with `trainable = False`
    and torchvision's `FrozenBatchNorm2d`. Dropout goes on, as it does in both.
    """

    params: Tree
    model_state: Tree
    layers: frozenset[str]

    @classmethod
    def of(cls, patterns: Sequence[str], params: Tree, model_state: Tree) -> "Frozen":
        """Return what the patterns of `freeze` mean for a network with such parameters and batch statistics."""
        frozen = {name: bool(_matching(name, patterns)) for name in _names(params)}
        having = {_layer(name) for name in frozen}
        learning = {_layer(name) for name, held in frozen.items() if not held}
        layers = frozenset(
            _layer(name)
            for name in _names(model_state)
            if _layer(name) not in learning and (_layer(name) in having or _matching(name, patterns))
        )
        held = [_layer(name) in layers for name in _names(model_state)]
        return cls(
            jax.tree.unflatten(jax.tree.structure(params), list(frozen.values())),
            jax.tree.unflatten(jax.tree.structure(model_state), held),
            layers,
        )

    def hold(self, model: nnx.Module) -> None:
        """Let the layers whose statistics are frozen normalise by them."""
        for path, layer in nnx.iter_modules(model):
            if path_name(path) in self.layers and hasattr(layer, "use_running_average"):
                layer.use_running_average = True


def kept(frozen: Tree, before: Tree, after: Tree) -> Tree:
    """Return a tree after a step, with the leaves before it, to the bit, where `frozen` is true."""
    return jax.tree.map(lambda held, old, new: old if held else new, frozen, before, after)


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
    names = _names(params)
    found = [_matching(name, values) for name in names]
    for pattern in values:
        if not any(pattern in patterns for patterns in found):
            parts = [name.split(".") for name in names]
            known = {".".join(path[:depth]) for path in parts for depth in range(1, len(path) + 1)}
            raise unknown_name(what, pattern, known)
    chosen = [values[patterns[0]] if patterns else default for patterns in found]
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def _names(tree: Tree) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [path_name(tuple(getattr(key, "key", key) for key in path)) for path in paths]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _matching(name: str, patterns: Iterable[str]) -> list[str]:
    return [p for p in patterns if fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*")]


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
