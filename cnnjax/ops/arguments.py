"""Arguments parsed and checked once, at the border of every operation, with messages that name the argument."""

import operator
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp

Pair = tuple[int, int]
Ints = int | Pair
Sides = tuple[Pair, Pair]  # ((top, bottom), (left, right))
Padding = Ints | Sides | str

PADDING_NAMES = ("VALID", "SAME", "HALF", "FULL")


def integer(name: str, value: SupportsIndex, minimum: int) -> int:
    """Return `value` as an int, at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def pair(name: str, value: Any, minimum: int) -> Pair:
    """Return `(height, width)` from an integer or a pair of them, each at least `minimum`."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or a pair (height, width), got {value!r}")
        return integer(name, value[0], minimum), integer(name, value[1], minimum)
    return (integer(name, value, minimum),) * 2


def spatial(x: jax.Array, axis: int = 1) -> Pair:
    """Return (height, width), two axes of `x` from `axis` on."""
    return x.shape[axis], x.shape[axis + 1]


def image(name: str, x: Any, ndim: int = 4, axes: str = "batch, height, width, channels") -> jax.Array:
    """Return `x` as a floating-point array of `ndim` axes."""
    x = jnp.asarray(x)
    if x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes ({axes}), got shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating point, got {x.dtype}: convert it first, e.g. {name} / 255.0")
    return x


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
