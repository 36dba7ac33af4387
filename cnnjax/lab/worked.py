"""Worked examples: small arrays as lectures print them, and the lectures' formulas evaluated term by term."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import data, ops
from cnnjax.errors import UserError
from cnnjax.viz import Grid


def parse(text: str, option: str = "array") -> np.ndarray:
    """Read rows of numbers: "101/010/101", "1 0 -1 / 1 0 -1", or with commas; without spaces each digit is a number.

    Args:
        text: rows, separated by slashes.
        option: the name of the option, for the message.

    Returns:
        (height, width), float32.

    Raises:
        UserError: the text has no numbers, or rows of different lengths.
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


# ---------------------------------------------------------------- formulas


def s0_sum(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """S0: `sum_a sum_b I(i + a, j + b) K(a, b)` for every i and j where all terms lie in the image."""
    taps = list(np.ndindex(kernel.shape))
    height, width = np.subtract(image.shape, kernel.shape) + 1
    return np.array(
        [[sum(image[i + a, j + b] * kernel[a, b] for a, b in taps) for j in range(width)] for i in range(height)]
    )


def s2_sum(image: np.ndarray, kernel: np.ndarray, centred: bool) -> np.ndarray:
    """S2: `sum_k1 sum_k2 w(k1, k2) x(i - k1, j - k2)`, where x is zero outside of the image.

    Args:
        image: x.
        kernel: w; its first element is w(0, 0), or w(-v1, -v2) if centred.
        centred: k1 runs from -v1 to v1 instead of 0 to M1 - 1, k2 likewise.

    Returns:
        y, of the image's size if centred, else at every position where the kernel touches the image.
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


def nhwc(image: np.ndarray) -> jax.Array:
    """Return one image (height, width) as `ops` take it."""
    return jnp.asarray(image, jnp.float32)[None, ..., None]


def computed(op: Callable[..., jax.Array], *arrays: np.ndarray, **options: Any) -> np.ndarray:
    """Call an operation of `ops` with NumPy arrays, and return one."""
    return np.asarray(op(*map(jnp.asarray, arrays), **options))


def correlate(image: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    """`ops.conv2d` of an image (height, width) and a kernel (height, width)."""
    return computed(ops.conv2d, image[None, ..., None], kernel[..., None, None], **options)[0, ..., 0]


def convolve(image: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    """`ops.convolve2d` of an image (height, width) and a kernel (height, width)."""
    return computed(ops.convolve2d, image[None, ..., None], kernel[..., None, None], **options)[0, ..., 0]


def distance(ours: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value of the reference."""
    return float(np.abs(np.asarray(ours, float) - reference).max() / np.abs(reference).max())


def equation(image: np.ndarray, kernel: np.ndarray, title: str, kernel_title: str = "kernel") -> list[Grid]:
    """Return an image, a kernel and their cross-correlation, to be drawn in a row."""
    return [Grid(image, title), Grid(kernel, kernel_title, "*"), Grid(correlate(image, kernel), "result", "=")]


# ---------------------------------------------------------------- the lectures' examples

UNEQUAL = 1 << 16  # a size that no formula gives
KERNELS = {
    "vertical": parse("1 0 -1/1 0 -1/1 0 -1"),
    "horizontal": parse("1 1 1/0 0 0/-1 -1 -1"),
    "Sobel": parse("-1 0 1/-2 0 2/-1 0 1"),
    "Scharr": parse("3 0 -3/10 0 -10/3 0 -3"),
    "blur": np.full((3, 3), 1 / 9, np.float32),
    "edge": parse("1 0 -1/0 0 0/1 0 -1"),
}


def grey(name: str, height: int = 80) -> np.ndarray:
    """Return a photograph in grey as (height, width) in [0, 1], shrunk by averaging blocks of pixels.

    Raises:
        UserError: it cannot be read, or it has fewer rows than `height` or fewer columns than half of it.
    """
    picture = data.photograph(name).mean(-1, dtype=np.float32) / 255
    block = picture.shape[0] // height
    if block == 0 or picture.shape[1] < block * height // 2:
        raise UserError(
            f"photograph {name!r} has {picture.shape[1]}x{picture.shape[0]} pixels: expected at least {height} rows "
            "and half as many columns"
        )
    width = min(picture.shape[1] // block, 2 * height)
    picture = picture[: height * block, : width * block]
    return picture.reshape(height, block, width, block).mean((1, 3))


# ---------------------------------------------------------------- windows


class Case(NamedTuple):
    """A convolution of a square image of one channel with a square kernel."""

    size: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @property
    def formula(self) -> float:
        """The output size by the lectures' formula, which may be a fraction."""
        return (self.size + 2 * self.padding - self.kernel) / self.stride + 1


def output_size(case: Case) -> int:
    """Return the height and width of `ops.conv2d`'s output, without computing it; `UNEQUAL` if they differ."""
    y = jax.eval_shape(
        lambda x, k: ops.conv2d(x, k, stride=case.stride, padding=case.padding),
        jax.ShapeDtypeStruct((1, case.size, case.size, 1), jnp.float32),
        jax.ShapeDtypeStruct((case.kernel, case.kernel, 1, 1), jnp.float32),
    )
    return y.shape[1] if y.shape[1] == y.shape[2] else UNEQUAL


def uses(cases: Sequence[Case]) -> list[np.ndarray]:
    """Return for every case how many windows use each pixel, (size, size), by one compiled program."""

    def total(x: jax.Array, case: Case) -> jax.Array:
        return ops.conv2d(x, jnp.ones((case.kernel, case.kernel, 1, 1)), stride=case.stride, padding=case.padding).sum()

    images = [jnp.zeros((1, case.size, case.size, 1)) for case in cases]
    counts = jax.jit(lambda images: [jax.grad(total)(x, case) for x, case in zip(images, cases, strict=True)])(images)
    return [np.asarray(count)[0, ..., 0].astype(int) for count in counts]


def switches(values: np.ndarray, gradients: np.ndarray, window: int = 2) -> dict[str, np.ndarray]:
    """Return the gradients with respect to `values` (H, W) by pooling, given those of the output, and the winners."""
    pools: dict[str, Callable[..., jax.Array]]
    pools = {"max": ops.max_pool2d, "min": ops.min_pool2d, "average": ops.avg_pool2d}

    @jax.jit
    def back(x: jax.Array, g: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        reached = {name: jax.vjp(lambda x, pool=pool: pool(x, window), x)[1](g)[0] for name, pool in pools.items()}
        return reached, ops.max_pool2d_with_indices(x, window)[1]

    reached, indices = back(nhwc(values), nhwc(gradients))
    winners = np.zeros(values.size, bool)
    winners[np.asarray(indices).ravel()] = True
    return {name: np.asarray(array)[0, ..., 0] for name, array in reached.items()} | {
        "winners": winners.reshape(values.shape)
    }
