"""Training: state, step, loop, checkpoints, devices; pure functions of pytrees around NNX modules."""

from cnnjax.train.averages import averaged_params, averaged_variables
from cnnjax.train.callbacks import Callback, EpochEnd, Profile
from cnnjax.train.checkpoints import Checkpoints
from cnnjax.train.evaluation import Evaluation, evaluate
from cnnjax.train.loop import fit
from cnnjax.train.multi_seed import check_training, fit_seeds, fit_together, together
from cnnjax.train.optimizers import OPTIMIZERS, learning_rate, make_optimizer
from cnnjax.train.parallel import MODES, Parallel
from cnnjax.train.rates import RateSweep, find_lr
from cnnjax.train.recipe import Recipe
from cnnjax.train.schedules import SCHEDULES
from cnnjax.train.state import Fit, Network, TrainState, split_model, tree_sha256
from cnnjax.train.step import CompiledStep, compile_step
from cnnjax.train.trained import KeepBest, Predictions, Trained, best_state, load

__all__ = [
    "MODES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Callback",
    "Checkpoints",
    "CompiledStep",
    "EpochEnd",
    "Evaluation",
    "Fit",
    "KeepBest",
    "Network",
    "Parallel",
    "Predictions",
    "Profile",
    "RateSweep",
    "Recipe",
    "TrainState",
    "Trained",
    "averaged_params",
    "averaged_variables",
    "best_state",
    "check_training",
    "compile_step",
    "evaluate",
    "find_lr",
    "fit",
    "fit_seeds",
    "fit_together",
    "learning_rate",
    "load",
    "make_optimizer",
    "split_model",
    "together",
    "tree_sha256",
]
