"""The one loop: epochs of steps, validation, metrics, checkpoints."""

import logging
import statistics
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.data import Examples, augment
from cnnjax.errors import RunError, UserError
from cnnjax.models import layer_rows
from cnnjax.nn import Module, share_batch_statistics
from cnnjax.runs import processes
from cnnjax.runs.directory import Run
from cnnjax.runs.hardware import peak_flops
from cnnjax.runs.metrics import Recorder, read_history
from cnnjax.runs.progress import Display, Plain, display
from cnnjax.runs.signals import deferred_signals
from cnnjax.train.advance import make_advance, traced_once
from cnnjax.train.checkpoints import Checkpoints
from cnnjax.train.epochs import Epochs
from cnnjax.train.evaluation import Evaluation, make_evaluator
from cnnjax.train.optimizers import learning_rate, make_optimizer
from cnnjax.train.parallel import Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.seeds import orders, over_seeds, stack, unstack
from cnnjax.train.soundness import make_careful_advance
from cnnjax.train.state import Network, TrainState, count_steps, means, split_model
from cnnjax.train.step import AXIS, Constants, make_train_step, scale_pixels

log = logging.getLogger(__name__)

SHOWN = 16  # images in TensorBoard


class Fit(NamedTuple):
    """What training ends with: the network, its final state, and a curve for every metric ("train/loss", ...)."""

    network: Network
    state: TrainState
    history: dict[str, list[float]]


def title_of(tag: str, seeds: Sequence[int]) -> str:
    """Return what names seeds in one program and the folder of their states, of the first one's tag: "cnn/seed0-7"."""
    return tag if len(seeds) == 1 else f"{tag}-{seeds[-1]}"


def check_batch_size(batch_size: int, train: Examples) -> None:
    """Raise a UserError if a batch is larger than the data."""
    if batch_size > train.size:
        raise UserError(f"a batch of {batch_size} images is larger than the {train.size} images there are to train on")


def fit(
    model: Module,
    recipe: Recipe,
    train: Examples,
    validation: Examples,
    *,
    seed: int,
    run: Run,
    tag: str,
    parallel: Parallel,
    epoch_program: bool | None = None,
) -> Fit:
    """Train a classifier, or go on where a killed process left it; a finished training is only read back.

    One seed decides the order of the examples, augmentation and every random layer: interrupted or not, the result is
    the same bits. A state is saved after every epoch, and on SIGTERM or Ctrl-C after the step.

    Args:
        model: the network with its initial parameters.
        recipe: how it is trained.
        train: examples to learn from; the last step of an epoch takes what is left.
        validation: examples to judge every epoch by, with averaged parameters if the recipe averages them.
        seed: of the order, of augmentation and of random layers; the recipe's own counts for whoever repeats trainings.
        run: the directory that metrics and checkpoints go to.
        tag: names this training within the run.
        parallel: the devices and how they are mapped.
        epoch_program: as `make_advance`.

    Raises:
        UserError: the batch is larger than the data, or cannot be split over the devices, or the schedule does not
            fit, or the run's processes have read different data.
        RunError: the loss is not finite, and such steps are not to be left out; or the run's directory has vanished.
        Interrupted: a signal came; the state is saved.
    """
    options: Any = {"run": run, "parallel": parallel, "epoch_program": epoch_program}
    return fit_together([model], recipe, train, validation, seeds=[seed], tags=[tag], **options)[0]


