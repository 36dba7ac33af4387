"""Classification: one class for each image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Examples, Labelled, Split, Stream
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError
from cnnjax.options import AnyInteger, Checked, Fraction, FractionOrZero, NotNegative, check_applies
from cnnjax.tasks.losses import LOSSES, LossFunction, LossName, probabilities_of
from cnnjax.tasks.task import Outputs, Predictions, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 5  # classes that JSON names for an image


@dataclass(frozen=True)
class ClassificationLoss(Checked):
    """The loss of each image.

    Raises:
        UserError: unknown loss, an option out of range, or one that the loss does not have.
    """

    loss: LossName = "cross-entropy"
    """Loss of an example."""
    label_smoothing: FractionOrZero | None = None
    """Share of a label that is spread over all classes; default: 0."""
    focal_gamma: NotNegative | None = None
    """The larger, the less easy examples count; default: 2."""
    focal_alpha: Fraction | None = None
    """Weight of the true class; default: 0.25."""
    class_weights: str | tuple[float, ...] | None = None
    """What the losses of each class are multiplied by in training, for cross-entropy: a number for each class; or
    balanced, n / (k n_c) with n training images, n_c of them of class c, and k classes; default: 1."""
    ignore_index: AnyInteger | None = None
    """A label that is no class: such images are neither learned from nor counted; default: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "class_weights", _parsed_weights(self.class_weights))
        check_applies(self, {name: loss.options for name, loss in LOSSES.items()}, "loss", self.loss)

    def function(self, class_weights: Sequence[float] | None = None) -> LossFunction:
        """Return the loss as a function of outputs and targets, (batch, ...) both, to (batch,).

        Args:
            class_weights: numbers that the option stands for; None: 1 for all classes.
        """
        loss = LOSSES[self.loss]
        given = {option.removeprefix("focal_"): getattr(self, option) for option in loss.options}
        given |= {"class_weights": class_weights} if "class_weights" in given else {}
        return partial(loss.compute, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Classification(Task):
    """Give each image one class; a network's outputs are logits (batch, classes), or (batch, 1) for two classes.

    An evaluation has the figures "loss" and "accuracy", and the sum "confusion" (classes, classes): how many images of
    class `row` were taken for class `column`. Where augmentation mixes images, an image's class is the most probable.
    Weights of classes count in training alone: the loss of an evaluation is without them.

    Args:
        loss: the loss and its options.
        class_names: what class k is called, for figures and JSON.
        class_weights: of training, as `for_training` finds them.
    """

    loss: ClassificationLoss = field(default_factory=ClassificationLoss)
    class_names: tuple[str, ...] = ()
    class_weights: tuple[float, ...] | None = None

    logged: ClassVar[Sequence[str]] = ("accuracy",)
    best: ClassVar[str] = "accuracy"
    highest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.class_names) == 1:
            only = repr(self.class_names[0])
            raise UserError(
                f"the data has one class only, {only}: expected at least two, in a folder each, to tell apart"
            )

    def for_training(self, examples: Examples) -> "Classification":
        weights = self.loss.class_weights
        if isinstance(weights, str):  # "balanced"
            weights = self._balanced(self.classes_of(examples))
        if weights and self.class_names and len(weights) != len(self.class_names):
            raise UserError(
                f"`class_weights` are {len(weights)} numbers, but there are {len(self.class_names)} classes "
                f"({', '.join(self.class_names[:SHOWN])}{', ...' * (len(self.class_names) > SHOWN)}): give one for each"
            )
        return replace(self, class_weights=weights)

    def _balanced(self, classes: np.ndarray) -> tuple[float, ...]:
        counts = np.bincount(classes[classes >= 0], minlength=len(self.class_names))
        if absent := [self._name(int(label)) for label in np.flatnonzero(counts == 0)]:
            raise UserError(
                "`class_weights='balanced'` divides by the number of training images of each class, and there are none "
                f"of {', '.join(absent[:SHOWN])}: add some, or give the weights as numbers"
            )
        return tuple(float(weight) for weight in counts.sum() / (len(counts) * counts))

    def classes_of(self, examples: Examples) -> np.ndarray:
        labels: Any = getattr(examples, "labels", None)
        if labels is None or np.ndim(labels) != 1:
            raise UserError("`class_weights` and `sampling` by class need a label for each training image: add them")
        return np.where(labels == self.loss.ignore_index, -1, labels)

    def check(self, examples: Examples, outputs: Outputs) -> None:
        if jnp.ndim(outputs) != 2:
            return  # `losses` says what is wrong
        count = outputs.shape[-1]
        if self.class_weights and len(self.class_weights) != count:
            raise UserError(
                f"`class_weights` are {len(self.class_weights)} numbers, but the network has {count} "
                f"output{'s' * (count != 1)}: give one for each class"
            )
        if isinstance(examples, Stream) and isinstance(examples.reader, Labelled):
            least, most = 0, examples.reader.classes - 1
        elif isinstance(examples, Split) and examples.labels.ndim == 1:
            labels = examples.labels[examples.labels != self.loss.ignore_index]
            if not labels.size:
                raise UserError(f"every label is {self.loss.ignore_index}, which `ignore_index` says is no class")
            least, most = int(labels.min()), int(labels.max())
        else:
            return
        if least < 0 or most >= max(count, 2):
            larger = f"create it with `num_classes={most + 1}`, " if most >= max(count, 2) else ""
            raise UserError(
                f"the data has labels from {least} to {most}, but the network has {count} output{'s' * (count != 1)}, "
                f"for labels from 0 to {max(count, 2) - 1}: {larger}correct the labels, or leave out those of one "
                "number with `ignore_index`"
            )

    def weights(self, batch: Sample) -> jax.Array:
        weights = super().weights(batch)
        if self.loss.ignore_index is None or _are_probabilities(batch.labels):
            return weights
        return jnp.where(jnp.asarray(batch.labels, jnp.int32) == self.loss.ignore_index, 0, weights)

    def before_augmentation(self, batch: Sample, outputs: Outputs) -> Sample:
        if _are_probabilities(batch.labels):
            return batch
        labels = jnp.asarray(batch.labels, jnp.int32)
        probabilities = probabilities_of(labels, outputs.shape[-1])
        if self.loss.ignore_index is not None:  # in a mixture with another image all classes are alike
            ignored = (labels == self.loss.ignore_index)[:, None]
            probabilities = jnp.where(ignored, 1 / max(outputs.shape[-1], 2), probabilities)
        return replace(batch, labels=probabilities)

    def losses(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        if jnp.ndim(outputs) != 2:
            raise UserError(
                f"classification needs logits (batch, classes), got outputs of shape {jnp.shape(outputs)}: choose a "
                "network for classification, or another task"
            )
        if outputs.shape[-1] == 1 and self.loss.loss == "cross-entropy":
            raise UserError(
                "cross-entropy compares outputs, of which the network has one: choose another loss, such as "
                "`loss='binary-cross-entropy'`, or a network of two outputs"
            )
        return {self.loss.loss: self.loss.function(self.class_weights)(outputs, jnp.asarray(batch.labels))}

    def measure(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        truth, predicted, weights = _classes(jnp.asarray(batch.labels)), self._predicted(outputs), batch.weights
        classes = max(outputs.shape[-1], 2)  # a single output tells two classes apart
        return {
            "accuracy": jnp.sum((predicted == truth) * weights),
            # A negative index would count from the last class: what is no class is dropped.
            "confusion": jnp.zeros((classes, classes)).at[truth, predicted].add(weights, mode="drop"),
        }

    def decode(self, outputs: Outputs) -> Predictions:
        """Return the "label" (batch,) of each image, and the "scores" (batch, classes) of all classes.

        Scores are probabilities: the softmax of the logits, or sigmoids for a loss that takes each class by itself. The
        outputs of a network that learned by squared errors are scores as they are.
        """
        if self.loss.loss == "mse":
            scores = outputs
        else:
            scores = jax.nn.softmax(outputs) if self.loss.loss == "cross-entropy" else jax.nn.sigmoid(outputs)
        if outputs.shape[-1] == 1:
            scores = jnp.concatenate([1 - scores, scores], -1)
        return {"label": self._predicted(outputs), "scores": scores}

    def mean_outputs(self, outputs: Outputs, others: Outputs) -> Outputs:
        """Return outputs whose scores are the means of those of two, such as of images and of their mirror images."""
        if self.loss.loss == "mse":
            return (outputs + others) / 2
        if self.loss.loss == "cross-entropy":
            both = jax.nn.log_softmax(outputs), jax.nn.log_softmax(others)
            return jnp.logaddexp(*both) - math.log(2)
        likely = jnp.logaddexp(jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(others))
        unlikely = jnp.logaddexp(jax.nn.log_sigmoid(-outputs), jax.nn.log_sigmoid(-others))
        return likely - unlikely

    def draw(self, images: np.ndarray, predictions: Predictions) -> "Figure":
        from cnnjax import viz

        labels, scores = np.asarray(predictions["label"]), np.asarray(predictions["scores"])
        titles = [f"{self._name(label)} ({row[label]:.0%})" for label, row in zip(labels, scores, strict=True)]
        return viz.image_grid(images, titles, columns=min(len(images), 6))

    def to_json(self, predictions: Predictions) -> list[Any]:
        """Return the class of each image, and its most probable classes with their scores."""
        rows = []
        for label, scores in zip(*(np.asarray(predictions[name]) for name in ("label", "scores")), strict=True):
            best = np.argsort(-scores, kind="stable")[:SHOWN]
            rows.append({"class": self._name(label), "scores": {self._name(k): float(scores[k]) for k in best}})
        return rows

    def _predicted(self, outputs: Outputs) -> jax.Array:
        if outputs.shape[-1] == 1:
            return (outputs[..., 0] > LOSSES[self.loss.loss].threshold).astype(jnp.int32)
        return outputs.argmax(-1)

    def _name(self, label: int) -> str:
        return self.class_names[label] if self.class_names else str(label)


def _parsed_weights(given: Any) -> Any:
    """Return "balanced", numbers, or None, of what was given in Python or as words on a command line."""
    words = given.split() if isinstance(given, str) else given
    if words is not None and len(words) and all(isinstance(word, str) for word in words):
        words = " ".join(words).split()
    if words is None or not len(words):
        return None
    if list(words) == ["balanced"]:
        return "balanced"
    try:
        numbers = tuple(float(word) for word in words)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(0 <= number < math.inf for number in numbers) or not any(numbers):
        raise UserError(
            f"`class_weights` must be balanced, or a number for each class, at least 0 and not all 0, got {given!r}"
        )
    return numbers


def _are_probabilities(labels: jax.typing.ArrayLike | None) -> bool:
    """Whether labels are probabilities (batch, classes), and not classes (batch,)."""
    return jnp.ndim(labels) == 2  # type: ignore[arg-type] # never None where images have labels


def _classes(labels: jax.Array) -> jax.Array:
    """Labels as classes (batch,), whether they are classes or probabilities, of all classes or of class 1 alone."""
    if labels.ndim == 1:
        return jnp.where(labels < 0, jnp.iinfo(jnp.int32).max, labels)
    return (labels[..., 0] > 0.5).astype(jnp.int32) if labels.shape[-1] == 1 else labels.argmax(-1)
