"""Optimisers by name, from Optax's parts.

An optimiser is a chain: clip the gradient, turn it into a direction, add weight decay, scale by the learning rate,
average the parameters. Steps that are not asked for are left out. Accumulation of gradients wraps the whole chain.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from cnnjax.errors import UserError
from cnnjax.options import Checked, Count, Fraction, FractionOrZero, NotNegative, Positive, check_applies
from cnnjax.train.averages import average_params
from cnnjax.train.groups import freeze, kernel_mask, parse_factors, scale_by_name
from cnnjax.train.schedules import SCHEDULES, Schedule, Span
from cnnjax.train.state import Tree

# ---------------------------------------------------------------- optimisers


class Rule(NamedTuple):
    """An optimiser: how a gradient becomes a direction, and its library's defaults.

    Attributes:
        direction: makes the transformation from a gradient to a direction, given the momentum.
        lr: learning rate.
        weight_decay: decoupled, see `Optimization`.
        momentum: None where it is not an option.
        after_decay: transformation between weight decay and the learning rate.
    """

    direction: Callable[[float], optax.GradientTransformation]
    lr: float
    weight_decay: float = 0.0
    momentum: float | None = None
    after_decay: optax.GradientTransformation | None = None


def _muon(momentum: float) -> optax.GradientTransformation:
    """Orthogonalised momentum for kernels that mix channels, Adam for the rest.

    A kernel (height, width, in, out) is taken as the matrix (height * width * in, out) that multiplies patches. A
    depthwise kernel, with one input per group, is not such a matrix. Updates are as large as AdamW's, so that one
    learning rate serves both (Liu et al., 2025).
    """

    def labels(params: Tree) -> Tree:
        mixes = lambda kernel, param: "muon" if kernel and param.shape[-2] > 1 else "adam"  # noqa: E731
        return jax.tree.map(mixes, kernel_mask(params), params)

    def matrices(kernels: Tree) -> Tree:
        return jax.tree.map(lambda k: contrib.MuonDimensionNumbers(tuple(range(k.ndim - 1)), k.ndim - 1), kernels)

    def as_adamw(kernels: Tree, _: Tree) -> Tree:
        return jax.tree.map(lambda k: 0.2 * math.sqrt(max(k.size // k.shape[-1], k.shape[-1])) * k, kernels)

    muon = optax.chain(
        # The published momentum; that of scale_by_muon weighs the first steps differently.
        optax.trace(momentum, nesterov=True),
        contrib.scale_by_muon(beta=0.0, nesterov=False, weight_dimension_numbers=matrices),
        optax.stateless(as_adamw),
    )
    return optax.partition({"muon": muon, "adam": optax.scale_by_adam(eps=1e-7)}, labels)


OPTIMIZERS: dict[str, Rule] = {
    # Robbins & Monro (1951).
    "sgd": Rule(lambda _: optax.identity(), 1e-2),
    # Polyak (1964), Nesterov (1983); torch's form, whose velocity does not contain the learning rate.
    "momentum": Rule(optax.trace, 1e-2, momentum=0.9),
    "nesterov": Rule(lambda momentum: optax.trace(momentum, nesterov=True), 1e-2, momentum=0.9),
    # Kingma & Ba (2015), with Keras's and with torch's epsilon.
    "adam": Rule(lambda _: optax.scale_by_adam(eps=1e-7), 1e-3),
    "adam-torch": Rule(lambda _: optax.scale_by_adam(eps=1e-8), 1e-3),
    # Loshchilov & Hutter (2019).
    "adamw": Rule(lambda _: optax.scale_by_adam(eps=1e-7), 1e-3, weight_decay=4e-3),
    "adamw-torch": Rule(lambda _: optax.scale_by_adam(eps=1e-8), 1e-3, weight_decay=1e-2),
    # Hinton (2012): Keras divides by sqrt(v + eps), torch by sqrt(v) + eps with a slower decay.
    "rmsprop": Rule(lambda momentum: _rms(0.9, 1e-7, True, momentum), 1e-3, momentum=0.0),
    "rmsprop-torch": Rule(lambda momentum: _rms(0.99, 1e-8, False, momentum), 1e-2, momentum=0.0),
    # Chen et al. (2023); Optax's weight decay.
    "lion": Rule(lambda _: optax.scale_by_lion(), 1e-4, weight_decay=1e-3),
    # You et al. (2020), with the paper's and Optax's epsilon.
    "lamb": Rule(lambda _: optax.scale_by_adam(eps=1e-6), 1e-3, after_decay=optax.scale_by_trust_ratio()),
    # Jordan et al. (2024), with Keras's defaults.
    "muon": Rule(_muon, 1e-3, weight_decay=4e-3, momentum=0.95),
}


def _rms(decay: float, eps: float, eps_in_sqrt: bool, momentum: float) -> optax.GradientTransformation:
    rms = optax.scale_by_rms(decay, eps, eps_in_sqrt=eps_in_sqrt)
    return optax.chain(rms, optax.trace(momentum)) if momentum else rms


# ---------------------------------------------------------------- options


Optimizer = Literal[
    "sgd",
    "momentum",
    "nesterov",
    "adam",
    "adam-torch",
    "adamw",
    "adamw-torch",
    "rmsprop",
    "rmsprop-torch",
    "lion",
    "lamb",
    "muon",
]


@dataclass(frozen=True)
class Optimization(Checked):
    """How parameters are learned.

    Raises:
        UserError: unknown optimiser or schedule, an option out of range, or one that the chosen ones do not have.
    """

    optimizer: Optimizer = "adam"
    """Optimiser; those that end in -torch have torch's constants instead of Keras's."""
    lr: Positive | None = None
    """Peak learning rate; default: the optimiser's own."""
    momentum: FractionOrZero | None = None
    """Share of the last direction that is kept; default: the optimiser's own."""
    weight_decay: NotNegative | None = None
    """Decoupled: every update also subtracts lr * weight_decay * w from each kernel w, but not from biases and
    normalisations; default: the optimiser's own."""
    schedule: Schedule = "constant"
    """Schedule of the learning rate after the warm-up."""
    warmup_epochs: NotNegative | None = None
    """Epochs in which the learning rate rises linearly, fewer than `epochs`; default: none."""
    decay_rate: Fraction | None = None
    """Factor of a step or exponential decay; default: 0.1."""
    decay_epochs: Positive | None = None
    """Epochs between decays, fewer than remain after the warm-up for `step`; default: a third of those."""
    clip_norm: Positive | None = None
    """Longest gradient, of all parameters together; longer ones are scaled down to it."""
    freeze: str = ""
    """Parameters that stay as they are, by patterns of their names: "conv1 bn1 layer1", "features.*.bias". Batch
    statistics stay with all the parameters of their layer, which then normalises by its running averages."""
    lr_factors: str = ""
    """Learning rates of groups of parameters, as factors larger than 0 of the learning rate: "fc=10 layer1.*=0.1"."""
    accumulate: Count = 1
    """Steps whose gradients are averaged for one update of the parameters, at most all of the training."""
    ema: Fraction | None = None
    """Evaluate a moving average of parameters and batch statistics that keeps this share at every update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_factors(self.lr_factors)
        having = {name: () if rule.momentum is None else ("momentum",) for name, rule in OPTIMIZERS.items()}
        check_applies(self, having, "optimiser", self.optimizer)
        check_applies(self, {name: kind.options for name, kind in SCHEDULES.items()}, "schedule", self.schedule)


def check_epochs(optimization: Optimization, epochs: float) -> None:
    """Raise a UserError if the schedule does not fit into the epochs of a training."""
    warmup, decay = optimization.warmup_epochs or 0, optimization.decay_epochs or 0
    if warmup >= epochs:
        raise UserError(f"`warmup_epochs` must be less than the {epochs} epochs of the training, got {warmup}")
    if optimization.schedule == "step" and warmup + decay >= epochs:
        raise UserError(
            f"`decay_epochs={decay}` after {warmup} epochs of warm-up is no step within the {epochs} epochs of the "
            "training: choose less, or `schedule='constant'`"
        )


def why_epochs_matter(optimization: Optimization) -> str | None:
    """Return in words why the first steps of a training depend on its number of epochs; None if they do not."""
    name = optimization.schedule
    if SCHEDULES[name].stretched:
        return f"`schedule={name}` is stretched over all epochs"
    if "decay_epochs" in SCHEDULES[name].options and optimization.decay_epochs is None:
        return f"`schedule={name}` without `decay_epochs` decays after every third of the epochs"
    return None


# ---------------------------------------------------------------- transformations


def make_optimizer(
    optimization: Optimization, steps_per_epoch: int, epochs: int
) -> optax.GradientTransformationExtraArgs:
    """Return the Optax transformation that the options choose.

    Its state is a pytree of arrays. `update` needs the parameters, and batch statistics as `model_state` if the state
    was made `with_statistics`. Gradients must be those of the whole batch, summed over replicas. With `accumulate`, one
    update follows the mean gradient of so many steps, which for batches of one size is the gradient of all together.

    Args:
        optimization: the options.
        steps_per_epoch: calls of `update` in an epoch.
        epochs: length of the training.

    Raises:
        UserError: the schedule or the accumulation does not fit into the training.
    """
    rule, lr = OPTIMIZERS[optimization.optimizer], _schedule(optimization, steps_per_epoch, epochs)
    momentum = _or(optimization.momentum, _or(rule.momentum, 0.0))
    weight_decay = _or(optimization.weight_decay, rule.weight_decay)
    parts = (
        optimization.clip_norm and optax.clip_by_global_norm(optimization.clip_norm),
        rule.direction(momentum),
        weight_decay and optax.add_decayed_weights(weight_decay, kernel_mask),
        rule.after_decay,
        optax.scale_by_learning_rate(lr),
        optimization.lr_factors and scale_by_name(parse_factors(optimization.lr_factors)),
    )
    chain = optax.chain(*(part for part in parts if part))
    if optimization.freeze:
        chain = freeze(chain, optimization.freeze.split())
    if optimization.ema:
        chain = optax.chain(chain, average_params(optimization.ema))
    if optimization.accumulate == 1:
        return chain
    accumulated = optax.MultiSteps(chain, optimization.accumulate)
    return optax.GradientTransformationExtraArgs(accumulated.init, accumulated.update)


def learning_rate(optimization: Optimization, steps_per_epoch: int, epochs: int, step: int | jax.Array) -> jax.Array:
    """Return the learning rate of a step, counted from 0 over the whole training, as a float32 scalar.

    Raises:
        UserError: as `make_optimizer`.
    """
    lr = _schedule(optimization, steps_per_epoch, epochs)
    return jnp.asarray(lr(step // optimization.accumulate) if callable(lr) else lr, jnp.float32)


def _schedule(optimization: Optimization, steps_per_epoch: int, epochs: int) -> optax.Schedule | float:
    """The learning rate as a function of the updates, or a number if it is constant."""
    check_epochs(optimization, epochs)
    lr = _or(optimization.lr, OPTIMIZERS[optimization.optimizer].lr)
    updates = epochs * steps_per_epoch // optimization.accumulate
    if updates == 0:
        raise UserError(
            f"`accumulate={optimization.accumulate}` is more than the {epochs * steps_per_epoch} steps of the "
            "training: the parameters would never be updated"
        )
    per_epoch = steps_per_epoch / optimization.accumulate
    warmup = math.ceil((optimization.warmup_epochs or 0) * per_epoch)
    if optimization.schedule == "constant" and not warmup:
        return lr
    decay_epochs = optimization.decay_epochs or (epochs - (optimization.warmup_epochs or 0)) / 3
    span = Span(
        lr, max(updates - warmup, 1), _or(optimization.decay_rate, 0.1), max(round(decay_epochs * per_epoch), 1)
    )
    schedule = SCHEDULES[optimization.schedule].make(span)
    if not warmup:
        return schedule
    # From lr / warmup: with 0 the first update would change nothing.
    return optax.join_schedules([optax.linear_schedule(lr / warmup, lr, warmup - 1), schedule], [warmup])


def _or(chosen: float | None, default: float) -> float:
    return default if chosen is None else chosen
