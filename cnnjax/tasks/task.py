"""What a network learns, as a few pure functions around it; the training loop knows nothing else of a task."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from cnnjax.data import Examples
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Outputs = Any  # a pytree of float32 arrays, whose first axis is the batch
Predictions = Any  # a pytree of arrays, whose first axis is the images


class Task:
    """Base class of all tasks; a task of your own overrides `losses`, and what else it needs.

    Batches are `data.augment.Sample`: float images in [0, 1], the targets that the task names, and a weight for each
    image, 0 where it only fills the batch up.

    Attributes:
        targets: what the task learns from, of a data set's "labels", "boxes", "masks" and "keypoints".
        logged: which of the parts of `losses` and of the numbers of `measure` training adds up, beside the loss.
        best: the figure of an evaluation that chooses the best checkpoint.
        highest: whether the highest value of it is the best.
        gathers: whether `summarize` gets the predictions and targets of all images.
    """

    targets: ClassVar[Sequence[str]] = ("labels",)
    logged: ClassVar[Sequence[str]] = ()
    best: ClassVar[str] = "loss"
    highest: ClassVar[bool] = False
    gathers: ClassVar[bool] = False

    def check(self, examples: Examples, outputs: Outputs) -> None:
        """Raise a UserError if the targets of a data set do not fit a network's outputs, given their shapes."""

    def for_training(self, examples: Examples) -> "Task":
        """Return the task as these examples are learned, with what training needs to know of them; itself by default.

        Evaluations are of the task itself, so that their figures can be compared however a network has learned.
        """
        return self

    def classes_of(self, examples: Examples) -> np.ndarray:
        """Return the class of each example, negative where it has none, for a sampling by classes.

        Raises:
            UserError: the task knows no classes of examples, as by default.
        """
        raise UserError(
            f"`sampling='balanced'` draws every class equally often, and {type(self).__name__} gives examples no "
            "class: choose `sampling='shuffled'`"
        )

    def weights(self, batch: Sample) -> jax.Array:
        """Return how much each image counts, (batch,): as the batch has it, or 0 where there is nothing to learn."""
        assert batch.weights is not None
        return batch.weights

    def before_augmentation(self, batch: Sample, outputs: Outputs) -> Sample:
        """Return the batch as augmentation needs it, given the shapes of the network's outputs; as it is by default."""
        return batch

    def losses(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        """Return the named parts of the loss of each image, (batch,) each; their sum is minimised."""
        raise NotImplementedError(f"{type(self).__name__} needs a method losses(outputs, batch)")

    def measure(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        """Return sums over the batch, each image counted with its weight: they are added over steps and devices.

        A number becomes a figure, divided by the sum of the weights; an array, such as a confusion matrix, stays a sum.
        """
        return {}

    def decode(self, outputs: Outputs) -> Predictions:
        """Return what the network predicts for each image; the outputs themselves by default."""
        return outputs

    def summarize(
        self,
        figures: Mapping[str, float],
        sums: Mapping[str, np.ndarray],
        predictions: Predictions | None = None,
        targets: Sample | None = None,
    ) -> dict[str, float]:
        """Return the figures of an evaluation.

        Args:
            figures: the means over images of the loss, of its parts and of the numbers of `measure`.
            sums: the arrays of `measure`.
            predictions: of `decode`, of all images, where the task gathers them; NumPy arrays.
            targets: of the same images, without the images themselves.
        """
        return dict(figures)

    def draw(self, images: np.ndarray, predictions: Predictions) -> "Figure":
        """Return a figure of images (batch, height, width, channels), bytes or floats in [0, 1], and predictions."""
        raise NotImplementedError(f"{type(self).__name__} needs a method draw(images, predictions)")

    def to_json(self, predictions: Predictions) -> list[Any]:
        """Return what JSON can hold of each image's predictions; nested lists of all of them by default."""
        count = len(jax.tree.leaves(predictions)[0])
        return [jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]).tolist(), predictions) for k in range(count)]
