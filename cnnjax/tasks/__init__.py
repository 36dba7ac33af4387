"""What a network learns: a task's loss, what is measured, and how outputs become predictions."""

from cnnjax.tasks.classification import Classification, ClassificationLoss
from cnnjax.tasks.localization import Localization, LocalizationLoss
from cnnjax.tasks.losses import LOSSES
from cnnjax.tasks.masks import median_frequency
from cnnjax.tasks.reconstruction import Reconstruction
from cnnjax.tasks.segmentation import Segmentation, SegmentationLoss
from cnnjax.tasks.task import Task

__all__ = [
    "LOSSES",
    "Classification",
    "ClassificationLoss",
    "Localization",
    "LocalizationLoss",
    "Reconstruction",
    "Segmentation",
    "SegmentationLoss",
    "Task",
    "median_frequency",
]
