"""Print the layers of a network: output shapes, parameters, and multiply-adds for one image.

python launch.py summary resnet18
python launch.py summary resnet18 --image-size 64 --classes 10
python launch.py summary results/runs/RUN
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from flax import nnx

from cnnjax import models, train
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab.options import parse
from cnnjax.lab.training import takes_image_size
from cnnjax.options import Checked, Count


@dataclass(frozen=True)
class Summary(Checked):
    """Which network, and for which images."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME|RUN")] = ""
    """Network; `models` lists all of them. Or the directory of a run of train, with its classes and images."""
    image_size: Count | None = None
    """Height and width of the images; default: 224, or 32 for networks that are built for one size."""
    classes: Count | None = None
    """Number of classes; default: 1000, or 21 for segmentation."""
    channels: Count = 3
    """Channels of the images."""


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    (options,) = parse("summary", __doc__, arguments, Summary)
    if options.name not in models.list_models() and Path(options.name).exists():
        trained = train.load(options.name)
        print(models.summary(trained.model, trained.image_shape))
        return 0
    if options.name not in models.list_models():
        raise unknown_name("model", options.name, models.list_models())
    fixed = takes_image_size(options.name)
    size = options.image_size or (32 if fixed else 224)
    arguments_of: dict[str, Any] = {"num_classes": options.classes, "in_channels": options.channels}
    arguments_of |= {"image_size": size} if fixed else {}
    try:
        model = nnx.eval_shape(lambda: models.create_model(options.name, **arguments_of))
        print(models.summary(model, (size, size, options.channels)))
    except ValueError as error:
        raise UserError(f"{options.name} does not take images of {size}x{size}x{options.channels} ({error})") from error
    return 0
