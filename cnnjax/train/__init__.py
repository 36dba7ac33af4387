"""Training: state, step, loop, checkpoints, devices, logging; pure functions of pytrees around NNX modules."""

from cnnjax.runs import processes
from cnnjax.runs.directory import Run, as_config, config_hash
from cnnjax.runs.files import LogFile, read_json, write_json, write_text
from cnnjax.runs.metrics import Recorder, read_history
from cnnjax.runs.signals import Interrupted, raised_signals
from cnnjax.train.averages import averaged_params, averaged_variables
from cnnjax.train.checkpoints import Checkpoints
from cnnjax.train.evaluation import Evaluation, evaluate
from cnnjax.train.loop import Fit, fit, fit_together
from cnnjax.train.losses import LOSSES, make_loss
from cnnjax.train.optimizers import OPTIMIZERS, learning_rate, make_optimizer
from cnnjax.train.parallel import MODES, Parallel
from cnnjax.train.recipe import Recipe
from cnnjax.train.repeats import check_training, fit_seeds
from cnnjax.train.schedules import SCHEDULES
from cnnjax.train.state import Batch, Network, TrainState, split_model, tree_sha256

__all__ = [
    "LOSSES",
    "MODES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Batch",
    "Checkpoints",
    "Evaluation",
    "Fit",
    "Interrupted",
    "LogFile",
    "Network",
    "Parallel",
    "Recipe",
    "Recorder",
    "Run",
    "TrainState",
    "as_config",
    "averaged_params",
    "averaged_variables",
    "check_training",
    "config_hash",
    "evaluate",
    "fit",
    "fit_seeds",
    "fit_together",
    "learning_rate",
    "make_loss",
    "make_optimizer",
    "processes",
    "raised_signals",
    "read_history",
    "read_json",
    "split_model",
    "tree_sha256",
    "write_json",
    "write_text",
]
