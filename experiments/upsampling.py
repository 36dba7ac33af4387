"""Upsampling: nearest, bilinear, bed of nails, unpooling, transposed convolution and sub-pixel layers on one image.

Lecture S0, "Upsample CNN" and "Transposed CNN" (claims F1 and F2): four ways to enlarge a feature map that have nothing
to learn, each held against its definition in NumPy; and transposed convolution, on the worked example of a 2x2 kernel,
as the gradient of a convolution, and as a layer that learns to enlarge a photograph.

    python launch.py upsampling
    python launch.py upsampling --photograph flower

Takes a few seconds. Expect a learned 4x4 kernel that beats bilinear interpolation on the photograph that it learned
from; learned from "china" it does so on "flower" too, but not the other way round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

from cnnjax import data, ops, train, viz
from cnnjax.errors import unknown_name
from cnnjax.viz import Lines, Picture
from experiments import Claim, check

SIDE, SCALE = 128, 4  # of the photograph in pixels, and how much it is shrunk and enlarged
# Zhang et al., "Dive into deep learning", section 14.10, whose figure and caption S0 shows.
INPUT, KERNEL = np.array([[0, 1], [2, 3]]), np.array([[0, 1], [2, 3]])
F2_FIGURE = [[0, 0, 1], [0, 4, 6], [4, 12, 9]]
STEPS, LR = 300, 0.1  # of learning a kernel
PART = slice(32, 96)  # rows and columns of the photograph that it is learned from
TOLERANCE = 1e-6
GREY = (-0.5, 0.5)  # from black to white


@dataclass(frozen=True)
class Config:
    """Enlarge a photograph in every way."""

    photograph: Annotated[str, tyro.conf.arg(help=f"{' or '.join(data.PHOTOGRAPHS)}, scikit-learn's.")] = "china"

    def __post_init__(self) -> None:
        if self.photograph not in data.PHOTOGRAPHS:
            raise unknown_name("photograph", self.photograph, data.PHOTOGRAPHS)


def load(config: Config) -> dict[str, np.ndarray]:
    """Return both photographs in grey, (128, 128) from -0.5 to 0.5, by name; the config's comes first."""
    names = sorted(data.PHOTOGRAPHS, key=lambda name: name != config.photograph)
    return {name: (data.photograph(name, SIDE).mean(-1) / 255 - 0.5).astype(np.float32) for name in names}


def run(config: Config, images: dict[str, np.ndarray], run: train.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Enlarge, learn, draw the figures, and return the summary."""
    image = images[config.photograph]
    enlarged, learned = gallery(image), learn(image)
    viz.save(_draw_gallery(image, enlarged), run.figures / "gallery.png")
    viz.save(_draw_definitions(), run.figures / "definitions.png")
    viz.save(_draw_worked_example(), run.figures / "transposed-convolution.png")
    viz.save(_draw_learned(image, learned), run.figures / "learned-kernel.png")
    viz.save(_draw_losses(learned, image), run.figures / "learning.png")
    return {
        "photograph": config.photograph,
        "error": {name: _error(picture, image) for name, picture in enlarged.items()},
        "twice": {name: compare(other, learned["kernel"]) for name, other in images.items()},
        "kernel": np.round(learned["kernel"], 4).tolist(),
    }


def _nhwc(values: np.ndarray) -> jax.Array:
    return jnp.asarray(values, jnp.float32)[None, ..., None]


def _error(picture: np.ndarray, image: np.ndarray) -> float:
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
    """Return the same as `transposed` by a convolution to scale^2 channels, which are moved to space.

    Every output pixel sees 2x2 of the 3x3 pixels around its own: the kernel's taps are spread over the channels.
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
    """Return the photograph, shrunk to a quarter by means (by maxima for unpooling) and enlarged in every way."""

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
    pictures = enlarge(_nhwc(image))
    return {name: np.asarray(picture)[0, ..., 0] for name, picture in zip(names, pictures, strict=True)}


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
    ours = jax.jit(lambda x: {name: compute(x, scale) for name, (_, _, compute) in F1.items()})(_nhwc(values))
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
    return np.asarray(jax.jit(ops.conv_transpose2d)(_nhwc(INPUT), kernel))[0, ..., 0]


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
    x = _nhwc(image[PART, PART])

    def loss(kernel: jax.Array) -> jax.Array:
        return jnp.square(_inner(transposed(ops.avg_pool2d(x, 2), kernel, 2) - x)).mean()

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], jax.Array]:
        kernel, state = carry
        value, gradient = jax.value_and_grad(loss)(kernel)
        updates, state = optimizer.update(gradient, state)
        return (kernel + updates, state), value

    zeros = jnp.zeros((4, 4))
    (kernel, _), losses = jax.jit(lambda: jax.lax.scan(step, (zeros, optimizer.init(zeros)), length=STEPS))()
    return {"kernel": np.asarray(kernel), "losses": np.asarray(losses)}


def _inner(images: jax.Array) -> jax.Array:
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
        return {name: jnp.sqrt(jnp.square(_inner(y - x)).mean()) for name, y in enlarged.items()}

    found = errors(_nhwc(image), jnp.asarray(kernel))
    return {name: float(found[name]) for name in ("nearest", "bilinear", "learned")}


