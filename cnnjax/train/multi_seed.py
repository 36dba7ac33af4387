"""The same training with several seeds: in one program where that pays and there is room, else one after another."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples, Split
from cnnjax.errors import UserError
from cnnjax.nn import Module
from cnnjax.runs import processes
from cnnjax.runs.directory import Run
from cnnjax.runs.hardware import memory_limit
from cnnjax.tasks import Task
from cnnjax.train.callbacks import Callback
from cnnjax.train.checks import Order, check_batch_size, check_channels, check_continues, check_data, laid_out
from cnnjax.train.evaluation import check_targets, make_evaluator
from cnnjax.train.finite import carefully_over
from cnnjax.train.loop import Epochs, Fit, fit, opened, skip_step, watched
from cnnjax.train.parallel import AXIS, Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.reporting import end_epoch, example_pictures, history_of, recorder_of, speed_of, trained
from cnnjax.train.state import Tree, count_steps
from cnnjax.train.step import CompiledStep, Constants, compile_step, make_step


def fit_seeds(
    build: Callable[[int], Module],
    task: Task,
    recipe: Recipe,
    train: Examples,
    validation: Examples,
    *,
    run: Run,
    name: str,
    parallel: Parallel | None = None,
) -> Iterator[Fit]:
    """Yield what training ends with for each of the recipe's seeds: `recipe.seeds` of them from `recipe.seed` on.

    `recipe.vmap_seeds` decides how many are one program. By default that is all of them on accelerators, or half as
    many, and half again, until they fit into memory; and one on CPUs, where a single network's matrix products leave no
    core idle: eight lecture FCNs in one program have 0.8 to 1.2 times the throughput that they have in turn, lecture
    CNNs 0.6. With `patience` it is always one, and each seed stops by its own validation. What a stopped run had in one
    program resumes in one, whatever number fits now.

    Args:
        build: makes the network of a seed.
        task: as for `fit`.
        recipe: how it is trained, and with which seeds.
        train: as for `fit`.
        validation: as for `fit`.
        run: as for `fit`.
        name: of the network; the part of the run that a training has is "NAME/seedSEED".
        parallel: as for `fit`.

    Raises:
        UserError: as `fit`, or seeds of a stream are asked for in one program, or more seeds have begun in one program
            than memory holds now.
    """
    parallel = parallel or Parallel()
    seeds = range(recipe.seed, recipe.seed + recipe.seeds)
    fits = partial(_fits, build, task, recipe, train, parallel)
    at_once = processes.from_first(lambda: _seeds_at_once(recipe, train, parallel, fits))
    while seeds:
        begun = partial(_begun, run.checkpoints / name, seeds, at_once, fits)
        count = processes.from_first(begun) or at_once
        group, seeds = seeds[:count], seeds[count:]
        options: Any = {"run": run.part(f"{name}/seed{group[0]}"), "parallel": parallel}
        its_recipe = replace(recipe, seed=group[0], seeds=len(group))
        if len(group) == 1:
            yield fit(build(group[0]), task, its_recipe, train, validation, **options)
        else:
            yield from fit_together([build(seed) for seed in group], task, its_recipe, train, validation, **options)


def fit_together(
    models: Sequence[Module],
    task: Task,
    recipe: Recipe,
    train: Examples,
    validation: Examples | None,
    *,
    run: Run,
    parallel: Parallel | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[Fit]:
    """Train a network for each of the recipe's seeds in one program, every step of all of them at once (`jax.vmap`).

    Each ends as `fit` would end with its seed, up to rounding. Seconds and milliseconds in the metrics are a seed's
    share. A step that does not end in finite numbers is left out for that seed alone, or stops all. Arguments are as
    `fit` has them; the run is the first seed's part, "NAME/seed0".
    """
    parallel, seeds = parallel or Parallel(), range(recipe.seed, recipe.seed + recipe.seeds)
    check_together(recipe)
    check_data(replace(recipe, seeds=1), train, validation, parallel)
    learned, order, steps, train = laid_out(task, recipe, train)
    recipes = [replace(recipe, seed=seed, seeds=1) for seed in seeds]
    build = partial(compile_step, task=learned, parallel=parallel, steps_per_epoch=steps)
    each_step = [build(model, recipe=its_recipe) for model, its_recipe in zip(models, recipes, strict=True)]
    check_targets(each_step[0].network, each_step[0].initial, learned, train)
    step, title = together(each_step), title_of(run.tag, seeds)
    tags = [f"{run.tag.removesuffix(f'seed{seeds[0]}')}seed{seed}" for seed in seeds]
    parts = [run.part(tag) for tag in tags]
    with opened(replace(run, tag=title), callbacks) as (title, checkpoints, observers):
        members = list(zip(parts, each_step, recipes, strict=True))
        for part, own, its_recipe in members:
            check_continues(part, own, learned, its_recipe, train, validation)
        state = checkpoints.restore(step.initial) or step.initial
        first = count_steps(state)
        if first < recipe.epochs * steps:
            pictures = [partial(example_pictures, own, task, its_recipe, train) for _, own, its_recipe in members]
            recorders = [recorder_of(part, first, draw) for part, draw in zip(parts, pictures, strict=True)]
            like = each_step[0].initial
            evaluate = validation and make_evaluator(step.network, like, task, validation, recipe.precision, parallel)
            speed = speed_of(models[0], train, recipe, parallel, len(seeds))
            order = partial(orders, order, seeds)
            skip, images = partial(skip_step, tags, checkpoints, recipe.on_nan), recipe.batch_size * len(seeds)
            with watched(title, recipe.epochs, steps, first) as (shown, stop):
                epochs = Epochs(title, step, recipe.epochs, steps, images, order, checkpoints, observers, shown, stop)
                running = epochs.run(state, step.over(train), carefully_over(step, train, skip))
                del state  # whose memory the first epoch needs
                for epoch in running:
                    state = epoch.state
                    each = unstack(state, len(seeds))
                    named = zip(tags, each, strict=True)
                    figures = [{"train": trained(tag, one, epoch.number) | speed(epoch)} for tag, one in named]
                    for ours, one in zip(figures, each, strict=True):
                        ours |= {"validation": evaluate(one).figures} if evaluate else {}
                    ended = list(zip(recorders, figures, each, strict=True))
                    end_epoch(epoch, task, ended, checkpoints, shown, observers)
    ends = zip(unstack(state, len(seeds)), parts, strict=True)
    return [Fit(step.network, one, history_of(part)) for one, part in ends]


def together(steps: Sequence[CompiledStep]) -> CompiledStep:
    """Return the steps of several seeds as one program, whose arrays have a leading axis of seeds."""
    first, stack = steps[0], lambda *leaves: jnp.stack(leaves)
    constants = jax.tree.map(stack, *(step.parallel.one_copy(step.constants) for step in steps))
    return replace(
        first,
        begin=lambda: jax.tree.map(stack, *(step.initial for step in steps)),
        constants=first.parallel.replicate(constants),
        replica=jax.vmap(first.replica),
        batch_axis=1,
    )


def unstack(tree: Tree, count: int) -> list[Tree]:
    """Return a tree whose arrays have a leading axis of seeds as a tree for every seed."""
    return [jax.tree.map(lambda leaf, k=k: leaf[k], tree) for k in range(count)]


def orders(order: Order, seeds: Sequence[int], epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of an epoch for every seed: indices and weights (steps, seeds, batch)."""
    indices, weights = zip(*(order(seed, epoch) for seed in seeds), strict=True)
    return np.stack(indices, 1), np.stack(weights, 1)


