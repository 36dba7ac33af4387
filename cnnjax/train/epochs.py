"""The steps of a training, epoch by epoch: shown and saved as they go, stopped by a signal, kept finite."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import RunError
from cnnjax.runs.processes import Wishes
from cnnjax.runs.progress import Display
from cnnjax.runs.signals import Interrupted, StopRequest
from cnnjax.train.advance import Advance
from cnnjax.train.checkpoints import Checkpoints
from cnnjax.train.parallel import Parallel
from cnnjax.train.soundness import is_sound
from cnnjax.train.state import TrainState, Tree, count_steps, means

log = logging.getLogger(__name__)


class Epoch(NamedTuple):
    """The end of an epoch: the state as one device has it, and what the process needed since it began or went on."""

    number: int
    state: TrainState
    steps: int
    seconds: float


@dataclass(frozen=True)
class Epochs:
    """Runs the epochs of one network, or of several at once.

    Args:
        title: names the training in messages.
        initial: the state before the first step, as one device has it.
        constants: as the step takes them.
        steps: of an epoch.
        images: of a step.
        order: maps an epoch to the examples of its steps, as `Advance` takes them.
        parallel: the devices.
        checkpoints: where states are saved when due, and taken from where one is not finite.
        shown: the progress display.
        stop: set by signals.
        wishes: what all processes do when one of them is due to save or to stop.
    """

    title: str
    initial: TrainState
    constants: Tree
    steps: int
    images: int
    order: Callable[[int], tuple[np.ndarray, np.ndarray]]
    parallel: Parallel
    checkpoints: Checkpoints
    shown: Display
    stop: StopRequest
    wishes: Wishes = field(default_factory=Wishes)

    def run(self, state: TrainState, last: int, advance: Advance, careful: Advance) -> Iterator[Epoch]:
        """Yield every epoch up to the step `last`; a signal within one saves the state.

        Args:
            state: to go on from, as one device has it.
            last: the step to end with.
            advance: runs steps.
            careful: runs steps of an epoch again that did not end in finite numbers.

        Raises:
            Interrupted: a signal came.
            RunError: the loss is not finite, and such steps are not to be left out.
        """
        at = count_steps(state)
        state = self.parallel.replicate(state)
        while at < last:
            began = at
            state, seconds = self._rest_of_epoch(state, began, advance)
            if not is_sound(self.parallel.one_copy(state)):  # since when is seen on the way there again
                good = self.checkpoints.restore(self.initial) or self.initial
                if not is_sound(good):
                    raise RunError(f"{self.title}: the parameters are not finite before the first step")
                epoch, began = began // self.steps + 1, count_steps(good)
                log.warning("%s: not finite in epoch %d; step by step from step %d on", self.title, epoch, began)
                state, seconds = self._rest_of_epoch(self.parallel.replicate(good), began, careful)
            one = self.parallel.one_copy(state)
            at = count_steps(one)
            if at % self.steps == 0:
                yield Epoch(at // self.steps, one, at - began, seconds)
            else:
                self.checkpoints.save(one)
            self.wishes.ask(self.stop.signum, save=False, now=True)
            if self.wishes.signum is not None:
                raise Interrupted(self.wishes.signum, self.checkpoints.have_saved())

    def _rest_of_epoch(self, state: TrainState, began: int, advance: Advance) -> tuple[TrainState, float]:
        """Run the steps from `began` to the end of its epoch, or those up to a signal; return the seconds they took."""
        epoch, done = divmod(began, self.steps)
        indices, weights = self.order(epoch)
        if done == 0:
            zeros = jax.tree.map(np.zeros_like, self.initial.sums)
            state = state._replace(sums=self.parallel.replicate(zeros))
        states = advance(state, self.constants, indices[done:], weights[done:])
        started = time.perf_counter()
        for state in states:
            to_save = self.wishes.ask(self.stop.signum, self.checkpoints.due())
            if self.wishes.signum is not None:
                break
            self._look(state, began, time.perf_counter() - started, to_save)
        jax.block_until_ready(state)
        return state, time.perf_counter() - started

    def _look(self, state: TrainState, began: int, seconds: float, to_save: bool) -> None:
        """Save a state within an epoch, and show where that stands, when either is due."""
        if not (to_save or self.shown.due()):
            return  # without waiting for the device
        one = self.parallel.one_copy(state)
        at = count_steps(one)
        # The state of an epoch's end is saved once that is written down.
        if to_save and at % self.steps and is_sound(one):
            self.checkpoints.save(one)
        epoch, rate = began // self.steps, (at - began) * self.images / seconds
        self.shown.update(epoch + 1, at - epoch * self.steps, means(jax.tree.map(jnp.sum, one.sums)), rate)
