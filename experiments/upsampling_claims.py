"""Lectures' statements about upsampling, evaluated: four definitions, and what transposed convolution is and learns."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import data, ops
from cnnjax.lab.claims import Claim, check
from cnnjax.lab.worked import show

SIDE, SCALE = 128, 4  # of the photograph in pixels, and how much it is shrunk and enlarged
# Zhang et al., "Dive into deep learning", section 14.10, whose figure and caption S0 shows.
INPUT, KERNEL = np.array([[0, 1], [2, 3]]), np.array([[0, 1], [2, 3]])
F2_FIGURE = [[0, 0, 1], [0, 4, 6], [4, 12, 9]]
STEPS, LR = 300, 0.1  # of learning a kernel
PART = slice(32, 96)  # rows and columns of the photograph that it is learned from
TOLERANCE = 1e-6


def greys(first: str = "china") -> dict[str, np.ndarray]:
    """Return both photographs in grey, (128, 128) from -0.5 to 0.5, by name, one of them first."""
    names = sorted(data.PHOTOGRAPHS, key=lambda name: name != first)
    return {name: (data.photograph(name, SIDE).mean(-1) / 255 - 0.5).astype(np.float32) for name in names}


def nhwc(values: np.ndarray) -> jax.Array:
    """One image (height, width) as `ops` takes it."""
    return jnp.asarray(values, jnp.float32)[None, ..., None]


def bilinear_kernel(scale: int) -> np.ndarray:
    """Return the weights (2 scale, 2 scale) with which a transposed convolution interpolates, scale even.

    Source: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation" (2015).
    """
    ramp = 1 - np.abs(np.arange(2 * scale) + 0.5 - scale) / scale
    return np.outer(ramp, ramp)


def transposed(x: jax.Array, kernel: jax.Array, scale: int) -> jax.Array:
    """Return x (n, h, w, 1) enlarged by a transposed convolution with a kernel (2 scale, 2 scale)."""
    return ops.conv_transpose2d(x, kernel[:, :, None, None], stride=scale, padding=scale // 2)


# ---------------------------------------------------------------- definitions in NumPy


def nearest_by_definition(x: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel is copied to its scale x scale neighbours."""
    return np.kron(x, np.ones((scale, scale)))


def bilinear_by_definition(x: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel is the mean of the 4 nearest, with the products of 1 - distance along both axes as weights.

    Pixel i has its centre at i + 0.5; outside of the image lie copies of its border.
    """
    padded = np.pad(x.astype(np.float64), 1, mode="edge")
    result = np.zeros((x.shape[0] * scale, x.shape[1] * scale))
    for row, column in np.ndindex(*result.shape):
        y, z = (row + 0.5) / scale + 0.5, (column + 0.5) / scale + 0.5  # among the padded pixels
        for i in (int(y), int(y) + 1):
            for j in (int(z), int(z) + 1):
                result[row, column] += (1 - abs(y - i)) * (1 - abs(z - j)) * padded[i, j]
    return result


def nails_by_definition(x: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel lies at its place, with zeros in the remaining positions."""
    result = np.zeros((x.shape[0] * scale, x.shape[1] * scale))
    result[::scale, ::scale] = x
    return result


def unpooled_by_definition(x: np.ndarray, scale: int) -> np.ndarray:
    """The largest value of every cell stays at its place, the first of equals, and all others become zero."""
    result = np.zeros(x.shape)
    for row in range(0, x.shape[0], scale):
        for column in range(0, x.shape[1], scale):
            cell = x[row : row + scale, column : column + scale]
            down, right = np.unravel_index(cell.argmax(), cell.shape)
            result[row + down, column + right] = cell.max()
    return result


def _unpooled(x: jax.Array, scale: int) -> jax.Array:
    return ops.max_unpool2d(*ops.max_pool2d_with_indices(x, scale), (x.shape[1], x.shape[2]))


# name: the lecture's words, the definition, ours
F1: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray], Callable[[jax.Array, int], jax.Array]]] = {
    "nearest": ("copy a pixel to its nearest neighbours", nearest_by_definition, ops.upsample_nearest),
    "bilinear": ("4 nearest pixels, weighted by distance", bilinear_by_definition, ops.upsample_bilinear),
    "bed of nails": ("copy to its position, zeros elsewhere", nails_by_definition, ops.bed_of_nails),
    "max-unpooling": ("to the saved index of the maximum, zeros elsewhere", unpooled_by_definition, _unpooled),
}


