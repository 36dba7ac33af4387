"""Losses of examples, by name.

Integer targets that stand for classes must be numbers of classes. Others are a ValueError where their values are known;
inside a compiled function they make the loss and its gradient NaN. `ignore_index` is a number that marks elements
without a class, such as void pixels: they have no loss and no gradient, and do not count in the mean.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

LossFunction = Callable[[jax.Array, jax.Array], jax.Array]  # (outputs, targets) -> (batch,)


def softmax_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    ignore_index: int | None = None,
) -> jax.Array:
    """Return `-sum_j w_j t_j log softmax(logits)_j`, with targets `t = (1 - s) * targets + s / classes`.

    Args:
        logits: (batch, ..., classes), at least two classes.
        targets: classes, integers (batch, ...), or probabilities of logits' shape.
        label_smoothing: s, in [0, 1).
        class_weights: w, a number for each class; None: 1 for all. The result is that of torch's `CrossEntropyLoss`
            with `weight=w` and `reduction="none"`: a mean of it divides by the number of examples, where torch's mean
            divides by the sum of the weights of their classes.
        ignore_index: an integer target that is no class.

    Returns:
        (batch,), averaged over axes between batch and classes, in float32 at least.

    Raises:
        ValueError: shapes do not fit, the smoothing or the number of weights is out of range, or a target is no class.

    Source: Szegedy et al., "Rethinking the Inception architecture" (2016) for the smoothing; claim G2.
    """
    logits = _wide("logits", logits)
    _check_smoothing(label_smoothing)
    if logits.shape[-1] < 2:
        raise ValueError(f"logits must have at least two classes on the last axis, got shape {logits.shape}")
    logits, targets, share = _classes_of(logits, targets, ignore_index)
    if label_smoothing == 0 and class_weights is None and _are_classes(logits, targets):
        return _per_example(optax.softmax_cross_entropy_with_integer_labels(logits, targets), share)
    probabilities = optax.smooth_labels(_like_outputs(logits, targets), label_smoothing)
    if share is not None and share.ndim == logits.ndim:  # a softmax has no part of its own for each class
        share = share.prod(-1)
    if class_weights is not None:
        if len(class_weights) != logits.shape[-1]:
            raise ValueError(f"class_weights must be {logits.shape[-1]} numbers, one a class, got {len(class_weights)}")
        probabilities *= jnp.asarray(class_weights, logits.dtype)
    return _per_example(optax.softmax_cross_entropy(logits, probabilities), share)


def sigmoid_cross_entropy(
    logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0, ignore_index: int | None = None
) -> jax.Array:
    """Return the mean of `-t log p - (1 - t) log(1 - p)`, p = sigmoid(logits), t = (1 - s) * targets + s / 2.

    The binary cross-entropy, of every class against all others; classes need not exclude each other.

    Args:
        logits: (batch, ..., classes), or a single logit (batch, ..., 1).
        targets: probabilities, or 0 and 1, of logits' shape; or integers (batch, ...), which are classes,
            and 0 and 1 for a single logit.
        label_smoothing: s, in [0, 1).
        ignore_index: an integer target that is no class, or neither 0 nor 1 among targets of logits' shape.

    Returns:
        (batch,), averaged over all other axes, in float32 at least.

    Raises:
        ValueError: shapes do not fit, the smoothing is out of range, or an integer target is no class.
    """
    logits = _wide("logits", logits)
    _check_smoothing(label_smoothing)
    logits, targets, share = _classes_of(logits, targets, ignore_index)
    smooth = (1 - label_smoothing) * _like_outputs(logits, targets) + label_smoothing / 2
    return _per_example(optax.sigmoid_binary_cross_entropy(logits, smooth), share)


def sigmoid_focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    ignore_index: int | None = None,
) -> jax.Array:
    """Return the mean of `-a (1 - q)^gamma log q`, q the probability that is given to the truth.

    With p = sigmoid(logits), q is p where the target is 1 and 1 - p where it is 0; a is alpha and 1 - alpha. A
    larger gamma gives easy examples less weight. With gamma 0 and no alpha it is `sigmoid_cross_entropy`.

    Args:
        logits: as `sigmoid_cross_entropy`.
        targets: as `sigmoid_cross_entropy`.
        gamma: at least 0.
        alpha: weight of the targets 1, between 0 and 1; None: all weigh 1.
        ignore_index: as `sigmoid_cross_entropy`.

    Returns:
        (batch,), averaged over all other axes, in float32 at least.

    Raises:
        ValueError: shapes do not fit, an argument is out of range, or an integer target is no class.

    Source: Lin et al., "Focal loss for dense object detection" (2017).
    """
    logits = _wide("logits", logits)
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    logits, targets, share = _classes_of(logits, targets, ignore_index)
    targets = _like_outputs(logits, targets)
    return _per_example(optax.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma), share)


def mean_squared_error(outputs: jax.Array, targets: jax.Array, *, ignore_index: int | None = None) -> jax.Array:
    """Return the mean of `(outputs - targets)^2`.

    As torch's and Keras's; the sum over outputs that lecture S2 writes is this times their number.

    Args:
        outputs: (batch, ...), as they are: for probabilities, give `jax.nn.softmax(logits)`.
        targets: of outputs' shape; or classes, integers (batch, ...), which stand for 1 among zeros.
        ignore_index: an integer target that is no class.

    Returns:
        (batch,), averaged over all other axes, in float32 at least.

    Raises:
        ValueError: shapes do not fit, or one of integers (batch, ...) is no class.

    Source: claim G2; Hui & Belkin, "Evaluation of neural architectures trained with square loss" (2021) on logits.
    """
    outputs, share = _wide("outputs", outputs), None
    if _are_classes(outputs, targets):
        outputs, targets, share = _classes_of(outputs, targets, ignore_index)
    return _per_example(optax.squared_error(outputs, _like_outputs(outputs, targets)), share)


def _wide(name: str, x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim == 0:
        raise ValueError(f"{name} must be floating point with a batch axis, got {x.dtype} of shape {x.shape}")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _are_classes(outputs: jax.Array, targets: jax.Array) -> bool:
    return jnp.shape(targets) == outputs.shape[:-1] and jnp.issubdtype(jnp.result_type(targets), jnp.integer)


def _classes_of(
    outputs: jax.Array, targets: jax.Array, ignore_index: int | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Return outputs, targets, and what the loss of each target is multiplied by: 1, 0 of ignored ones, NaN of others.

    Targets that are no class become 0, and outputs of ignored ones too, whose gradient is then 0 whatever they were.
    The factor is None where it is 1 for all.

    Raises:
        ValueError: a target whose value is known is no class.
    """
    known = not isinstance(targets, jax.core.Tracer) and getattr(targets, "is_fully_addressable", True)
    given: Any = np.asarray(targets) if known else targets
    fits = given.shape in (outputs.shape, outputs.shape[:-1])  # else `_like_outputs` says what is wrong
    if not (fits and jnp.issubdtype(given.dtype, jnp.integer)):
        return outputs, jnp.asarray(given), None
    values = given  # as int32 at least, with which -1 can be compared, unlike with uint8
    if not known and given.dtype.itemsize < 4:
        values = given.astype(jnp.int32)
    one_each = _are_classes(outputs, given)
    most = max(outputs.shape[-1], 2) - 1 if one_each else 1
    is_class = (values >= 0) & (values <= most)
    ignored: Any = np.zeros(values.shape, bool)
    limits = np.iinfo(values.dtype)
    can_be = ignore_index is not None and limits.min <= ignore_index <= limits.max
    if can_be and (one_each or ignore_index not in (0, 1)):
        ignored = values == ignore_index
        outputs = jnp.where(ignored[..., None] if one_each else ignored, 0, outputs)
    if known and not (is_class | ignored).all():
        wrong = np.unique(given[~np.asarray(is_class | ignored)])
        listed = ", ".join(map(str, wrong[:5])) + ", ..." * (len(wrong) > 5)
        raise ValueError(
            f"targets must be integers from 0 to {most} for outputs of shape {outputs.shape}, got {listed}: correct "
            "them, or leave out those of one number with `ignore_index`"
        )
    share = jnp.where(ignored, 0, jnp.where(is_class, 1, jnp.nan)).astype(outputs.dtype)
    return outputs, jnp.where(is_class & ~ignored, values, 0), None if known and ignore_index is None else share


