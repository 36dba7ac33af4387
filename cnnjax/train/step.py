"""One step of training, written for one replica of the mapped axis, and compiled for all of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from cnnjax import __version__
from cnnjax.data import Examples, Split, augment, checksums, fingerprint
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError, unknown_name
from cnnjax.models import WithAuxiliary
from cnnjax.nn import Module, share_batch_statistics
from cnnjax.runs.code import digest
from cnnjax.runs.directory import as_config
from cnnjax.tasks import Task
from cnnjax.train.groups import Frozen, kept, penalty
from cnnjax.train.optimizers import make_optimizer
from cnnjax.train.parallel import AXIS, Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.remat import rematerialized
from cnnjax.train.state import Network, TrainState, Tree, split_model, tree_sha256

AUGMENTATION = 1  # what a step's key is folded with for it; random layers take the key itself
# The host hands out steps before they are done, JAX alone up to 32: that many would end before a signal is obeyed,
# and that many batches lie in memory.
STEPS_AHEAD = 4


ReplicaStep = Callable[[TrainState, "Constants", Sample], TrainState]
# From a state and indices and weights of examples to the states on the way, each with how many steps were done.
Advance = Callable[[Tree, np.ndarray, np.ndarray], Iterator[tuple[int, Tree]]]


class Constants(NamedTuple):
    """What a training step reads and never changes: the key of the run's random numbers."""

    key: jax.Array


# ---------------------------------------------------------------- one replica


def make_train_step(
    network: Network, optimizer: optax.GradientTransformationExtraArgs, task: Task, recipe: Recipe
) -> ReplicaStep:
    """Return `step(state, constants, batch) -> state` for one replica, to be mapped over `AXIS`.

    The loss is the weighted mean over the whole batch, all replicas together, plus the penalties; what auxiliary
    classifiers lose is added as `models.WithAuxiliary` says. Batch statistics are each replica's own unless the model's
    layers share them, and their running averages are averaged, except frozen ones. Augmentation and random layers draw
    from a key folded from the run's key, the step and the replica, so that a resumed run repeats them.
    """

    def step(state: TrainState, constants: Constants, batch: Sample) -> TrainState:
        batch = replace(batch, images=scale_pixels(batch.images), weights=task.weights(batch))
        total = psum(batch.weights.sum())
        frozen = Frozen.of(recipe.freeze.split(), state.params, state.model_state)
        key = jax.random.fold_in(jax.random.fold_in(constants.key, state.step), lax.axis_index(AXIS))
        if recipe.augment:
            batch = augmented(network, task, recipe, state, jax.random.fold_in(key, AUGMENTATION), batch)

        images = network.normalized(batch.images).astype(recipe.precision)

        def forward(params: Tree) -> tuple[WithAuxiliary, Tree]:
            model = network.merge(params, state.model_state)
            model.train()
            frozen.hold(model)
            nnx.reseed(model, graph=False, dropout=key)
            outputs = jax.tree.map(jnp.float32, with_auxiliary(model(images)))
            return outputs, nnx.as_pure(nnx.state(model, nnx.BatchStat, graph=False)).raw_mapping

        def loss_of(params: Tree) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array], Tree]]:
            outputs, model_state = (rematerialized(forward) if recipe.remat else forward)(params)
            parts = losses_of(task, outputs.logits, batch)
            auxiliary = sum(sum_of(losses_of(task, logits, batch)) for logits in outputs.auxiliary)
            losses = sum_of(parts) + outputs.weight * auxiliary
            loss = jnp.sum(losses * batch.weights) / jnp.maximum(total, 1)  # 0: a stream could read none of the batch
            loss += penalty(recipe.l1, recipe.l2, params) / lax.axis_size(AXIS)
            return loss, (outputs.logits, parts, model_state)

        (loss, (outputs, parts, model_state)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients, loss = psum((gradients, loss))
        model_state = kept(frozen.model_state, state.model_state, lax.pmean(model_state, AXIS))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, model_state=model_state)
        measured = {name: jnp.sum(part * batch.weights) for name, part in parts.items()} | task.measure(outputs, batch)
        for name in task.logged:
            if name not in measured:
                raise unknown_name(f"figure, which {type(task).__name__}.logged names,", name, measured)
        logged = psum({name: measured[name] for name in task.logged})
        norm = optax.tree.norm(gradients) if recipe.gradient_norm else jnp.float32(0)
        sums = {"loss": loss * total, **logged, "gradient_norm": norm * total, "count": total}
        return TrainState(
            step=state.step + 1,
            params=kept(frozen.params, state.params, optax.apply_updates(state.params, updates)),
            model_state=model_state,
            opt_state=opt_state,
            sums={name: value + sums[name] for name, value in state.sums.items()},
        )

    return step


