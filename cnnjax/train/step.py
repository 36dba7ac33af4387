"""One step of training and one of evaluation, written for one replica of the mapped axis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from cnnjax.data import augment
from cnnjax.errors import UserError
from cnnjax.models import WithAuxiliary
from cnnjax.train.losses import make_loss, penalty, predicted_classes, probabilities_of
from cnnjax.train.recipe import Recipe
from cnnjax.train.state import Batch, Network, TrainState, Tree

AXIS = "data"  # the mapped axis over which a batch is split
AUGMENTATION = 1  # what a step's key is folded with for it; random layers take the key itself


class Constants(NamedTuple):
    """What a training step reads and never changes: the key of the run's random numbers."""

    key: jax.Array


def scale_pixels(images: jax.Array) -> jax.Array:
    """Bytes to float32 in [0, 1], as the lecture feeds its networks."""
    return images.astype(jnp.float32) / 255


def make_train_step(network: Network, optimizer: optax.GradientTransformationExtraArgs, recipe: Recipe) -> Any:
    """Return `step(state, constants, batch) -> state` for one replica, to be mapped over `AXIS`.

    The loss is the weighted mean over the whole batch, all replicas together, plus the penalties; what auxiliary
    classifiers lose is added as `models.WithAuxiliary` says. Batch statistics are each replica's own unless the model's
    layers share them, and their running averages are averaged. Augmentation and random layers draw from a key folded
    from the run's key, the step and the replica, so that a resumed run repeats them.
    """
    compute, change = make_loss(recipe), augment.parse(recipe.augment)

    def step(state: TrainState, constants: Constants, batch: Batch) -> TrainState:
        total = _psum(batch.weights.sum())
        key = jax.random.fold_in(jax.random.fold_in(constants.key, state.step), lax.axis_index(AXIS))
        images = scale_pixels(batch.images)
        targets: Any = batch.labels
        if recipe.augment:
            outputs = jax.eval_shape(lambda x: network.merge(state.params, state.model_state)(x), images)
            classes = _with_auxiliary(outputs).logits.shape[-1]
            sample = augment.Sample(images, probabilities_of(targets, classes))
            changed = change(jax.random.fold_in(key, AUGMENTATION), sample)
            images, targets = changed.images, changed.labels

        def loss_of(params: Tree) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
            model = network.merge(params, state.model_state)
            model.train()
            nnx.reseed(model, graph=False, dropout=key)
            outputs = jax.tree.map(jnp.float32, _with_auxiliary(model(images.astype(recipe.precision))))
            if outputs.logits.ndim != 2:
                raise UserError(
                    "a network that is trained on classes must give logits (batch, classes), got shape "
                    f"{outputs.logits.shape}: for an autoencoder take jax.grad of the error of its images"
                )
            model_state = nnx.as_pure(nnx.state(model, nnx.BatchStat, graph=False)).raw_mapping
            auxiliary = sum(compute(logits, targets) for logits in outputs.auxiliary)
            losses = compute(outputs.logits, targets) + outputs.weight * auxiliary
            loss = jnp.sum(losses * batch.weights) / jnp.maximum(total, 1)  # 0: a stream could read none of the batch
            return loss + penalty(recipe, params) / lax.axis_size(AXIS), (outputs.logits, model_state)

        (loss, (logits, model_state)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients, loss = _psum((gradients, loss))
        model_state = lax.pmean(model_state, AXIS)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, model_state=model_state)
        correct = _psum(jnp.sum((predicted_classes(recipe, logits) == batch.labels) * batch.weights))
        norm = optax.tree.norm(gradients) if recipe.gradient_norm else jnp.float32(0)
        sums = {"loss": loss * total, "accuracy": correct, "gradient_norm": norm * total, "count": total}
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            sums={name: value + sums[name] for name, value in state.sums.items()},
        )

    return step


def make_eval_step(network: Network, num_classes: int, recipe: Recipe) -> Any:
    """Return `step(sums, (params, model_state), batch) -> sums` for one replica, to be mapped over `AXIS`.

    The sums are "loss" (the recipe's, without its penalties), "accuracy", "count", and "confusion" (num_classes,
    num_classes): how many images of class `row` were taken for `column`.
    """
    compute = make_loss(recipe)

    def step(sums: dict[str, jax.Array], variables: tuple[Tree, Tree], batch: Batch) -> dict[str, jax.Array]:
        model = network.merge(*variables)
        model.eval()
        logits = model(scale_pixels(batch.images).astype(recipe.precision)).astype(jnp.float32)
        predicted = predicted_classes(recipe, logits)
        pairs = jnp.zeros((num_classes, num_classes)).at[batch.labels, predicted].add(batch.weights)
        new = {
            "loss": jnp.sum(compute(logits, batch.labels) * batch.weights),
            "accuracy": jnp.sum((predicted == batch.labels) * batch.weights),
            "count": batch.weights.sum(),
            "confusion": pairs,
        }
        new = _psum(new)
        return {name: value + new[name] for name, value in sums.items()}

    return step


def _with_auxiliary(outputs: Any) -> WithAuxiliary:
    """Return what a network returns in training as one type: plain logits have no auxiliary ones beside them."""
    return outputs if isinstance(outputs, WithAuxiliary) else WithAuxiliary(outputs, (), 0.0)


def _psum(tree: Tree) -> Tree:
    """Sum over the replicas; of one replica nothing, for XLA:CPU copies whatever goes through an all-reduce."""
    return tree if lax.axis_size(AXIS) == 1 else lax.psum(tree, AXIS)
