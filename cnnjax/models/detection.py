"""What networks that find objects return: one class and box, or raw heads that know their losses, and boxes found."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import jax

NO_BOX = -1  # the label of a place without a box


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Localized:
    """The class and the box of images.

    Attributes:
        logits: (batch, classes).
        boxes: (batch, 4), x0, y0, x1, y1 in pixels, x0 < x1 and y0 < y1; half of a box can lie outside of its image.
        image_size: (height, width) of the images.
    """

    logits: jax.Array
    boxes: jax.Array
    image_size: tuple[int, int] = field(metadata={"static": True})


class Detections(NamedTuple):
    """The boxes found in images, padded to a static number of places; the highest scores of an image come first.

    Attributes:
        boxes: (batch, places, 4), x0, y0, x1, y1 in pixels of the images; zeros in an empty place.
        scores: (batch, places), in [0, 1]; -inf in an empty place.
        labels: classes from 0, int32 (batch, places); `NO_BOX` in an empty place.
        masks: of instances, probabilities (batch, places, side, side) over each box; None for boxes alone.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    masks: jax.Array | None = None


class Targets(NamedTuple):
    """The objects of images, padded to a static number of places, as `data.load_boxes` has them.

    Attributes:
        boxes: (batch, places, 4), x0, y0, x1, y1 in pixels.
        labels: classes from 0, integers (batch, places); -1 in an empty place, -2 - c for a crowd of class c, which is
            not learned.
        instances: (batch, height, width), k + 1 where a pixel shows the object in place k, else 0; None for boxes
            alone.
    """

    boxes: jax.Array
    labels: jax.Array
    instances: jax.Array | None = None


class Heads(Protocol):
    """A detector's outputs: a pytree whose arrays have the batch first, and whose static fields decode them.

    Every family has a class of its own, registered by `jax.tree_util.register_dataclass`.
    """

    def losses(self, targets: Targets) -> dict[str, jax.Array]:
        """Return the named parts of the loss of each image, (batch,) each."""

    def detections(self) -> Detections:
        """Return the boxes found."""
