"""The same training with several seeds: in one program where that pays and there is room, else one after another."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.data import Examples, Split
from cnnjax.errors import UserError
from cnnjax.nn import Module
from cnnjax.runs import processes
from cnnjax.runs.directory import Run
from cnnjax.runs.hardware import memory_limit
from cnnjax.train.loop import Fit, check_batch_size, fit_together, title_of
from cnnjax.train.optimizers import make_optimizer
from cnnjax.train.parallel import Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.seeds import over_seeds, stack
from cnnjax.train.state import Batch, TrainState, split_model
from cnnjax.train.step import AXIS, Constants, make_train_step


def fit_seeds(
    build: Callable[[int], Module],
    recipe: Recipe,
    train: Examples,
    validation: Examples,
    *,
    run: Run,
    name: str,
    parallel: Parallel,
) -> Iterator[Fit]:
    """Yield what training ends with for every seed of the recipe.

    `--vmap-seeds` decides how many are one program. By default that is all of them on accelerators, or half as often
    as their memory does not suffice, and one on CPUs: there a single network's matrix products leave no core idle.
    Eight lecture FCNs in one program have 0.8 to 1.2 times the throughput that they have in turn, lecture CNNs 0.6.
    What a stopped run had in one program goes on in one, whatever number fits now.

    Args:
        build: makes the network of a seed.
        recipe: how it is trained, and with which seeds.
        train: as for `fit`.
        validation: as for `fit`.
        run: as for `fit`.
        name: of the network; a training's tag is "NAME/seedSEED".
        parallel: as for `fit`.

    Raises:
        UserError: as `fit`, or seeds of a stream are asked for in one program, or more seeds have begun in one program
            than memory holds now.
    """
    seeds = range(recipe.seed, recipe.seed + recipe.seeds)
    fits = partial(_fits, build, recipe, train, parallel)
    at_once = processes.from_first(lambda: _seeds_at_once(recipe, train, parallel, fits))
    while seeds:
        begun = partial(_begun, run.checkpoints / name, seeds, at_once, fits)
        count = processes.from_first(begun) or at_once
        group, seeds = seeds[:count], seeds[count:]
        models, tags = [build(seed) for seed in group], [f"{name}/seed{seed}" for seed in group]
        yield from fit_together(models, recipe, train, validation, seeds=group, run=run, tags=tags, parallel=parallel)


def check_training(builds: Mapping[str, Callable[[int], Module]], recipe: Recipe, train: Examples) -> None:
    """Raise a UserError if one of some networks cannot be trained so; traces a step of each and computes nothing.

    Args:
        builds: by name, what makes the network of a seed.
        recipe: how they are to be trained.
        train: the images to train on.
    """
    check_batch_size(recipe.batch_size, train)
    _check_in_memory(recipe, train)
    optimizer = make_optimizer(recipe, -(-train.size // recipe.batch_size), recipe.epochs)
    share = (1, recipe.batch_size)  # of one replica
    shapes = (*share, *train.image_shape), share, share
    batch: Any = Batch(*map(jax.ShapeDtypeStruct, shapes, (np.uint8, np.int32, np.float32)))  # type: ignore[arg-type]
    for name, build in builds.items():
        try:
            jax.eval_shape(jax.vmap(partial(_first_step, build, recipe, optimizer), axis_name=AXIS), batch)
        except UserError as error:
            augmented = f"; --augment is {recipe.augment!r}" if recipe.augment else ""
            raise UserError(f"{name}: {error}{augmented}") from error
        except ValueError as error:  # of a layer or a loss, which know of no options
            size = "x".join(map(str, train.image_shape))
            raise UserError(
                f"{name} cannot be trained on images of {size} with --augment {recipe.augment!r} and --loss "
                f"{recipe.loss} ({error}): choose others"
            ) from error


def _first_step(
    build: Callable[[int], Module], recipe: Recipe, optimizer: optax.GradientTransformationExtraArgs, batch: Batch
) -> TrainState:
    network, state = split_model(build(recipe.seed), optimizer)
    after: TrainState = make_train_step(network, optimizer, recipe)(state, Constants(jax.random.key(0)), batch)
    return after


def _check_in_memory(recipe: Recipe, train: Examples) -> None:
    if recipe.vmap_seeds == "always" and recipe.seeds > 1 and not isinstance(train, Split):
        raise UserError(
            "--vmap-seeds always needs the images in memory, for every seed has an order of its own: add --stream never"
        )


def _seeds_at_once(recipe: Recipe, train: Examples, parallel: Parallel, fits: Callable[[int], bool]) -> int:
    _check_in_memory(recipe, train)
    if recipe.vmap_seeds == "always":
        return recipe.seeds
    if recipe.vmap_seeds == "never" or not isinstance(train, Split) or parallel.devices[0].platform == "cpu":
        return 1
    at_once = recipe.seeds
    while at_once > 1 and not fits(at_once):
        at_once = -(-at_once // 2)
    return at_once


def _begun(folder: Path, seeds: Sequence[int], at_once: int, fits: Callable[[int], bool]) -> int | None:
    """How many seeds, the first of these and those after it, have states as one program; None if it has none.

    With another number, which may be what fits now, they would start over.
    """
    for count in range(len(seeds), 0, -1):
        states = folder / title_of(f"seed{seeds[0]}", seeds[:count])
        if not any(path.name.isdigit() for path in states.glob("*")):
            continue
        if count > at_once and not fits(count):
            raise UserError(
                f"{states} holds the states of {count} seeds in one program, for which this device has not the memory: "
                "go on with a larger one, choose another --out, or start over with --overwrite"
            )
        return count
    return None


def _fits(build: Callable[[int], Module], recipe: Recipe, train: Examples, parallel: Parallel, count: int) -> bool:
    limit = memory_limit(parallel.devices[0])
    return limit is None or _bytes_needed(build(recipe.seed), recipe, train, parallel, count) <= limit


def _bytes_needed(model: Module, recipe: Recipe, train: Examples, parallel: Parallel, count: int) -> int:
    """Memory of one device for a step of `count` seeds as XLA plans it, and the images."""
    optimizer = make_optimizer(recipe, 1, recipe.epochs)
    network, state = split_model(model, optimizer)
    share = (*[count] * (count > 1), recipe.batch_size // len(parallel.devices))

    def arguments() -> tuple[TrainState, Constants, Batch]:
        batch = Batch(jnp.zeros((*share, *train.image_shape), jnp.uint8), jnp.zeros(share, jnp.int32), jnp.zeros(share))
        return stack([state] * count), stack([Constants(jax.random.key(0))] * count), batch

    step = over_seeds(make_train_step(network, optimizer, recipe), count)
    compiled = Parallel(devices=parallel.devices[:1]).map(step, axis=int(count > 1))
    planned = compiled.lower(*jax.eval_shape(arguments)).compile().memory_analysis()
    images = train.size * math.prod(train.image_shape)
    return planned.argument_size_in_bytes + planned.temp_size_in_bytes + images
