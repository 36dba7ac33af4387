"""One step of training and one of evaluation, written for one replica of the mapped axis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from cnnjax.train.state import Batch, Network, TrainState, Tree

AXIS = "data"  # the mapped axis over which a batch is split


class Constants(NamedTuple):
    """What a training step reads and never changes: the key of the run's random numbers."""

    key: jax.Array


def scale_pixels(images: jax.Array) -> jax.Array:
    """Bytes to float32 in [0, 1], as the lecture feeds its networks."""
    return images.astype(jnp.float32) / 255


def make_train_step(network: Network, optimizer: optax.GradientTransformation) -> Any:
    """Return `step(state, constants, batch) -> state` for one replica, to be mapped over `AXIS`.

    The loss is the weighted mean of the categorical cross-entropy over the whole batch, all replicas together; batch
    statistics are each replica's own, and their running averages are averaged. Random layers draw from a key folded
    from the run's key, the step and the replica, so that a resumed run repeats them.
    """

    def step(state: TrainState, constants: Constants, batch: Batch) -> TrainState:
        total = _psum(batch.weights.sum())
        key = jax.random.fold_in(jax.random.fold_in(constants.key, state.step), lax.axis_index(AXIS))

        def loss_of(params: Tree) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
            model = network.merge(params, state.model_state)
            model.train()
            nnx.reseed(model, graph=False, dropout=key)
            logits = model(scale_pixels(batch.images))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            model_state = nnx.as_pure(nnx.state(model, nnx.BatchStat, graph=False)).raw_mapping
            return jnp.sum(losses * batch.weights) / total, (logits, model_state)

        (loss, (logits, model_state)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients, loss = _psum((gradients, loss))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        correct = _psum(jnp.sum((logits.argmax(-1) == batch.labels) * batch.weights))
        sums = {"loss": loss * total, "correct": correct, "count": total}
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=lax.pmean(model_state, AXIS),
            opt_state=opt_state,
            sums={name: value + sums[name] for name, value in state.sums.items()},
        )

    return step


def make_eval_step(network: Network, num_classes: int) -> Any:
    """Return `step(sums, (params, model_state), batch) -> sums` for one replica, to be mapped over `AXIS`.

    The sums are those of training and "confusion" (num_classes, num_classes): how many images of class `row` were
    taken for `column`.
    """

    def step(sums: dict[str, jax.Array], variables: tuple[Tree, Tree], batch: Batch) -> dict[str, jax.Array]:
        model = network.merge(*variables)
        model.eval()
        logits = model(scale_pixels(batch.images))
        predicted = logits.argmax(-1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        pairs = jnp.zeros((num_classes, num_classes)).at[batch.labels, predicted].add(batch.weights)
        new = {
            "loss": jnp.sum(losses * batch.weights),
            "correct": jnp.sum((predicted == batch.labels) * batch.weights),
            "count": batch.weights.sum(),
            "confusion": pairs,
        }
        new = _psum(new)
        return {name: value + new[name] for name, value in sums.items()}

    return step


def _psum(tree: Tree) -> Tree:
    """Sum over the replicas; of one replica nothing, for XLA:CPU copies whatever goes through an all-reduce."""
    return tree if lax.axis_size(AXIS) == 1 else lax.psum(tree, AXIS)
