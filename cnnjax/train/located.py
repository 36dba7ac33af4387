"""A trained network for classification and localization in use: the class and the box of images of any size."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cnnjax.tasks import Localization, LocalizationLoss
from cnnjax.train.segmented import Whole


class Located(NamedTuple):
    """What is found in images.

    Attributes:
        names: the most probable class of each image.
        probabilities: of all classes, float32 (images, classes).
        boxes: float32 (images, 4), x0, y0, x1, y1 in pixels of each image as it was given.
    """

    names: tuple[str, ...]
    probabilities: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True, eq=False)
class Locator(Whole):
    """A trained network for localization, and what it needs to predict; as `Trained`."""

    @property
    def task(self) -> Localization:  # type: ignore[override]
        """What the network has learned."""
        return Localization(LocalizationLoss(self.about["loss"], **self.about.get("loss_options", {})), self.classes)

    def predict(self, images: Any) -> Located:  # type: ignore[override]
        """Return class and box of images of any size; each is scaled until it fits into `image_shape`.

        Args:
            images: as `Trained.predict` takes them.

        Raises:
            UserError: as `Trained.predict`.
        """
        found = [self._find(image) for image in self._each(images)]
        probabilities = np.stack([scores for scores, _ in found]) if found else np.zeros((0, len(self.classes)))
        boxes = np.stack([box for _, box in found]) if found else np.zeros((0, 4))
        names = tuple(self.classes[k] for k in probabilities.argmax(1))
        return Located(names, probabilities.astype(np.float32), boxes.astype(np.float32))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self._found(images)["scores"])

    def _find(self, image: Any) -> tuple[np.ndarray, np.ndarray]:
        found = self._found(self.fit_image(image)[None])  # which says what is wrong with it
        (height, width), place = self._place(image)
        start = np.array([place.columns.start, place.rows.start] * 2)
        scale = np.array([width / place.scaled[1], height / place.scaled[0]] * 2)
        box = np.clip((found["box"][0] - start) * scale, 0, [width, height] * 2)
        return found["scores"][0], box

    def _scores(self, logits: Any) -> Any:
        return self.task.decode(logits)
