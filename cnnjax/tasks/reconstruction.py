"""Reconstruction: the output is to equal the image, as of an autoencoder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data.augment import Sample
from cnnjax.errors import UserError
from cnnjax.tasks.losses import mean_squared_error
from cnnjax.tasks.task import Outputs, Predictions, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Reconstruction(Task):
    """Minimise the mean squared error between images in [0, 1] and what the network makes of them.

    An evaluation has the figures "loss" and "psnr": the peak signal-to-noise ratio `-10 log10(mean squared error)` in
    decibels, of the mean error over all images.
    """

    targets: ClassVar[Sequence[str]] = ()

    def losses(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        if jnp.shape(outputs) != batch.images.shape:
            raise UserError(
                f"reconstruction needs outputs of the images' shape {batch.images.shape}, got {jnp.shape(outputs)}: "
                "choose an autoencoder, or another task"
            )
        return {"mean_squared_error": mean_squared_error(outputs, batch.images)}

    def decode(self, outputs: Outputs) -> Predictions:
        return jnp.clip(outputs, 0, 1)

    def summarize(
        self,
        figures: Mapping[str, float],
        sums: Mapping[str, np.ndarray],
        predictions: Predictions | None = None,
        targets: Sample | None = None,
    ) -> dict[str, float]:
        loss = figures["loss"]
        return {**figures, "psnr": math.inf if loss == 0 else -10 * math.log10(loss)}

    def draw(self, images: np.ndarray, predictions: Predictions) -> "Figure":
        from cnnjax import viz

        originals = np.asarray(images, np.float32) / (255 if np.asarray(images).dtype == np.uint8 else 1)
        pairs = [image for pair in zip(originals, np.asarray(predictions), strict=True) for image in pair]
        titles = ["image", "reconstruction"] * len(originals)
        return viz.image_grid(np.stack(pairs), titles, columns=min(len(pairs), 8))

    def to_json(self, predictions: Predictions) -> list[Any]:
        return [np.rint(255 * np.asarray(image)).astype(int).tolist() for image in predictions]