def augmented(network: Network, task: Task, recipe: Recipe, state: TrainState, key: jax.Array, batch: Sample) -> Sample:
    """Return a batch of float images as the recipe's augmentation changes it, together with its targets."""
    outputs = jax.eval_shape(lambda x: network.merge(state.params, state.model_state)(x), batch.images)
    batch = task.before_augmentation(batch, with_auxiliary(outputs).logits)
    changed = augment.parse(recipe.augment)(key, replace(batch, weights=None))  # type: ignore[arg-type]
    return replace(changed, weights=batch.weights)


def scale_pixels(images: jax.Array) -> jax.Array:
    """Return images as float32 in [0, 1]: bytes divided by 255, floats as they are."""
    return images.astype(jnp.float32) / (255 if images.dtype == jnp.uint8 else 1)


def with_auxiliary(outputs: Any) -> WithAuxiliary:
    """Return what a network returns in training as one type: plain outputs have no auxiliary ones beside them."""
    return outputs if isinstance(outputs, WithAuxiliary) else WithAuxiliary(outputs, (), 0.0)


def losses_of(task: Task, outputs: Any, batch: Sample) -> dict[str, jax.Array]:
    """Return the parts of the loss of each image.

    Raises:
        UserError: the task gives something else than named arrays of shape (batch,).
    """
    parts = task.losses(outputs, batch)
    expected = f"{type(task).__name__}.losses must return a dict of arrays (batch,), one number an image"
    if not isinstance(parts, Mapping) or not parts:
        raise UserError(f"{expected}, got {'an empty one' if isinstance(parts, Mapping) else type(parts).__name__}")
    for name, part in parts.items():
        if jnp.shape(part) != (len(batch.images),):
            raise UserError(f"{expected}; of {len(batch.images)} images {name!r} has shape {jnp.shape(part)}")
    return dict(parts)


def sum_of(parts: dict[str, jax.Array]) -> jax.Array:
    """Return the loss of each image, of the parts that a task gives."""
    first, *others = parts.values()
    return sum(others, start=first)


def psum(tree: Tree) -> Tree:
    """Sum over the replicas; with one replica return the tree, because XLA:CPU copies operands of an all-reduce."""
    return tree if lax.axis_size(AXIS) == 1 else lax.psum(tree, AXIS)


# ---------------------------------------------------------------- compiled


@dataclass(frozen=True)
class CompiledStep:
    """A training step over the devices, and the state that it starts from.

    Attributes:
        network: the structure that is trained.
        begin: makes the state before the first step.
        constants: what the step reads, on every device.
        replica: the step of one replica.
        parallel: the devices.
        batch_axis: of the axes that a batch has, the one over examples; 1 where an axis of seeds comes first.
    """

    network: Network
    begin: Callable[[], TrainState]
    constants: Constants
    replica: ReplicaStep
    parallel: Parallel
    batch_axis: int = 0

    @cached_property
    def _compiled(self) -> Any:
        return self.parallel.map(self.replica, axis=self.batch_axis)

    @property
    def initial(self) -> TrainState:
        """The state before the first step, as one device has it: made anew, so that a training does not keep it."""
        return self.begin()

    def start(self) -> TrainState:
        """Return the initial state as the step takes it, a copy on every device."""
        return self.parallel.replicate(self.initial)

    def __call__(self, state: TrainState, batch: Sample) -> TrainState:
        """Return the state after a step; the memory of the one before is reused.

        Args:
            state: as `start` gives it.
            batch: as `Parallel.split` gives it.
        """
        after: TrainState = self._compiled(state, self.constants, batch)
        return after

    def over(self, examples: Examples) -> Advance:
        """Return what runs steps over examples, as `run_over` does."""
        run = run_over(self.replica, examples, self.parallel, self.batch_axis)
        return lambda state, indices, weights: run(state, self.constants, indices, weights)


