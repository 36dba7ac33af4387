"""States on disk through Orbax: written in the background, complete or not there."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cnnjax.train.state import TrainState

_KEPT = 2


class Checkpoints:
    """The newest states of one training.

    Args:
        folder: its own directory; made if need be.
    """

    def __init__(self, folder: Path):
        logging.getLogger("absl").setLevel(logging.ERROR)  # a line for every phase of every save
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState) -> None:
        """Begin to save; the state may be overwritten at once."""
        step = int(np.max(state.step))  # of several seeds, all have done the same
        if step != self._manager.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, like: TrainState) -> TrainState | None:
        """Return the newest state, with the placement of `like`; None if there is none yet."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract: Any = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state: TrainState = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return state

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
