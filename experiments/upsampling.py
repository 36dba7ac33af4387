"""Upsampling: nearest, bilinear, bed of nails, unpooling, transposed convolution and sub-pixel layers on one image.

Lecture S0, "Upsample CNN" and "Transposed CNN" (claims F1 and F2): four ways to enlarge a feature map without learning,
each compared with its definition in NumPy; and transposed convolution: the worked example of a 2x2 kernel, the gradient
of a convolution, and a layer that learns to enlarge a photograph.

    python launch.py upsampling
    python launch.py upsampling --photograph flower

Takes half a minute. Expect a learned 4x4 kernel that is better than bilinear interpolation on the photograph it learned
from; learned from "china" it is better on "flower" too, but not the other way round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import data, ops, runs, train, viz
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check
from cnnjax.lab.worked import nhwc, show
from cnnjax.options import Checked

SIDE, SCALE = 128, 4  # of the photograph in pixels, and how much it is shrunk and enlarged
# Zhang et al., "Dive into deep learning", section 14.10, whose figure and caption S0 shows.
INPUT, KERNEL = np.array([[0, 1], [2, 3]]), np.array([[0, 1], [2, 3]])
F2_FIGURE = [[0, 0, 1], [0, 4, 6], [4, 12, 9]]
STEPS, LR, PART = 300, 0.1, slice(32, 96)  # of learning a kernel; rows and columns of the photograph
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Config(Checked):
    """Enlarge a photograph in every way."""

    photograph: data.Photograph = "china"
    """One of scikit-learn's."""


def load(config: Config) -> dict[str, np.ndarray]:
    """Return both photographs in grey by name, (128, 128) from -0.5 to 0.5, the chosen one first."""
    names = sorted(data.PHOTOGRAPHS, key=lambda name: name != config.photograph)
    return {name: (data.photograph(name, SIDE).mean(-1) / 255 - 0.5).astype(np.float32) for name in names}