def from_definitions(values: np.ndarray, scale: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return what the lecture defines and what `ops` computes of numbers (H, W), by name."""
    ours = jax.jit(lambda x: {name: compute(x, scale) for name, (_, _, compute) in F1.items()})(nhwc(values))
    return {name: (define(values, scale), np.asarray(ours[name])[0, ..., 0]) for name, (_, define, _) in F1.items()}


# ---------------------------------------------------------------- transposed convolution


def copies() -> np.ndarray:
    """Return the four terms (4, 3, 3) of the worked example: the kernel times each input, at the input's place."""
    terms = np.zeros((4, 3, 3))
    for number, (row, column) in enumerate(np.ndindex(2, 2)):
        terms[number, row : row + 2, column : column + 2] = INPUT[row, column] * KERNEL
    return terms


def worked_example() -> np.ndarray:
    """Return the transposed convolution of the worked example."""
    kernel = jnp.asarray(KERNEL, jnp.float32)[:, :, None, None]
    return np.asarray(jax.jit(ops.conv_transpose2d)(nhwc(INPUT), kernel))[0, ..., 0]


def gradient_errors(seed: int) -> dict[str, float]:
    """Return how far a transposed convolution is from two transposes of a strided, padded one of 3 to 4 channels.

    Returns:
        "vjp": from JAX's gradient of `ops.conv2d`; "matrix": from the transpose of the convolution's matrix, which is
        written down tap by tap in NumPy in float64.
    """
    size, kernel_size, stride, padding, ins, outs = 9, 3, 2, 1, 3, 4
    small = (size + 2 * padding - kernel_size) // stride + 1
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(kernel_size, kernel_size, ins, outs))
    gradient = rng.normal(size=(1, small, small, outs))
    matrix = np.zeros((small, small, outs, size, size, ins))
    for i, j, a, b in np.ndindex(small, small, kernel_size, kernel_size):
        row, column = i * stride + a - padding, j * stride + b - padding
        if 0 <= row < size and 0 <= column < size:
            matrix[i, j, :, row, column, :] = kernel[a, b].T
    expected = np.einsum("nijo,ijohwc->nhwc", gradient, matrix)

    @jax.jit
    def both(kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        layer = partial(ops.conv2d, kernel=kernel, stride=stride, padding=padding)
        (by_vjp,) = jax.vjp(layer, jnp.zeros((1, size, size, ins)))[1](gradient)
        return ops.conv_transpose2d(gradient, kernel.swapaxes(2, 3), stride=stride, padding=padding), by_vjp

    ours, by_vjp = both(jnp.asarray(kernel, jnp.float32), jnp.asarray(gradient, jnp.float32))
    return {
        "vjp": float(np.abs(np.asarray(ours) - np.asarray(by_vjp)).max()),
        "matrix": float(np.abs(np.asarray(ours) - expected).max()),
    }


def learn(image: np.ndarray) -> dict[str, np.ndarray]:
    """Learn to enlarge a photograph twice by gradient descent on the 4x4 kernel of a transposed convolution.

    Returns:
        "kernel": the last one; "losses": mean square errors (steps,) before each step of Adam, from zeros. It learns
        from the part `PART` of the photograph, with grey as 0: on images that are positive throughout it would be slow.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(LR, STEPS))
    x = nhwc(image[PART, PART])

    def loss(kernel: jax.Array) -> jax.Array:
        return jnp.square(inner(transposed(ops.avg_pool2d(x, 2), kernel, 2) - x)).mean()

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], jax.Array]:
        kernel, state = carry
        value, gradient = jax.value_and_grad(loss)(kernel)
        updates, state = optimizer.update(gradient, state)
        return (kernel + updates, state), value

    zeros = jnp.zeros((4, 4))
    (kernel, _), losses = jax.jit(lambda: jax.lax.scan(step, (zeros, optimizer.init(zeros)), length=STEPS))()
    return {"kernel": np.asarray(kernel), "losses": np.asarray(losses)}


def inner(images: jax.Array) -> jax.Array:
    """Without the border, where a transposed convolution sees zeros beyond the image."""
    return images[:, 2:-2, 2:-2]


def compare(image: np.ndarray, kernel: np.ndarray) -> dict[str, float]:
    """Return root mean square errors of a photograph, shrunk to half by means and enlarged twice, by way."""

    @jax.jit
    def errors(x: jax.Array, kernel: jax.Array) -> dict[str, jax.Array]:
        small = ops.avg_pool2d(x, 2)
        enlarged = {
            "nearest": ops.upsample_nearest(small, 2),
            "bilinear": ops.upsample_bilinear(small, 2),
            "learned": transposed(small, kernel, 2),
        }
        return {name: jnp.sqrt(jnp.square(inner(y - x)).mean()) for name, y in enlarged.items()}

    found = errors(nhwc(image), jnp.asarray(kernel))
    return {name: float(found[name]) for name in ("nearest", "bilinear", "learned")}


# ---------------------------------------------------------------- claims


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims F1 and F2, all computed here, with the default options."""
    return [*_definitions(), _example(), _gradient(), *_learnable(greys())]


def _definitions() -> list[Claim]:
    values = np.random.default_rng(0).uniform(size=(12, 16))
    rows = []
    for name, (expected, ours) in from_definitions(values, SCALE).items():
        error = float(np.abs(expected - ours).max())
        rows.append(
            check(
                "F1",
                f"{name} upsampling" if name != "max-unpooling" else name,
                F1[name][0],
                f"at most {error:.0e} from that in NumPy, {values.shape} to {ours.shape}",
                f"{TOLERANCE:.0e}",
                error <= TOLERANCE and ours.shape == expected.shape,
            )
        )
    return rows


def _example() -> Claim:
    ours, by_hand = worked_example(), copies().sum(0)
    return check(
        "F2",
        "transposed convolution with a 2x2 kernel: 0 1 / 2 3 with 0 1 / 2 3",
        "0 0 1 / 0 4 6 / 4 12 9 (figure of Zhang et al., whose caption is the deck's)",
        show(ours),
        "exact",
        np.array_equal(ours, F2_FIGURE) and np.array_equal(ours, by_hand),
    )


def _gradient() -> Claim:
    errors = gradient_errors(0)
    return check(
        "F2",
        "transposed convolution is the gradient of convolution",
        "transposed",
        f"at most {errors['vjp']:.0e} from conv2d's gradient, {errors['matrix']:.0e} from NumPy's matrix, transposed",
        "1e-5",
        max(errors.values()) <= 1e-5,
    )


def _learnable(images: dict[str, np.ndarray]) -> list[Claim]:
    (own, image), (other, unseen) = images.items()
    learned = learn(image)
    first, last = np.sqrt(learned["losses"][[0, -1]])
    rows = {name: compare(picture, learned["kernel"]) for name, picture in ((own, image), (other, unseen))}
    ours = "; ".join(
        f"{name}: " + ", ".join(f"{way} {error:.4f}" for way, error in row.items()) for name, row in rows.items()
    )
    return [
        check(
            "F2",
            "the upsampling is learnable: gradient descent on a 4x4 kernel with stride 2",
            "some learnable parameters",
            f"error {first:.3f} before, {last:.4f} after {STEPS} steps; {ours}",
            "below bilinear interpolation, also on the photograph not seen",
            all(row["learned"] < row["bilinear"] < row["nearest"] for row in rows.values()),
        )
    ]