def _like_outputs(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Targets as an array of the outputs' shape and type."""
    targets = jnp.asarray(targets)
    if targets.shape == outputs.shape:
        return targets.astype(outputs.dtype)
    if not _are_classes(outputs, targets):
        raise ValueError(
            f"targets must be of shape {outputs.shape}, or integers of shape {outputs.shape[:-1]}, got {targets.dtype} "
            f"of shape {targets.shape}"
        )
    return probabilities_of(targets, outputs.shape[-1]).astype(outputs.dtype)


def probabilities_of(classes: jax.Array, outputs: int) -> jax.Array:
    """Return classes (batch, ...) as float32 probabilities (batch, ..., outputs); a single one is that of class 1."""
    return classes[..., None].astype(jnp.float32) if outputs == 1 else jax.nn.one_hot(classes, outputs)


def _per_example(losses: jax.Array, share: jax.Array | None = None) -> jax.Array:
    """Means over all axes but the batch, of losses times `share`; where that is 0, elements do not count."""
    axes = tuple(range(1, losses.ndim))
    if share is None:
        return losses.mean(axes)
    share = jnp.broadcast_to(share.reshape(share.shape + (1,) * (losses.ndim - share.ndim)), losses.shape)
    return (losses * share).sum(axes) / jnp.maximum((share != 0).sum(axes), 1)


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")


# ---------------------------------------------------------------- by name


class Loss(NamedTuple):
    """A loss, and which fields of `ClassificationLoss` are options of it ("focal_gamma" is its argument `gamma`).

    A single output above `threshold` stands for class 1.
    """

    compute: Callable[..., jax.Array]
    options: tuple[str, ...] = ()
    threshold: float = 0.0


LossName = Literal["cross-entropy", "binary-cross-entropy", "focal", "mse"]
LOSSES: dict[str, Loss] = {
    "cross-entropy": Loss(softmax_cross_entropy, ("label_smoothing", "class_weights", "ignore_index")),
    "binary-cross-entropy": Loss(sigmoid_cross_entropy, ("label_smoothing", "ignore_index")),
    "focal": Loss(sigmoid_focal, ("focal_gamma", "focal_alpha", "ignore_index")),
    "mse": Loss(mean_squared_error, ("ignore_index",), threshold=0.5),
}