def run(config: Config, images: dict[str, np.ndarray], run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Enlarge, learn, draw the figures, and return the summary."""
    from experiments import upsampling_figures  # which draws what this file computes

    image = images[config.photograph]
    enlarged, learned = gallery(image), learn(image)
    for name, figure in upsampling_figures.draw(image, enlarged, learned).items():
        viz.save(figure, run.figures / f"{name}.png")
    return {
        "photograph": config.photograph,
        "error": {name: rms_error(picture, image) for name, picture in enlarged.items()},
        "twice": {name: compare(other, learned["kernel"]) for name, other in images.items()},
        "kernel": np.round(learned["kernel"], 4).tolist(),
    }


def rms_error(picture: np.ndarray, image: np.ndarray) -> float:
    """Root mean square error, of grey values in a range of 1."""
    return float(np.sqrt(np.square(picture - image).mean()))


# ---------------------------------------------------------------- every way to enlarge


def bilinear_kernel(scale: int) -> np.ndarray:
    """Return the weights (2 scale, 2 scale) with which a transposed convolution interpolates, scale even.

    Source: Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation" (2015).
    """
    ramp = 1 - np.abs(np.arange(2 * scale) + 0.5 - scale) / scale
    return np.outer(ramp, ramp)


def transposed(x: jax.Array, kernel: jax.Array, scale: int) -> jax.Array:
    """Return x (n, h, w, 1) enlarged by a transposed convolution with a kernel (2 scale, 2 scale)."""
    return ops.conv_transpose2d(x, kernel[:, :, None, None], stride=scale, padding=scale // 2)


def sub_pixel(x: jax.Array, kernel: jax.Array, scale: int) -> jax.Array:
    """Return the same as `transposed` by a convolution to scale^2 channels and a pixel shuffle.

    Every output pixel depends on 2x2 of the 3x3 pixels around its own: the kernel's taps are spread over the channels.
    """
    taps = np.zeros((3, 3, 1, scale * scale), np.int32) - 1
    for u, v in np.ndindex(scale, scale):
        for a, b in np.ndindex(3, 3):  # output scale*i + u comes from input i + a - 1 by the kernel's row
            row, column = u + scale // 2 - scale * (a - 1), v + scale // 2 - scale * (b - 1)
            if 0 <= row < 2 * scale and 0 <= column < 2 * scale:
                taps[a, b, 0, u * scale + v] = row * 2 * scale + column
    weights = jnp.where(taps >= 0, kernel.ravel()[taps], 0)
    return ops.pixel_shuffle(ops.conv2d(x, weights, padding=1), scale)


def gallery(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the photograph, shrunk by means (for unpooling by maxima) and enlarged again, by the way to enlarge."""

    @jax.jit
    def enlarge(image: jax.Array) -> list[jax.Array]:
        small = ops.avg_pool2d(image, SCALE)
        largest, indices = ops.max_pool2d_with_indices(image, SCALE)
        kernel = jnp.asarray(bilinear_kernel(SCALE), jnp.float32)
        return [
            ops.upsample_nearest(small, SCALE),
            ops.upsample_bilinear(small, SCALE),
            ops.bed_of_nails(small, SCALE),
            ops.max_unpool2d(largest, indices, SIDE),
            transposed(small, kernel, SCALE),
            sub_pixel(small, kernel, SCALE),
        ]

    names = ("nearest", "bilinear", "bed of nails", "max-unpooling", "transposed convolution", "sub-pixel")
    pictures = enlarge(nhwc(image))
    return {name: np.asarray(picture)[0, ..., 0] for name, picture in zip(names, pictures, strict=True)}


# ---------------------------------------------------------------- definitions in NumPy


def nearest_by_definition(x: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel is copied to its scale x scale neighbours."""
    return np.kron(x, np.ones((scale, scale)))


def bilinear_by_definition(x: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel is the mean of the 4 nearest, with the products of 1 - distance along both axes as weights.

    Pixel i has its centre at i + 0.5; the border continues outside of the image.
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
    """Every pixel is copied to its position, with zeros elsewhere."""
    return np.kron(x, np.arange(scale * scale).reshape(scale, scale) == 0)


def unpooled_by_definition(x: np.ndarray, scale: int) -> np.ndarray:
    """The largest value of every cell, the first of equals, keeps its position; all others become zero."""
    result = np.zeros(x.shape)
    for row in range(0, x.shape[0], scale):
        for column in range(0, x.shape[1], scale):
            cell = x[row : row + scale, column : column + scale]
            down, right = np.unravel_index(cell.argmax(), cell.shape)
            result[row + down, column + right] = cell.max()
    return result


def _unpooled(x: jax.Array, scale: int) -> jax.Array:
    return ops.max_unpool2d(*ops.max_pool2d_with_indices(x, scale), (x.shape[1], x.shape[2]))


# name: the lecture's words, the definition, and the operation of ops
F1: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray], Callable[[jax.Array, int], jax.Array]]] = {
    "nearest": ("copy a pixel to its nearest neighbours", nearest_by_definition, ops.upsample_nearest),
    "bilinear": ("4 nearest pixels, weighted by distance", bilinear_by_definition, ops.upsample_bilinear),
    "bed of nails": ("copy to its position, zeros elsewhere", nails_by_definition, ops.bed_of_nails),
    "max-unpooling": ("to the saved index of the maximum, zeros elsewhere", unpooled_by_definition, _unpooled),
}


def from_definitions(values: np.ndarray, scale: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return by name what the definition and what `ops` makes of numbers (H, W)."""
    ours = jax.jit(lambda x: {name: compute(x, scale) for name, (_, _, compute) in F1.items()})(nhwc(values))
    return {name: (define(values, scale), np.asarray(ours[name])[0, ..., 0]) for name, (_, define, _) in F1.items()}


# ---------------------------------------------------------------- transposed convolution


def copies() -> np.ndarray:
    """Return the four terms (4, 3, 3) of the worked example: each input times the kernel, at the input's position."""
    terms = np.zeros((4, 3, 3))
    for number, (row, column) in enumerate(np.ndindex(2, 2)):
        terms[number, row : row + 2, column : column + 2] = INPUT[row, column] * KERNEL
    return terms


def worked_example() -> np.ndarray:
    """Return the transposed convolution of the worked example."""
    kernel = jnp.asarray(KERNEL, jnp.float32)[:, :, None, None]
    return np.asarray(jax.jit(ops.conv_transpose2d)(nhwc(INPUT), kernel))[0, ..., 0]


def gradient_errors(seed: int) -> dict[str, float]:
    """Compare a transposed convolution with two transposes of a strided, padded convolution of 3 to 4 channels.

    Returns:
        The largest difference from "vjp", JAX's gradient of `ops.conv2d`, and from "matrix", the transpose of the
        convolution's matrix, which is written tap by tap in NumPy in float64.
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
        "kernel": after the last step; "losses": mean square errors (steps,) before each step of Adam, from zeros. It
        learns from `PART` of the photograph, where grey is 0: learning from positive values alone would be slow.
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
    """Cut off the border, where a transposed convolution sees zeros beyond the image."""
    return images[:, 2:-2, 2:-2]


def compare(image: np.ndarray, kernel: np.ndarray) -> dict[str, float]:
    """Return the root mean square errors of a photograph, shrunk by means and enlarged twice, by the way to enlarge."""

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


def table(summary: dict[str, Any]) -> str:
    """Return Markdown tables of the errors of every way to enlarge."""
    errors = [(name, f"{error:.4f}") for name, error in summary["error"].items()]
    own, twice = summary["photograph"], summary["twice"]
    ways = list(twice[own])
    rows = [
        (f"{name} (learned from it)" if name == own else name, *(f"{error[way]:.4f}" for way in ways))
        for name, error in twice.items()
    ]
    first = markdown.table((f"enlarged {SCALE} times, {own}", "root mean square error"), errors)
    return f"{first}\n\n{markdown.table(('enlarged twice', *ways), rows)}"


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims F1 and F2, all computed here, with the default options."""
    return [*_definitions(), _example(), _gradient(), _learnable(load(Config()))]


def _definitions() -> list[Claim]:
    values = np.random.default_rng(0).uniform(size=(12, 16))
    return [
        check(
            "F1",
            f"{name} upsampling" if name != "max-unpooling" else name,
            F1[name][0],
            f"at most {(gap := np.abs(expected - ours).max()):.0e} from that in NumPy, {values.shape} to {ours.shape}",
            gap <= TOLERANCE and ours.shape == expected.shape,
            f"{TOLERANCE:.0e}",
        )
        for name, (expected, ours) in from_definitions(values, SCALE).items()
    ]


def _example() -> Claim:
    ours, by_hand = worked_example(), copies().sum(0)
    return check(
        "F2",
        "transposed convolution with a 2x2 kernel: 0 1 / 2 3 with 0 1 / 2 3",
        "0 0 1 / 0 4 6 / 4 12 9 (figure of Zhang et al. in the lecture)",
        show(ours),
        np.array_equal(ours, F2_FIGURE) and np.array_equal(ours, by_hand),
    )


def _gradient() -> Claim:
    errors = gradient_errors(0)
    return check(
        "F2",
        "transposed convolution is the gradient of convolution",
        "transposed",
        f"at most {errors['vjp']:.0e} from conv2d's gradient, {errors['matrix']:.0e} from NumPy's matrix, transposed",
        max(errors.values()) <= 1e-5,
        "1e-5",
    )


def _learnable(images: dict[str, np.ndarray]) -> Claim:
    learned = learn(next(iter(images.values())))
    first, last = np.sqrt(learned["losses"][[0, -1]])
    rows = {name: compare(picture, learned["kernel"]) for name, picture in images.items()}
    ours = "; ".join(
        f"{name}: " + ", ".join(f"{way} {error:.4f}" for way, error in row.items()) for name, row in rows.items()
    )
    return check(
        "F2",
        "the upsampling is learnable: gradient descent on a 4x4 kernel with stride 2",
        "some learnable parameters",
        f"error {first:.3f} before, {last:.4f} after {STEPS} steps; {ours}",
        all(row["learned"] < row["bilinear"] < row["nearest"] for row in rows.values()),
        "below bilinear interpolation, also on the photograph not seen",
    )
