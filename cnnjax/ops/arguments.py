"""Parse and check arguments once, at the border of every operation; every message names the argument."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[int, int]
Ints = int | Pair
Sides = tuple[Pair, Pair]  # ((top, bottom), (left, right))
Padding = Ints | Sides | str

LARGEST_INTEGER = 2**31 - 1  # an index has 32 bits
MOST_ELEMENTS = 2**40  # more than any device can hold
PADDING_NAMES = ("VALID", "SAME", "HALF", "FULL")


def integer(name: str, value: SupportsIndex, minimum: int) -> int:
    """Return `value` as an int between `minimum` and the largest index."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if number > LARGEST_INTEGER:
        raise ValueError(f"{name} must be at most {LARGEST_INTEGER}, got {number}")
    return number


def real(name: str, value: Any, *, positive: bool = False) -> float:
    """Return `value` as a finite float; as a positive one if `positive`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    if positive and number <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def one_of(name: str, value: Any, names: Iterable[str]) -> str:
    """Return `value` if it is one of `names`."""
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{name} must be one of {tuple(names)}, got {value!r}")
    return value


def pair(name: str, value: Any, minimum: int) -> Pair:
    """Return `(height, width)` from an integer or a pair of them, each at least `minimum`."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or a pair (height, width), got {value!r}")
        return integer(name, value[0], minimum), integer(name, value[1], minimum)
    return (integer(name, value, minimum),) * 2


def spatial(x: jax.Array, axis: int = 1) -> Pair:
    """Return (height, width): the sizes of two axes of `x`, the first of them `axis`."""
    return x.shape[axis], x.shape[axis + 1]


def image(name: str, x: Any, axes: str = "batch, height, width, channels") -> jax.Array:
    """Return `x` as a floating-point array of four axes, of which only the first, the batch, may be empty."""
    x = _array(name, x, axes)
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} must have at least one pixel and channel ({axes}), got shape {x.shape}")
    return x


def kernel(name: str, x: Any, axes: str) -> jax.Array:
    """Return `x` as a floating-point array of four axes, none empty."""
    x = _array(name, x, axes)
    if 0 in x.shape:
        raise ValueError(f"{name} must not be empty ({axes}), got shape {x.shape}")
    return x


def _array(name: str, x: Any, axes: str) -> jax.Array:
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array ({axes}), got a {type(x).__name__}") from None
    if x.ndim != 4:
        raise ValueError(f"{name} must have 4 axes ({axes}), got shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {x.dtype}: convert it first, e.g. {name} / 255.0")
    return x


def vector(name: str, x: Any, length: int, of: str) -> jax.Array:
    """Return `x` as an array of `length` real numbers."""
    x = jnp.asarray(x)
    if x.shape != (length,):
        raise ValueError(f"{name} must have shape {(length,)}, one per {of}, got {x.shape}")
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {x.dtype}")
    return x


def check_size(name: str, value: Any, shape: Sequence[int]) -> None:
    """Raise a ValueError if an argument asks for an array that cannot exist, however small a symbolic batch is."""
    if math.prod(size for size in shape if isinstance(size, int)) > MOST_ELEMENTS:
        raise ValueError(f"{name}={value!r} makes an array of shape {tuple(shape)}, more than any device holds")


def sides(padding: Padding, size: Pair, window: Pair, stride: Pair, dilation: Pair) -> Sides:
    """Return the pixels to add as ((top, bottom), (left, right)).

    Args:
        padding: an integer for every side, a pair (vertical, horizontal), a pair of pairs, or a name: "VALID" (none),
            "SAME" (XLA's: output size ceil(size / stride), the odd pixel after), "HALF" (kernel // 2 for each side),
            "FULL" (dilation * (kernel - 1)).
        size: spatial size of the input.
        window: taps of the kernel or pooling window.
        stride: pixels between two windows.
        dilation: pixels between two taps.
    """
    if isinstance(padding, str):
        if padding.upper() not in PADDING_NAMES:
            raise ValueError(f"padding must be an integer, pairs, or one of {PADDING_NAMES}, got {padding!r}")
        name = padding.upper()
        top_bottom, left_right = (
            _named_sides(name, *axis) for axis in zip(size, window, stride, dilation, strict=True)
        )
        return top_bottom, left_right
    if isinstance(padding, tuple | list) and any(isinstance(side, tuple | list) for side in padding):
        if len(padding) != 2:
            raise ValueError(f"padding must be ((top, bottom), (left, right)), got {padding!r}")
        return pair("padding", padding[0], 0), pair("padding", padding[1], 0)
    vertical, horizontal = pair("padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


def _named_sides(name: str, size: int, window: int, stride: int, dilation: int) -> Pair:
    span = dilation * (window - 1) + 1
    if name == "SAME":
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        return total // 2, total - total // 2
    amount = {"VALID": 0, "HALF": window // 2, "FULL": span - 1}[name]
    return amount, amount


def check_fits(size: Pair, padding: Sides, window: Pair, dilation: Pair) -> None:
    """Raise a ValueError if a window does not fit into the padded input."""
    for axis, s, (before, after), w, d in zip(("height", "width"), size, padding, window, dilation, strict=True):
        if d * (w - 1) + 1 > s + before + after:
            raise ValueError(
                f"the window spans {d * (w - 1) + 1} pixels of {axis} (window={w}, dilation={d}) but the padded input "
                f"has only {s + before + after} (size={s}, padding={(before, after)}): use a smaller window or more "
                "padding"
            )