def compile_step(
    model: Module, task: Task, recipe: Recipe, parallel: Parallel | None = None, *, steps_per_epoch: int = 1
) -> CompiledStep:
    """Bring optimiser, state, step and devices together; XLA compiles at the first call.

    Args:
        model: the network with its initial parameters.
        task: what it learns.
        recipe: how it is trained; its seed decides augmentation and random layers.
        parallel: the devices; default: all of them.
        steps_per_epoch: what schedules and accumulation are measured in.

    Raises:
        UserError: the schedule or the accumulation does not fit into the training, or a pattern names no parameter.
    """
    parallel = replace(parallel or Parallel(), barriers=recipe.remat)
    network, begin, replica = make_step(model, task, recipe, steps_per_epoch)
    return CompiledStep(network, begin, parallel.replicate(Constants(jax.random.key(recipe.seed))), replica, parallel)


def make_step(
    model: Module, task: Task, recipe: Recipe, steps_per_epoch: int
) -> tuple[Network, Callable[[], TrainState], ReplicaStep]:
    """Return the structure, what makes the initial state, and the step of one replica; as `compile_step`."""
    if recipe.sync_batch_norm:
        model = nnx.clone(model)
        share_batch_statistics(model, AXIS)
    optimizer = make_optimizer(recipe, steps_per_epoch, recipe.epochs)
    split = partial(split_model, model, optimizer, task.logged, recipe.mean, recipe.std)
    network, _ = split()
    return network, lambda: split()[1], make_train_step(network, optimizer, task, recipe)


def identity_of(
    step: CompiledStep, task: Task, recipe: Recipe, train: Examples, validation: Examples | None
) -> dict[str, Any]:
    """Return everything that decides a training's result, as JSON holds it."""
    model = step.network.merge(step.initial.params, step.initial.model_state)
    parts = {type(node) for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)}
    return {
        "cnnjax": __version__,
        "code of the network": digest(parts),
        "code of the task": digest([type(task)]),
        "task": repr(task) if is_dataclass(task) else type(task).__qualname__,
        "initial parameters": tree_sha256(step.initial.params)[:16],
        "training data": fingerprint(train),
        "all training data": checksums(train),
        "validation data": validation and fingerprint(validation),
        "all validation data": checksums(validation) if validation else {},
        **{name: value for name, value in as_config(recipe).items() if name != "vmap_seeds"},
    }


def run_over(replica: Any, examples: Examples, parallel: Parallel, batch_axis: int = 0) -> Any:
    """Return `run(carry, constants, indices, weights)`, which steps over the examples that these name.

    `indices` and `weights` are (steps, batch), or of several seeds (steps, seeds, batch). `run` yields how many steps
    are done and the carry, after every step; or once after all of them, where these are one compiled program over
    examples on the device.

    Args:
        replica: `step(carry, constants, batch) -> carry` of one replica.
        examples: what the batches are taken from.
        parallel: the devices, and whether an epoch is one program; a stream is always fed from the host.
        batch_axis: of the axes that a step's batch has, the one over examples.
    """
    if parallel.whole_epochs and isinstance(examples, Split):
        return _on_device(replica, examples, parallel, batch_axis)
    one_step = parallel.map(replica, axis=batch_axis)

    def from_host(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[tuple[int, Tree]]:
        own = map(parallel.own, (indices, weights))
        for done, batch in enumerate(examples.batches(*own)):
            placed = parallel.split(batch, axis=batch_axis)
            if done and done % STEPS_AHEAD == 0:  # now that the device has what it takes next
                jax.block_until_ready(carry)
            carry = one_step(carry, constants, placed)
            yield done + 1, carry

    return from_host


def _on_device(replica: Any, split: Split, parallel: Parallel, batch_axis: int) -> Any:
    def all_steps(carry: Tree, constants: Tree, order: Tree) -> Tree:
        examples, constants = constants

        def body(carry: Tree, batch: Tree) -> tuple[Tree, None]:
            index, weight = batch
            batch = replace(jax.tree.map(lambda array: array[index], examples), weights=weight)
            return replica(carry, constants, batch), None

        return lax.scan(body, carry, order)[0]

    examples = parallel.replicate(split.take(slice(None)))
    program = parallel.map(all_steps, axis=1 + batch_axis)

    def on_device(carry: Tree, constants: Tree, indices: np.ndarray, weights: np.ndarray) -> Iterator[tuple[int, Tree]]:
        own = tuple(map(parallel.own, (indices, weights)))
        yield len(indices), program(carry, (examples, constants), parallel.split(own, axis=1 + batch_axis))

    return on_device