def title_of(tag: str, seeds: Sequence[int]) -> str:
    """Return what names seeds in one program and the folder of their states, of the first one's tag: "cnn/seed0-7"."""
    return tag if len(seeds) == 1 else f"{tag}-{seeds[-1]}"


# ---------------------------------------------------------------- before anything is trained


def check_training(builds: Mapping[str, Callable[[int], Module]], task: Task, recipe: Recipe, train: Examples) -> None:
    """Raise a UserError if one of some networks cannot be trained so; traces a step of each and computes nothing.

    Args:
        builds: by name, what makes the network of a seed.
        task: what they are to learn.
        recipe: how they are to be trained.
        train: the examples to train on.
    """
    check_batch_size(recipe.batch_size, train)
    check_channels(recipe, train)
    _check_in_memory(recipe, train)
    task, _, steps, train = laid_out(task, recipe, train)

    def first_step(build: Callable[[int], Module], batch: Tree) -> Tree:
        network, begin, replica = make_step(build(recipe.seed), task, recipe, steps)
        initial = begin()
        check_targets(network, initial, task, train)
        return replica(initial, Constants(jax.random.key(0)), batch)

    share = jax.tree.map(
        lambda one: jax.ShapeDtypeStruct((1, recipe.batch_size, *one.shape[1:]), one.dtype), train.spec
    )  # of one replica
    for name, build in builds.items():
        try:
            jax.eval_shape(jax.vmap(partial(first_step, build), axis_name=AXIS), share)
        except UserError as error:
            augmented = f"; `augment` is {recipe.augment!r}" if recipe.augment else ""
            raise UserError(f"{name}: {error}{augmented}") from error
        except ValueError as error:  # of a layer or a loss, which know of no options
            size = "x".join(map(str, train.image_shape))
            raise UserError(
                f"{name} cannot be trained on images of {size} with `augment={recipe.augment!r}` and "
                f"{type(task).__name__} ({error}): choose others"
            ) from error


