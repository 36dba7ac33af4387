"""Observers of a training."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax

from cnnjax.train.state import TrainState

log = logging.getLogger(__name__)

TRACED = range(5, 15)  # steps of a profile, after those that compile


class EpochEnd(NamedTuple):
    """The end of an epoch.

    Attributes:
        number: of the epoch, counted from 1.
        figures: of "train" and of "validation", by name.
        state: as one device has it.
    """

    number: int
    figures: dict[str, dict[str, float]]
    state: TrainState


class Callback:
    """What a training calls as it goes; override what you need. Callbacks observe, and change nothing."""

    def on_step(self, step: int, state: TrainState) -> None:
        """Observe the state after a step, counted from 1 over the training.

        It lies on the devices, may not be computed yet, and is overwritten by the next step. Where an epoch is one
        program this is called once for each epoch, after its last step.
        """

    def on_epoch(self, epoch: EpochEnd) -> None:
        """Observe the end of an epoch, once it is written and its checkpoint begun; of several seeds, one by one."""

    def on_end(self) -> None:
        """Let go of what is held: the training has ended, was stopped, or failed."""


class Profile(Callback):
    """Writes a trace of ten steps, for TensorBoard or Perfetto; where that fails it is reported and training continues.

    Args:
        folder: where the trace goes.
    """

    def __init__(self, folder: Path):
        self._folder, self._calls, self._tracing = folder, 0, False

    def on_step(self, step: int, state: TrainState) -> None:
        self._calls += 1
        if self._calls == TRACED.start:
            jax.block_until_ready(state)
            try:
                jax.profiler.start_trace(str(self._folder))
                self._tracing = True
            except Exception as error:  # the one before it could not be ended
                log.warning("no trace in %s (%s): training continues", self._folder, error)
        elif self._calls == TRACED.stop:
            jax.block_until_ready(state)
            self.on_end()

    def on_end(self) -> None:
        if not self._tracing:
            return
        self._tracing = False
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # whatever a disk does
            log.warning("the trace in %s cannot be written (%s): training continues", self._folder, error)
