"""What training carries from step to step: one pytree, so that every JAX transformation applies."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnnjax.nn import Module, normalize, normalized
from cnnjax.train.averages import averaged_variables, with_statistics

Tree = Any  # a pytree of arrays


class TrainState(NamedTuple):
    """Everything that a checkpoint holds.

    Attributes:
        step: steps done, int32.
        params: trainable parameters.
        model_state: batch statistics.
        opt_state: the optimiser's.
        sums: the running sums of the current epoch's metrics.
    """

    step: jax.Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    sums: dict[str, jax.Array]


class Network(NamedTuple):
    """A module split into its structure and its random streams; parameters and statistics travel in the state.

    The module takes images as `normalized` returns them: `(images - mean) / std`, or as they are where both are None.
    """

    graphdef: nnx.GraphDef
    rng_state: Tree
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def normalized(self, images: jax.Array) -> jax.Array:
        """Return images in [0, 1] as the module takes them."""
        return normalize(images, self.mean, self.std)

    def merge(self, params: Tree, model_state: Tree) -> Module:
        """Put the module together again, on copies that may be written inside a transformation."""
        module: Module = nnx.merge(self.graphdef, params, model_state, self.rng_state, copy=True)
        return module


class Fit(NamedTuple):
    """What training ends with: the network, its final state, and a curve for every metric ("train/loss", ...)."""

    network: Network
    state: TrainState
    history: dict[str, list[float]]

    def model(self) -> Module:
        """Return the network with its final parameters, in evaluation mode, for images in [0, 1].

        These are the parameters that `evaluate(fit.network, fit.state, ...)` judges: averages if the recipe keeps
        averages. `best_state` has those of the best epoch.
        """
        averages = averaged_variables(self.state.opt_state, self.state.params, self.state.model_state)
        model = normalized(self.network.merge(*averages), self.network.mean, self.network.std)
        model.eval()
        return model


def split_model(
    model: Module,
    optimizer: optax.GradientTransformation,
    logged: Sequence[str] = (),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[Network, TrainState]:
    """Split a model into its structure and the state that training starts from.

    Args:
        model: the network with its initial parameters.
        optimizer: makes its own state.
        logged: what is summed over an epoch, beside the loss.
        mean: of the images that the model takes; None: they are in [0, 1].
        std: of the same images.
    """
    graphdef, *parts = nnx.split(model, nnx.Param, nnx.BatchStat, ..., graph=False)
    params, model_state, rng_state = (nnx.as_pure(part).raw_mapping for part in parts)
    opt_state = with_statistics(optimizer.init(params), model_state)
    sums = {name: jnp.float32(0) for name in ("loss", *logged, "gradient_norm", "count")}
    return Network(graphdef, rng_state, mean, std), TrainState(jnp.int32(0), params, model_state, opt_state, sums)


def count_steps(state: TrainState) -> int:
    """Return how many steps a state is of; waits for the device."""
    return int(np.max(state.step))  # of several seeds, all have done the same


def means(sums: Tree) -> dict[str, float]:
    """Return sums over examples divided by their count, nan of none; waits for the device."""
    count = float(sums["count"]) or math.nan
    means = {name: float(value) / count for name, value in sums.items() if name != "count"}
    return {name: value for name, value in means.items() if name != "gradient_norm" or value}  # 0: not asked for


def tree_sha256(tree: Tree) -> str:
    """Return a fingerprint of arrays: their names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # without a copy
    return digest.hexdigest()
