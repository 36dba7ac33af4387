"""How a network is trained, as one set of options that every experiment shares."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cnnjax.data.augment import listing, parse
from cnnjax.errors import UserError
from cnnjax.options import LAST_SEED, Count, NotNegative, Range, Seed
from cnnjax.train.optimizers import Optimization, check_epochs


@dataclass(frozen=True)
class Recipe(Optimization):
    """Epochs, batches and seeds, data augmentation, precision, penalties, and all of `Optimization`.

    Raises:
        UserError: an unknown name, an option out of range, or options that do not go together.
    """

    epochs: Count = 20
    """Passes over the training images."""
    patience: Count | None = None
    """End after so many epochs in a row whose validation is not better than the best before, by accuracy or what else
    the task is judged by; of several seeds each ends by its own. Default: train all epochs."""
    batch_size: Count = 128
    """Images per step, over all devices: a multiple of their number, and at most the number of training images."""
    seed: Seed = 0
    """Decides initial parameters, order, augmentation and dropout."""
    seeds: Count = 1
    """How many seeds to train with: `seed` and those that follow it."""
    l1: NotNegative = 0.0
    """Added to the loss: this times the sum of |w| over all kernels."""
    l2: NotNegative = 0.0
    """Added to the loss: this times the sum of w^2 over all kernels."""
    augment: Annotated[str, Range(f"names from this list, each with options or without: {listing()}", parse)] = ""
    """Changes to training images, in order, e.g. "random-crop:padding=4,fill=0.5 mirror mixup"."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """shuffled: an epoch shows each image once; balanced: it draws as many images, of every class equally many."""
    mean: tuple[float, ...] | None = None
    """Of each channel, or one number for all: what the network takes is (image - mean) / std, for images in [0, 1],
    after augmentation; default: 0."""
    std: tuple[float, ...] | None = None
    """Of each channel, or one number for all, with `mean`; default: 1."""
    remat: bool = False
    """Gradient checkpointing: the outputs of layers are not stored, but computed again, block by block, in the backward
    pass, which takes much less memory and more time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes activations in bfloat16, while parameters and statistics stay float32."""
    vmap_seeds: Literal["auto", "always", "never"] = "auto"
    """always: all seeds in one program; never: one after another; auto: in one program on accelerators with enough
    memory."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """When a loss or parameter is not finite: stop, or go back to the last saved state and leave out the batch."""
    sync_batch_norm: bool = False
    """Compute batch statistics over the images of all devices together, instead of each device's own."""
    gradient_norm: bool = False
    """Record the gradient's norm, which takes up to a tenth of a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalization(self)
        if self.seed + self.seeds - 1 > LAST_SEED:
            most = LAST_SEED + 1 - self.seed
            raise UserError(f"`seeds` must be at most {most} with `seed={self.seed}`, got {self.seeds}")
        check_epochs(self, self.epochs)


def check_normalization(recipe: Any) -> None:
    """Bring mean and standard deviation into the form of tuples, and raise a UserError if they do not go together."""
    if (recipe.mean is None) != (recipe.std is None):
        raise UserError(f"`mean` and `std` go together, got `mean={recipe.mean}` and `std={recipe.std}`: give both")
    if recipe.mean is None or recipe.std is None:
        return
    for name in ("mean", "std"):
        object.__setattr__(recipe, name, tuple(float(value) for value in getattr(recipe, name)))
    if len(recipe.mean) != len(recipe.std) or not recipe.mean:
        raise UserError(f"`mean` has {len(recipe.mean)} numbers, `std` {len(recipe.std)}: give one a channel in each")
    if not (all(map(math.isfinite, recipe.mean)) and all(0 < value < math.inf for value in recipe.std)):
        raise UserError(
            f"`mean` must be finite and `std` larger than 0, got `mean={recipe.mean}` and `std={recipe.std}`: they are "
            "of images in [0, 1]"
        )