def fit_together(
    models: Sequence[Module],
    recipe: Recipe,
    train: Examples,
    validation: Examples,
    *,
    seeds: Sequence[int],
    run: Run,
    tags: Sequence[str],
    parallel: Parallel,
    epoch_program: bool | None = None,
) -> list[Fit]:
    """Train a network for each seed in one program, every step of all of them at once (`jax.vmap`).

    Each ends as `fit` would end with its seed, up to rounding. Seconds and milliseconds in the metrics are a seed's
    share. A step that does not end in finite numbers is left out for that seed alone, or stops all. Arguments are as
    `fit` has them, a model, a seed and a tag for each network; more than one network is not trained from a stream.
    """
    batch_size, count = recipe.batch_size, len(seeds)
    check_batch_size(batch_size, train)
    parallel.check_batch(batch_size)
    if processes.count() > 1:
        processes.check_same({"training data": _fingerprint(train), "validation data": _fingerprint(validation)})
    steps = -(-train.size // batch_size)
    optimizer = make_optimizer(recipe, steps, recipe.epochs)
    networks, states = zip(*[split_model(_prepared(model, recipe), optimizer) for model in models], strict=True)
    network, initial = networks[0], stack(states)
    title = title_of(tags[0], seeds)
    checkpoints = Checkpoints(run.checkpoints / title, run.save_every, run.check_present)
    state = checkpoints.restore(initial) or initial
    first, last = count_steps(state), recipe.epochs * steps
    if first == last:
        checkpoints.close()
        return _ends(network, state, tags, run)

    constants = parallel.replicate(stack([Constants(jax.random.key(seed)) for seed in seeds]))
    step, batch_axis = over_seeds(make_train_step(network, optimizer, recipe), count), int(count > 1)
    advance = make_advance(step, train, parallel, epoch_program, batch_axis)
    if run.profile:
        advance = traced_once(advance, run.path / "profile" / title)
    skip = partial(_skip, tags, checkpoints, recipe.on_nan)
    careful = make_careful_advance(step, train, parallel, count, skip)
    judge = make_evaluator(network, states[0], validation, parallel, recipe)
    speed = partial(_speed, flops=_flops(models[0], train), peak=peak_flops(parallel.devices, recipe.precision))
    order = partial(orders, seeds, count=train.size, batch_size=batch_size)
    with (
        closing(checkpoints),
        closing(display(title, recipe.epochs, steps, first) if run.writes else Plain(title, recipe.epochs)) as shown,
        deferred_signals() as stop,
    ):
        recorders, written = [Recorder(run.metrics, tag, first) for tag in tags if run.writes], first // steps
        if first == 0 and run.writes:
            for recorder, seed in zip(recorders, seeds, strict=True):
                recorder.write_pictures(0, _examples(train, recipe, seed))
        images = batch_size * count
        epochs = Epochs(title, initial, constants, steps, images, order, parallel, checkpoints, shown, stop)
        for epoch in epochs.run(state, last, advance, careful):
            state = epoch.state
            each = unstack(state, count)
            if not all(float(one.sums["count"]) for one in each):
                raise RunError(f"{title}: no step of epoch {epoch.number} ends in finite numbers; try a lower --lr")
            common = {"lr": float(learning_rate(recipe, steps, recipe.epochs, epoch.number * steps - 1))}
            seen = train.size - (steps - epoch.steps) * batch_size  # what fills the last batch up is not counted
            common |= speed(epoch.seconds / count, epoch.steps, seen)
            judged = [judge(one) for one in each]
            if epoch.number <= written:  # the newest state was damaged, and that of an epoch before it not finite
                recorders = [Recorder(run.metrics, one.tag, (epoch.number - 1) * steps) for one in recorders]
            written = epoch.number
            if run.writes:
                _write_epoch(epoch.number, each, common, judged, recorders, shown)
            checkpoints.save(state, statistics.fmean(one.accuracy for one in judged))
    return _ends(network, state, tags, run)


def _ends(network: Network, state: TrainState, tags: Sequence[str], run: Run) -> list[Fit]:
    each = unstack(state, len(tags))
    histories = processes.from_first(lambda: [read_history(run.metrics, tag) for tag in tags])
    return [Fit(network, one, history) for one, history in zip(each, histories, strict=True)]


def _skip(tags: Sequence[str], checkpoints: Checkpoints, on_nan: str, step: int, which: int) -> None:
    if on_nan == "stop":
        raise RunError(
            f"{tags[which]}: step {step} ends in a loss or parameters that are not finite; the last good state is of "
            f"step {checkpoints.newest() or 0}. Try a lower --lr, --clip-norm 1, or --on-nan rollback, which leaves "
            "the batch of such a step out"
        )
    log.warning("%s: left out the batch of step %d, whose loss or gradient is not finite", tags[which], step)


def _prepared(model: Module, recipe: Recipe) -> Module:
    """The model, or where its replicas share batch statistics a copy that does."""
    if recipe.sync_batch_norm:
        model = nnx.clone(model)
        share_batch_statistics(model, AXIS)
    return model


def _flops(model: Module, train: Examples) -> float:
    """Floating-point operations of training on one image: two a multiply-add, the backward pass twice the forward."""
    model = nnx.clone(model)
    model.eval()
    return 6 * sum(row.macs for row in layer_rows(model, train.image_shape))


def _speed(seconds: float, steps: int, images: int, flops: float, peak: float | None) -> dict[str, float]:
    """Metrics of how fast an epoch was; of the devices' peak the share that the model's own operations take."""
    rate = images / seconds
    speed = {"seconds": seconds, "step_ms": seconds / steps * 1e3, "images_per_second": rate}
    return speed | ({"flop_utilization": rate * flops / peak} if peak else {})


def _write_epoch(
    epoch: int,
    states: Sequence[TrainState],
    common: dict[str, float],
    judged: Sequence[Evaluation],
    recorders: Sequence[Recorder],
    shown: Display,
) -> None:
    """Write what an epoch ended with, a network of each seed after the other; show their means."""
    step, trained = int(states[0].step), [means(state.sums) | common for state in states]
    validated = [{"loss": one.loss, "accuracy": one.accuracy} for one in judged]
    for recorder, state, *values in zip(recorders, states, trained, validated, strict=True):
        for split, ours in zip(("train", "validation"), values, strict=True):
            recorder.write(step, epoch, split, ours)
        recorder.write_weights(step, state.params)
    shown.epoch_done(epoch, _mean(trained) | {f"val_{name}": value for name, value in _mean(validated).items()})


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(one[name] for one in values) for name in values[0]}


def _fingerprint(split: Examples) -> str:
    """What tells one data set from another, though the options that name them are the same."""
    images, labels = split.first(SHOWN)
    first = zlib.crc32(labels.tobytes(), zlib.crc32(images.tobytes()))
    return f"{split.size} images of {'x'.join(map(str, split.image_shape))} that begin with {first:08x}"


def _examples(train: Examples, recipe: Recipe, seed: int) -> np.ndarray:
    """The first images as training sees them, with the recipe's augmentation."""
    images, labels = train.first(SHOWN)
    sample = augment.Sample(scale_pixels(jnp.asarray(images)), jax.nn.one_hot(labels, int(labels.max()) + 1))
    return np.asarray(augment.parse(recipe.augment)(jax.random.key(seed), sample).images)
