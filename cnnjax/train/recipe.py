"""How a network is trained, as one set of options that every experiment shares."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from cnnjax.data.augment import listing, parse
from cnnjax.errors import UserError
from cnnjax.options import COUNT, LAST_SEED, NOT_NEGATIVE, SEED, check_ranges
from cnnjax.train.optimizers import Optimization, check_epochs

CHOICES = {
    "precision": ("float32", "bfloat16"),
    "vmap_seeds": ("auto", "always", "never"),
    "on_nan": ("stop", "rollback"),
}
_RANGES = {
    "epochs": COUNT,
    "batch_size": COUNT,
    "seeds": COUNT,
    "seed": SEED,
    "l1": NOT_NEGATIVE,
    "l2": NOT_NEGATIVE,
}


@dataclass(frozen=True)
class Recipe(Optimization):
    """Epochs, batches and seeds, data augmentation, precision, penalties, and all of `Optimization`.

    Raises:
        UserError: an unknown name, an option out of range, or options that do not go together.
    """

    epochs: Annotated[int, tyro.conf.arg(help="Passes over the training images, at least 1.")] = 20
    batch_size: Annotated[
        int,
        tyro.conf.arg(
            help="Images a step, over all devices: a multiple of their number, at least 1 and at most the training "
            "images."
        ),
    ] = 128
    seed: Annotated[
        int, tyro.conf.arg(help=f"Decides initial parameters, order, augmentation and dropout; from 0 to {LAST_SEED}.")
    ] = 0
    seeds: Annotated[
        int,
        tyro.conf.arg(help=f"How many seeds to train with, at least 1, counted up from --seed to {LAST_SEED} at most."),
    ] = 1
    l1: Annotated[
        float, tyro.conf.arg(help="Added to the loss: this, at least 0, times the sum of |w| over all kernels.")
    ] = 0.0
    l2: Annotated[
        float, tyro.conf.arg(help="Added to the loss: this, at least 0, times the sum of w^2 over all kernels.")
    ] = 0.0
    augment: Annotated[
        str,
        tyro.conf.arg(
            help='What changes training images, in order, e.g. "random-crop:padding=4,fill=0.5 mirror mixup"; of, with '
            f"options: {listing()}."
        ),
    ] = ""
    precision: Annotated[
        str,
        tyro.conf.arg(help="float32, or bfloat16 for activations while parameters and statistics stay float32."),
    ] = "float32"
    vmap_seeds: Annotated[
        str,
        tyro.conf.arg(
            help="always: all seeds in one program; never: one after another; auto: in one on accelerators with "
            "enough memory."
        ),
    ] = "auto"
    on_nan: Annotated[
        str,
        tyro.conf.arg(
            help="When a loss or parameter is not finite, stop, or rollback: go back to the last saved state and leave "
            "out the batch."
        ),
    ] = "stop"
    sync_batch_norm: Annotated[
        bool,
        tyro.conf.arg(help="Batch statistics of all devices' images together, instead of each device's own."),
    ] = False
    gradient_norm: Annotated[
        bool,
        tyro.conf.arg(help="Record the gradient's norm, which takes up to a tenth of a step."),
    ] = False

    def __post_init__(self) -> None:
        Optimization.__post_init__(self)
        check_ranges(self, _RANGES)
        if self.seed + self.seeds - 1 > LAST_SEED:
            raise UserError(
                f"--seeds must be at most {LAST_SEED + 1 - self.seed} from --seed {self.seed} on, got {self.seeds}"
            )
        check_epochs(self, self.epochs)
        parse(self.augment)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