# ---------------------------------------------------------------- figures


def _draw_gallery(image: np.ndarray, enlarged: dict[str, np.ndarray]) -> Figure:
    small = image.reshape(SIDE // SCALE, SCALE, SIDE // SCALE, SCALE).mean((1, 3))
    shown = [
        Picture(picture, f"{name}\nerror {_error(picture, image):.3f}", limits=GREY)
        for name, picture in enlarged.items()
    ]
    first = [Picture(image, "original", limits=GREY), Picture(small, f"shrunk {SCALE} times", limits=GREY)]
    pictures = first + shown
    half = len(pictures) // 2
    rows = {"A photograph, shrunk and enlarged again (root mean square error)": pictures[:half], "": pictures[half:]}
    return viz.picture_rows(rows, size=2.3)


def _draw_definitions() -> Figure:
    values = np.array([[1, 2], [3, 4]])
    cells = np.array([[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]])
    options: dict[str, Any] = {"colours": "Blues", "numbers": ".3g", "limits": (0, 12)}
    from_values, from_cells = from_definitions(values, 2), from_definitions(cells, 2)
    pooled = cells.reshape(2, 2, 2, 2).max((1, 3))
    names = ("nearest", "bilinear", "bed of nails")
    rows = {
        "Twice as large": [
            Picture(values, "input", **options),
            *(Picture(from_values[name][1], name, **options) for name in names),
        ],
        "Max-unpooling": [
            Picture(cells, "before pooling, maxima framed", marked=from_cells["max-unpooling"][0] > 0, **options),
            Picture(pooled, "max pooling", **options),
            Picture(from_cells["max-unpooling"][1], "back to the saved indices", **options),
        ],
    }
    return viz.picture_rows(rows, size=2.2)


def _draw_worked_example() -> Figure:
    options: dict[str, Any] = {"colours": "Blues", "numbers": ".3g", "limits": (0, 16)}
    terms = [
        Picture(term, f"{value} times the kernel", **options)
        for term, value in zip(copies(), INPUT.ravel(), strict=True)
    ]
    rows = {
        "Every input adds the kernel, times its value, at its place": [
            Picture(INPUT, "input", **options),
            Picture(KERNEL, "kernel", **options),
            Picture(worked_example(), "their transposed convolution", **options),
        ],
        "The four terms of the sum": terms,
    }
    return viz.picture_rows(rows, size=2)


def _draw_learned(image: np.ndarray, learned: dict[str, np.ndarray]) -> Figure:
    kernel, interpolating = learned["kernel"], bilinear_kernel(2)
    options: dict[str, Any] = {"colours": "RdBu", "limits": (-1, 1), "numbers": ".2f"}
    small = jax.jit(lambda x: ops.avg_pool2d(x, 2))(_nhwc(image))
    part = slice(20, 84)
    pictures = jax.jit(lambda x, k: {"bilinear": ops.upsample_bilinear(x, 2), "learned": transposed(x, k, 2)})(
        small, jnp.asarray(kernel)
    )
    rows = {
        "Kernels that enlarge twice": [
            Picture(interpolating, "bilinear interpolation", **options),
            Picture(kernel, "learned by gradient descent", **options),
            Picture(kernel - interpolating, "difference", **options),
        ],
        "What they do": [
            Picture(image[part, part], "original", limits=GREY),
            *(
                Picture(np.asarray(pictures[name])[0, part, part, 0], name, limits=GREY)
                for name in ("bilinear", "learned")
            ),
        ],
    }
    return viz.picture_rows(rows, size=2.3)


def _draw_losses(learned: dict[str, np.ndarray], image: np.ndarray) -> Figure:
    errors, steps = compare(image[PART, PART], learned["kernel"]), np.arange(STEPS)
    lines = {"transposed convolution, learning": (steps, np.sqrt(learned["losses"]))}
    lines |= {name: (steps, np.full(STEPS, errors[name])) for name in ("nearest", "bilinear")}
    styles = {"nearest": ":", "bilinear": "--"}
    labels = ("steps of Adam", "root mean square error")
    return viz.line_plots([Lines("learning to enlarge twice", labels, lines, ("linear", "log"), styles=styles)])


# ---------------------------------------------------------------- what comes out


def table(summary: dict[str, Any]) -> str:
    """Return as Markdown tables the errors of every way to enlarge."""
    lines = [f"| enlarged {SCALE} times, {summary['photograph']} | root mean square error |", "| --- | --- |"]
    lines += [f"| {name} | {error:.4f} |" for name, error in summary["error"].items()]
    lines += ["", "| enlarged twice | nearest | bilinear | learned |", "| --- | --- | --- | --- |"]
    for name, errors in summary["twice"].items():
        source = " (learned from it)" if name == summary["photograph"] else ""
        lines.append(f"| {name}{source} | " + " | ".join(f"{error:.4f}" for error in errors.values()) + " |")
    return "\n".join(lines)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims F1 and F2, all computed here, with the default options."""
    return [*_definitions(), _example(), _gradient(), *_learnable(load(Config()))]


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
        " / ".join(" ".join(f"{value:g}" for value in row) for row in ours),
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
