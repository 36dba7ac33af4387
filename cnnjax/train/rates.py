"""The learning-rate range test (Smith, 2017, arXiv:1506.01186): train while the rate rises, and watch the loss."""

import time
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, count, islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.ndimage import gaussian_filter1d

from cnnjax.data import Examples
from cnnjax.errors import RunError, UserError
from cnnjax.nn import Module, share_batch_statistics
from cnnjax.runs.signals import interrupted
from cnnjax.tasks import Task
from cnnjax.train.checks import check_data, order_of
from cnnjax.train.loop import watched
from cnnjax.train.optimizers import make_optimizer
from cnnjax.train.parallel import AXIS, Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.state import means, split_model
from cnnjax.train.step import CompiledStep, Constants, make_train_step

SMOOTHING = 0.03  # standard deviation of the smoothing, as a share of the sweep's steps
ENOUGH = 0.05  # share of the first loss that the loss has to fall by, or the data are too noisy to suggest a rate
LEAST = 10  # steps of a sweep
DIVERGED, OVER = 4.0, 5  # the sweep ends when the mean of 5 losses is 4 times that of the first 5


class RateSweep(NamedTuple):
    """What a range test found.

    Attributes:
        rates: of the steps, (steps,) float64; fewer than asked for if the loss diverged.
        losses: of the same steps, each of the batch before its update.
        smoothed: the losses, averaged over neighbouring steps.
        suggested: a learning rate to train with; None if the sweep shows none.
        why: the rule in words, or why no rate is suggested.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggested: float | None
    why: str


def find_lr(
    model: Module,
    task: Task,
    recipe: Recipe,
    train: Examples,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    parallel: Parallel | None = None,
) -> RateSweep:
    """Train with a learning rate that rises from step to step, and suggest one; the model stays as it is.

    The rate of step k is `lowest * (highest / lowest) ** (k / (steps - 1))`. Batches, augmentation and random layers
    are those of a training with the recipe; its own rate, schedule, warm-up and averages are left out. The sweep ends
    early when the loss diverges. `suggest` has the rule for the suggested rate.

    Args:
        model: the network with its initial parameters.
        task: what it learns.
        recipe: how it is to be trained.
        train: the examples.
        lowest: the first rate.
        highest: the last rate.
        steps: of the sweep, at least 10.
        parallel: the devices; default: all of them.

    Raises:
        UserError: the rates are not in order, there are too few steps, or the recipe does not fit the data.
        RunError: the loss is not finite from the start.
    """
    if not 0 < lowest < highest < np.inf:
        raise UserError(f"`lowest` must be larger than 0 and less than `highest`, got {lowest:g} and {highest:g}")
    if steps < LEAST:
        raise UserError(f"`steps` must be at least {LEAST}, got {steps}: fewer show no curve")
    parallel = parallel or Parallel()
    check_data(recipe, train, None, parallel)
    rates = np.geomspace(lowest, highest, steps)
    step = _compiled(model, task.for_training(train), recipe, rates, parallel)
    losses = np.array(list(_losses(step, task, recipe, train, steps)))
    if not losses.size:
        raise RunError("the loss is not finite before the first update: look at the network and the images")
    rates = rates[: len(losses)]
    return RateSweep(rates, losses, *suggest(rates, losses, steps))


def suggest(rates: np.ndarray, losses: np.ndarray, steps: int) -> tuple[np.ndarray, float | None, str]:
    """Return the smoothed losses, a learning rate, and the rule in words.

    The rate is a tenth of the one at which the smoothed loss is the lowest, in two digits. Losses are averaged over
    neighbouring steps with a Gaussian whose standard deviation is 3 % of the sweep's steps.

    Args:
        rates: of the steps that were done.
        losses: of the same steps.
        steps: of the whole sweep.
    """
    if len(losses) < OVER:
        return np.array(losses), None, f"the loss is not finite after {len(losses)} steps: lower `lowest`"
    smoothed = gaussian_filter1d(np.asarray(losses, float), SMOOTHING * steps, mode="nearest")
    best = int(smoothed.argmin())
    rate = rates[best] / 10
    if smoothed[0] - smoothed[best] < ENOUGH * abs(smoothed[0]):
        return smoothed, None, "the loss falls at no rate by more than its noise: raise `highest`, `steps`, or both"
    if best == steps - 1:
        return smoothed, None, f"the loss still falls at the highest rate, {plain(rates[best])}: raise `highest`"
    if rate < rates[0]:
        return smoothed, None, f"the loss is the lowest at {plain(rates[best])}, near the start: lower `lowest`"
    why = f"a tenth of {plain(rates[best])}, the rate at which the smoothed loss is the lowest"
    return smoothed, float(f"{rate:.2g}"), why


def plain(rate: float) -> str:
    """Return a rate in two digits, without an exponent."""
    return np.format_float_positional(float(f"{rate:.2g}"), trim="-")


def _compiled(model: Module, task: Task, recipe: Recipe, rates: np.ndarray, parallel: Parallel) -> CompiledStep:
    """Return the step of a training with these rates: updates at rate 1, times the rate of the step."""
    options = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}  # whatever it is a part of
    options |= dict.fromkeys(("warmup_epochs", "decay_rate", "decay_epochs", "ema"))
    plain = Recipe(**{**options, "lr": 1.0, "schedule": "constant"})
    if recipe.sync_batch_norm:
        model = nnx.clone(model)
        share_batch_statistics(model, AXIS)
    factors = jnp.asarray(rates, jnp.float32)
    optimizer = optax.chain(
        make_optimizer(plain, len(rates), plain.epochs), optax.scale_by_schedule(lambda step: factors[step])
    )
    network, initial = split_model(model, optimizer, task.logged, plain.mean, plain.std)
    replica = make_train_step(network, optimizer, task, plain)
    constants = parallel.replicate(Constants(jax.random.key(recipe.seed)))
    return CompiledStep(network, lambda: initial, constants, replica, parallel)


def _losses(step: CompiledStep, task: Task, recipe: Recipe, train: Examples, steps: int) -> Iterator[float]:
    """Yield the loss of each step until one is not finite, or they have diverged."""
    parallel, state, losses = step.parallel, step.start(), list[float]()
    zeros = jax.tree.map(np.zeros_like, jax.device_get(step.initial.sums))
    order_in, train = order_of(task, recipe, train), train.select(task.targets)
    orders = (order_in(recipe.seed, epoch) for epoch in count())
    batches = chain.from_iterable(train.batches(*map(parallel.own, order)) for order in orders)
    started = time.perf_counter()
    with watched("learning rates", 1, steps, 0) as (shown, stop):
        for done, batch in enumerate(islice(batches, steps), 1):
            state = step(state._replace(sums=parallel.replicate(zeros)), parallel.split(batch))
            loss = means(parallel.one_copy(state.sums))["loss"]
            if not np.isfinite(loss):
                return
            losses.append(loss)
            yield loss
            if done >= LEAST and np.mean(losses[-OVER:]) > DIVERGED * abs(np.mean(losses[:OVER])):
                return
            if stop.signum is not None:
                raise interrupted(stop.signum, False, "a sweep of rates saves nothing before its end")
            shown.update(1, done, {"loss": loss}, done * recipe.batch_size / (time.perf_counter() - started))
