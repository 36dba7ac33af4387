"""The one loop: epochs of steps, validation, metrics, checkpoints."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples
from cnnjax.errors import RunError
from cnnjax.nn import Module
from cnnjax.runs import compilation, processes
from cnnjax.runs.directory import Run
from cnnjax.runs.processes import Wishes
from cnnjax.runs.progress import Display, Silent, display
from cnnjax.runs.signals import StopRequest, deferred_signals, interrupted
from cnnjax.tasks import Task
from cnnjax.train.arguments import check_kinds
from cnnjax.train.callbacks import Callback, Profile
from cnnjax.train.checkpoints import Checkpoints, Kept
from cnnjax.train.checks import check_continues, check_data, laid_out
from cnnjax.train.evaluation import check_targets, make_evaluator
from cnnjax.train.finite import carefully_over, is_finite
from cnnjax.train.lengths import Patience
from cnnjax.train.parallel import Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.reporting import Epoch, end_epoch, example_pictures, history_of, recorder_of, speed_of, trained
from cnnjax.train.state import Fit, TrainState, count_steps, means
from cnnjax.train.step import Advance, CompiledStep, compile_step

log = logging.getLogger(__name__)


def fit(
    model: Module,
    task: Task,
    recipe: Recipe,
    train: Examples,
    validation: Examples | None,
    *,
    run: Run | None = None,
    parallel: Parallel | None = None,
    callbacks: Sequence[Callback] = (),
) -> Fit:
    """Train a network, or resume where a killed process left it; a finished training is only read back.

    The recipe's seed decides the order of the examples, augmentation and every random layer: interrupted or not, the
    result is the same bits. With a run a state is saved after every epoch, and on SIGTERM or Ctrl-C after the step.

    Args:
        model: the network with its initial parameters.
        task: what it learns.
        recipe: how it is trained.
        train: examples to learn from; the last step of an epoch takes what is left.
        validation: examples to evaluate after every epoch, with averaged parameters if there are any; or None.
        run: the directory that metrics and checkpoints go to; without one nothing is kept on disk.
        parallel: the devices and how they are mapped; default: all of them.
        callbacks: observers, beside those of the run.

    Raises:
        UserError: an argument is of another kind, the arguments do not go together, or the run is of something else.
        RunError: the loss is not finite, and such steps are not to be left out; or the run's directory has vanished.
        Interrupted: a signal came; with a run the state is saved.
    """
    check_kinds(model, task, recipe, train, validation, run)
    parallel = parallel or Parallel()
    check_data(recipe, train, validation, parallel)
    learned, order, steps, train = laid_out(task, recipe, train)
    step = compile_step(model, learned, recipe, parallel, steps_per_epoch=steps)
    check_targets(step.network, step.initial, learned, train)
    with opened(run, callbacks) as (title, saved, observers):
        check_continues(run, step, learned, recipe, train, validation)
        state = saved.restore(step.initial) or step.initial
        first = count_steps(state)
        patience = Patience.of(task, recipe, history_of(run) if run and recipe.patience and first >= steps else {})
        if run and (first == recipe.epochs * steps or (first % steps == 0 and patience.is_over(first // steps))):
            return Fit(step.network, state, history_of(run))
        recorder = recorder_of(run, first, partial(example_pictures, step, task, recipe, train))
        evaluate = validation and make_evaluator(step.network, state, task, validation, recipe.precision, parallel)
        speed = speed_of(model, train, recipe, parallel)
        skip, order = partial(skip_step, [title], saved, recipe.on_nan), partial(order, recipe.seed)
        with watched(title, recipe.epochs, steps, first) as (shown, stop):
            of_one = recipe.epochs, steps, recipe.batch_size, order, saved, observers, shown, stop
            epochs = Epochs(title, step, *of_one, is_over=patience.is_over)
            running = epochs.run(state, step.over(train), carefully_over(step, train, skip))
            del state  # whose memory the first epoch needs
            for epoch in running:
                state = epoch.state
                figures = {"train": trained(title, state, epoch.number) | speed(epoch)}
                figures |= {"validation": evaluate(state).figures} if evaluate else {}
                end_epoch(epoch, task, [(recorder, figures, state)], saved, shown, observers)
                patience.note(epoch.number, figures)
        patience.say(title, count_steps(state) // steps, recipe.epochs)
    return Fit(step.network, state, history_of(run, recorder))


# ---------------------------------------------------------------- epochs of steps


@dataclass(frozen=True)
class Epochs:
    """Runs the epochs of one network, or of several seeds at once: saved when due, stopped by signals, kept finite.

    Attributes:
        title: names the training in messages.
        step: the step.
        count: of epochs.
        steps: of an epoch.
        images: of a step, of all seeds.
        order: maps an epoch to indices and weights of the examples of its steps.
        checkpoints: where states are saved when due, and taken from where one is not finite.
        observers: called after every step.
        shown: the progress display.
        stop: set by signals.
        is_over: whether the training ends early after an epoch, counted from 1.
        wishes: what all processes do when one of them is due to save or to stop.
    """

    title: str
    step: CompiledStep
    count: int
    steps: int
    images: int
    order: Callable[[int], tuple[np.ndarray, np.ndarray]]
    checkpoints: Checkpoints | Kept
    observers: Sequence[Callback]
    shown: Display
    stop: StopRequest
    is_over: Callable[[int], bool] = lambda epoch: False
    wishes: Wishes = field(default_factory=Wishes)

    def run(self, state: TrainState, advance: Advance, careful: Advance) -> Iterator[Epoch]:
        """Yield every epoch that is left; a signal within one saves the state.

        Args:
            state: to resume from, as one device has it.
            advance: runs steps.
            careful: runs steps of an epoch again that did not end in finite numbers.

        Raises:
            Interrupted: a signal came.
            RunError: the loss is not finite, and such steps are not to be left out.
        """
        parallel, at = self.step.parallel, count_steps(state)
        state = parallel.replicate(state)
        while at < self.count * self.steps and not (at % self.steps == 0 and self.is_over(at // self.steps)):
            for runner in (advance, careful):
                began, started = at, _steps_clock()
                epoch, done = divmod(began, self.steps)
                indices, weights = self.order(epoch)
                if done == 0:
                    state = state._replace(
                        sums=parallel.replicate(jax.tree.map(np.zeros_like, parallel.one_copy(state).sums))
                    )
                for steps, after in runner(state, indices[done:], weights[done:]):
                    state = after
                    self._look(state, began, steps, _steps_clock() - started)
                    if self.wishes.signum is not None:
                        break
                jax.block_until_ready(state)
                seconds = _steps_clock() - started
                if is_finite(parallel.one_copy(state)):
                    break
                at, state = self._last_finite(epoch + 1)  # the careful run then finds the step that is not finite
            one = parallel.one_copy(state)
            at = count_steps(one)
            if at % self.steps == 0:
                yield Epoch(at // self.steps, one, at - began, seconds)
            else:
                self.checkpoints.save(one)
            self.wishes.ask(self.stop.signum, save=False, now=True)
            if self.wishes.signum is not None:
                saved = self.checkpoints.have_saved()
                raise interrupted(self.wishes.signum, saved, self.checkpoints.how_to_resume(at))

    def _look(self, state: TrainState, began: int, steps: int, seconds: float) -> None:
        """Let observers see a step; save the state within an epoch, and show where that stands, when either is due."""
        for observer in self.observers:
            observer.on_step(began + steps, state)
        to_save = self.wishes.ask(self.stop.signum, self.checkpoints.due())
        if self.wishes.signum is not None or not (to_save or self.shown.due()):
            return  # without waiting for the device
        one = self.step.parallel.one_copy(state)
        at = count_steps(one)
        # The state of an epoch's end is saved once that is written down.
        if to_save and at % self.steps and is_finite(one):
            self.checkpoints.save(one)
        epoch, rate = began // self.steps, steps * self.images / seconds
        self.shown.update(epoch + 1, at - epoch * self.steps, means(jax.tree.map(jnp.sum, one.sums)), rate)

    def _last_finite(self, epoch: int) -> tuple[int, TrainState]:
        """Return the step and the state, on every device, that an epoch is run again from."""
        good = self.checkpoints.restore(self.step.initial) or self.step.initial
        if not is_finite(good):
            raise RunError(f"{self.title}: the parameters are not finite before the first step")
        log.warning("%s: not finite in epoch %d; step by step from step %d on", self.title, epoch, count_steps(good))
        return count_steps(good), self.step.parallel.replicate(good)


def _steps_clock() -> float:
    """A clock in seconds that stands still while something is compiled, so that steps alone are timed."""
    return time.perf_counter() - compilation.seconds()


# ---------------------------------------------------------------- parts of a training, of one seed or of several


@contextmanager
def opened(run: Run | None, callbacks: Sequence[Callback]) -> Iterator[tuple[str, Checkpoints | Kept, list[Callback]]]:
    """Open the run's directory, if there is one, and its checkpoints of this training; end the callbacks.

    Yields:
        what messages call the training, its checkpoints, and its observers.
    """
    title = (run and (run.tag or run.experiment)) or "training"
    observers = [*callbacks, *(run.callbacks if run else ())]
    if run and run.profile:
        observers.append(Profile(run.path / "profile" / title))
    with ExitStack() as stack:
        if run:
            stack.enter_context(run.opened())
        folder = run and run.checkpoints / (title if run.tag else "")
        checkpoints = Checkpoints(folder, run.save_every, run.check_present) if run and folder else Kept()
        stack.enter_context(closing(checkpoints))
        for observer in observers:
            stack.callback(observer.on_end)
        yield title, checkpoints, observers


@contextmanager
def watched(title: str, epochs: int, steps: int, first: int) -> Iterator[tuple[Display, StopRequest]]:
    """Show progress, in the process that shows any, and hold signals back until a step is done."""
    shown = display(title, epochs, steps, first) if processes.is_first() else Silent()
    with closing(shown), deferred_signals() as stop:
        yield shown, stop


def skip_step(titles: Sequence[str], checkpoints: Checkpoints | Kept, on_nan: str, step: int, which: int) -> None:
    """Report that a step of one of the trainings is left out; raise a RunError where it may not be."""
    if on_nan == "stop":
        raise RunError(
            f"{titles[which]}: step {step} ends in a loss or parameters that are not finite; the last good state is of "
            f"step {checkpoints.newest() or 0}. Try a lower `lr`, `clip_norm=1`, or `on_nan=rollback`, which leaves "
            "out the batch of such a step"
        )
    log.warning("%s: left out the batch of step %d, whose loss or gradient is not finite", titles[which], step)