def check_together(recipe: Recipe) -> None:
    """Raise a UserError if the seeds of a recipe cannot be one program, as each may stop after another epoch."""
    if recipe.patience and recipe.seeds > 1:
        raise UserError(
            f"`patience={recipe.patience}` stops each seed when its own validation gets no better, which seeds in one "
            "program cannot: choose `vmap_seeds=auto`, which trains them one after another"
        )


def _check_in_memory(recipe: Recipe, train: Examples) -> None:
    if recipe.vmap_seeds == "always":
        check_together(recipe)
    if recipe.vmap_seeds == "always" and recipe.seeds > 1 and not isinstance(train, Split):
        raise UserError(
            "`vmap_seeds=always` needs the images in memory, for every seed has an order of its own: add `stream=never`"
        )


def _seeds_at_once(recipe: Recipe, train: Examples, parallel: Parallel, fits: Callable[[int], bool]) -> int:
    _check_in_memory(recipe, train)
    if recipe.vmap_seeds == "always":
        return recipe.seeds
    if recipe.vmap_seeds == "never" or recipe.patience:
        return 1
    if not isinstance(train, Split) or parallel.devices[0].platform == "cpu":
        return 1
    at_once = recipe.seeds
    while at_once > 1 and not fits(at_once):
        at_once = -(-at_once // 2)
    return at_once


def _begun(folder: Path, seeds: Sequence[int], at_once: int, fits: Callable[[int], bool]) -> int | None:
    """Return how many of the seeds, from the first on, were started in one program; None if no state was saved.

    With another number, which may be what fits now, they would start over.
    """
    for count in range(len(seeds), 0, -1):
        states = folder / title_of(f"seed{seeds[0]}", seeds[:count])
        if not any(path.name.isdigit() for path in states.glob("*")):
            continue
        if count > at_once and not fits(count):
            raise UserError(
                f"{states} holds the states of {count} seeds in one program, which do not fit into this device's "
                "memory: resume with a larger one, choose another `out`, or start over with `overwrite`"
            )
        return count
    return None


def _fits(
    build: Callable[[int], Module], task: Task, recipe: Recipe, train: Examples, parallel: Parallel, count: int
) -> bool:
    limit = memory_limit(parallel.devices[0])
    return limit is None or _bytes_needed(build(recipe.seed), task, recipe, train, parallel, count) <= limit


def _bytes_needed(model: Module, task: Task, recipe: Recipe, train: Examples, parallel: Parallel, count: int) -> int:
    """Memory of one device for a step of `count` seeds as XLA plans it, and the images."""
    one = Parallel(devices=parallel.devices[:1])
    step = compile_step(model, task, recipe, one)
    step = together([step] * count) if count > 1 else step
    share = (*[count] * (count > 1), recipe.batch_size // len(parallel.devices))
    batch = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct((*share, *array.shape[1:]), array.dtype), train.select(task.targets).spec
    )
    compiled = step.parallel.map(step.replica, axis=step.batch_axis)
    planned = compiled.lower(step.initial, step.constants, batch).compile().memory_analysis()
    return planned.argument_size_in_bytes + planned.temp_size_in_bytes + train.size * math.prod(train.image_shape)
