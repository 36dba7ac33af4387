"""Print the layers of a network: output shapes, parameters, and multiply-adds for one image.

python launch.py summary resnet18
python launch.py summary resnet18 --image-size 64 --classes 10
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab.options import parse
from cnnjax.lab.training import takes_image_size
from cnnjax.options import Checked, Count


@dataclass(frozen=True)
class Summary(Checked):
    """Which network, and for which images."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Network; `models` lists all of them."""
    image_size: Count | None = None
    """Height and width of the images; default: 224, or 32 for networks that are built for one size."""
    classes: Count | None = None
    """Number of classes; default: 1000, or 21 for segmentation."""
    channels: Count = 3
    """Channels of the images."""


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    (options,) = parse("summary", __doc__, arguments, Summary)
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
