"""Worked examples: small arrays as lectures print them, and their formulas evaluated term by term."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.errors import UserError


def parse(text: str, option: str = "array") -> np.ndarray:
    """Read rows of numbers: "101/010/101", "1 0 -1 / 1 0 -1", or with commas; without spaces a digit is a number.

    Args:
        text: rows, separated by slashes.
        option: what a person called it, for the message.

    Returns:
        (height, width), float32.

    Raises:
        UserError: no numbers, or rows of different lengths.
    """
    rows = [row.replace(",", " ").split() for row in text.split("/")]
    if all(len(row) == 1 and row[0].isdigit() for row in rows):
        rows = [list(row[0]) for row in rows]
    try:
        values = np.array(rows, np.float32)
    except ValueError:
        values = np.empty(0, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise UserError(
            f"{option} {text!r}: expected rows of equally many numbers, such as '101/010/101' or '1 -1 / 0 2'"
        )
    return values


def show(values: np.ndarray, digits: int = 6) -> str:
    """Write a vector as "1 2 3", a matrix as "1 2 / 3 4"."""
    rows = np.atleast_2d(np.asarray(values, float))
    return " / ".join(" ".join(f"{value + 0.0:.{digits}g}" for value in row) for row in rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# ---------------------------------------------------------------- formulas


def s0_sum(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """S0: `sum_a sum_b I(i + a, j + b) K(a, b)` for every i, j whose terms all lie in the image."""
    taps = list(np.ndindex(kernel.shape))
    height, width = np.subtract(image.shape, kernel.shape) + 1
    return np.array(
        [[sum(image[i + a, j + b] * kernel[a, b] for a, b in taps) for j in range(width)] for i in range(height)]
    )


def s2_sum(image: np.ndarray, kernel: np.ndarray, centred: bool) -> np.ndarray:
    """S2: `sum_k1 sum_k2 w(k1, k2) x(i - k1, j - k2)`, where x is zero outside of the image.

    Args:
        image: x.
        kernel: w; its first element is w(0, 0), or w(-v1, -v2) where it is centred.
        centred: k1 runs from -v1 to v1 instead of 0 to M1 - 1, k2 likewise.

    Returns:
        y of the image's size if centred, else of every place where the kernel touches the image.
    """
    first = -(np.array(kernel.shape) // 2) if centred else np.zeros(2, int)
    height, width = np.add(image.shape, kernel.shape) - 1 + 2 * first
    y = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        for a, b in np.ndindex(kernel.shape):
            k1, k2 = first[0] + a, first[1] + b
            if 0 <= i - k1 < image.shape[0] and 0 <= j - k2 < image.shape[1]:
                y[i, j] += kernel[a, b] * image[i - k1, j - k2]
    return y


def computed(op: Callable[..., jax.Array], *arrays: np.ndarray, **options: Any) -> np.ndarray:
    """Call an operation of `ops` with plain arrays, and return one."""
    return np.asarray(op(*map(jnp.asarray, arrays), **options))


def correlate(image: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    """`ops.conv2d` of an image (height, width) and a kernel (height, width)."""
    return computed(ops.conv2d, image[None, ..., None], kernel[..., None, None], **options)[0, ..., 0]


def convolve(image: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    """`ops.convolve2d` of an image (height, width) and a kernel (height, width)."""
    return computed(ops.convolve2d, image[None, ..., None], kernel[..., None, None], **options)[0, ..., 0]


def distance(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference, relative to the largest value of the reference."""
    return float(np.abs(np.asarray(ours, float) - reference).max() / np.abs(reference).max())
