"""Hidden Sobel and Scharr kernels recovered by gradient descent from an image and its response.

Lecture S1, "Learning kernels" (claim B11): the numbers of a kernel need not be designed. Given an image and a kernel's
response to it, gradient descent on the mean squared error finds the kernel from any start.

    python launch.py learn-kernel
    python launch.py learn-kernel --photograph china --momentum 0.95 --steps 3000
    python launch.py learn-kernel --kernel "0 1 0/1 -4 1/0 1 0"

Takes a few seconds. Expect nine numbers that are right to three digits after about 150 steps with momentum. Without
momentum the loss is small long before the kernel is right: neighbouring pixels are similar, so some kernels are hard to
distinguish. The table shows how hard: the largest curvature of the loss is several hundred times the smallest.
"""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from cnnjax import ops, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check
from cnnjax.lab.worked import KERNELS, computed, grey, parse, show
from cnnjax.options import Checked, FractionOrZero, Positive, Seed, within
from cnnjax.viz import Grid
from cnnjax.viz.figures import COLOURS
from cnnjax.viz.grids import signed

HIDDEN = ("Sobel", "Scharr")
LECTURE_IMAGE = parse("3 0 10 5 24 2/8 4 5 6 10 7/23 3 1 0 0 0/21 4 0 0 0 23/23 0 0 0 45 23/0 3 0 12 34 32")  # S1
RIGHT = 1e-3  # largest error of a learned kernel that counts as right, relative to its largest number
SHOWN = (0, 10, 30, 100, 300)  # steps
STEPS = 300  # of gradient descent for the claims


class Task(NamedTuple):
    """The image to learn from, and the hidden kernels."""

    image: np.ndarray  # (height, width), of mean 0 and variance 1
    hidden: dict[str, np.ndarray]  # by name, all of one size


class Path(NamedTuple):
    """The course of learning: kernels (steps + 1, height, width, count) and losses (steps + 1, count)."""

    kernels: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class Config(Checked):
    """Learn kernels from their responses to a photograph."""

    photograph: str = "flower"
    """flower, china, or a path to an image file."""
    kernel: str | None = None
    """A kernel to learn instead, as '0 1 0/1 -4 1/0 1 0'; default: Sobel and Scharr."""
    steps: Annotated[int, within(1, 100_000)] = 1000
    """Steps of gradient descent."""
    momentum: FractionOrZero = 0.9
    """Share of the last step that the next one keeps."""
    lr: Positive | None = None
    """Learning rate, less than what diverges; default: 1 / the largest curvature of the loss."""
    seed: Seed = 0
    """Decides the kernels to start from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel is not None and max(parse(self.kernel, "`kernel`").shape) > 7:
            raise UserError(f"`kernel={self.kernel!r}`: expected at most 7 rows and columns")


def load(config: Config) -> Task:
    """Return the task; raise a UserError if gradient descent would diverge with this learning rate."""
    hidden = {name: KERNELS[name] for name in HIDDEN} if config.kernel is None else {"yours": parse(config.kernel)}
    task = Task(standardised(grey(config.photograph)), hidden)
    largest = curvatures(task)[-1]
    limit = 2 * (1 + config.momentum) / largest
    if config.lr is not None and config.lr >= limit:
        raise UserError(
            f"`lr` must be above 0 and below {limit:.4g}, where gradient descent with `momentum={config.momentum}` "
            f"diverges on this photograph, got {config.lr}"
        )
    return task


def standardised(image: np.ndarray) -> np.ndarray:
    """Scale an image to mean 0 and variance 1."""
    return ((image - image.mean()) / image.std()).astype(np.float32)


def curvatures(task: Task) -> np.ndarray:
    """Return the curvatures of the loss, ascending: the eigenvalues of twice the mean of patch times patch."""
    window = next(iter(task.hidden.values())).shape
    patches = np.lib.stride_tricks.sliding_window_view(task.image, window).reshape(-1, np.prod(window)).astype(float)
    return np.linalg.eigvalsh(2 * patches.T @ patches / len(patches))


def learn(task: Task, steps: int, lr: float, momentum: float, seed: int = 0) -> Path:
    """Learn all hidden kernels at once, as the output channels of one convolution.

    Args:
        task: the image and the kernels.
        steps: of gradient descent.
        lr: learning rate.
        momentum: 0 for plain gradient descent.
        seed: decides the kernels to start from.
    """
    image, hidden = jnp.asarray(task.image[None, ..., None]), jnp.asarray(np.stack(list(task.hidden.values()), -1))
    wanted = ops.conv2d(image, hidden[:, :, None])
    optimizer = optax.sgd(lr, momentum or None)

    def losses(kernels: jax.Array) -> jax.Array:
        return jnp.mean((ops.conv2d(image, kernels[:, :, None]) - wanted) ** 2, (0, 1, 2))

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        kernels, state = carry
        now, gradient = losses(kernels), jax.grad(lambda kernels: losses(kernels).sum())(kernels)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(kernels, updates), state), (kernels, now)

    start = jnp.asarray(0.1 * np.random.default_rng(seed).standard_normal(hidden.shape, np.float32))
    _, path = jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), length=steps + 1))(start)
    return Path(*map(np.asarray, path))


def run(config: Config, task: Task, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Learn with and without momentum, draw the figures, and return the summary."""
    bowl = curvatures(task)
    lr = 1 / bowl[-1] if config.lr is None else config.lr
    paths = {
        f"momentum {momentum:g}": learn(task, config.steps, lr, momentum, config.seed)
        for momentum in dict.fromkeys((0.0, config.momentum))
    }
    viz.save(_curves(task, paths), run.figures / "learning.png")
    path = list(paths.values())[-1]
    viz.save(viz.number_grids(_snapshots(task, path)), run.figures / "kernels.png")
    viz.save(_responses(task, path), run.figures / "responses.png")
    return {
        "lr": float(lr),
        "condition": float(bowl[-1] / bowl[0]),
        "results": {
            how: {name: _result(path, number, hidden) for number, (name, hidden) in enumerate(task.hidden.items())}
            for how, path in paths.items()
        },
    }


def _result(path: Path, number: int, hidden: np.ndarray) -> dict[str, Any]:
    errors = error_of(path, number, hidden)
    right = np.flatnonzero(errors > RIGHT)
    steps = int(right[-1]) + 1 if right.size else 0
    return {
        "kernel": path.kernels[-1, ..., number].tolist(),
        "loss": [float(path.losses[0, number]), float(path.losses[-1, number])],
        "error": float(errors[-1]),
        "steps_until_right": steps if steps < len(errors) else None,
    }


def error_of(path: Path, number: int, hidden: np.ndarray) -> np.ndarray:
    """Return for every step the error of a learned kernel, relative to the largest number of the hidden one."""
    return np.abs(path.kernels[..., number] - hidden).max((1, 2)) / np.abs(hidden).max()


# ---------------------------------------------------------------- figures


def _curves(task: Task, paths: dict[str, Path]) -> Figure:
    """The losses and the numbers of every kernel against the steps."""
    figure = Figure(figsize=(4.2 * (1 + len(task.hidden)), 3.6), layout="constrained")
    loss, *values = figure.subplots(1, 1 + len(task.hidden))
    for style, (how, path) in zip(("--", "-"), paths.items(), strict=False):
        steps = np.arange(len(path.losses))
        for number, (name, hidden) in enumerate(task.hidden.items()):
            loss.semilogy(steps, path.losses[:, number], style, color=COLOURS[number], label=f"{name}, {how}")
            flat = path.kernels[..., number].reshape(len(steps), -1)
            if path is list(paths.values())[-1]:
                for colour, curve in enumerate(flat.T):
                    values[number].plot(steps, curve, color=COLOURS[colour % len(COLOURS)], linewidth=1.4)
                for value in np.unique(hidden):
                    values[number].axhline(value, color="black", linewidth=0.6, linestyle=":")
                values[number].set(title=f"{name}: its numbers, {how}", xlabel="step")
    loss.set(title="mean squared error", xlabel="step")
    loss.legend(fontsize=7)
    for axes in (loss, *values):
        axes.set_xscale("symlog", linthresh=1)  # from step 0 on
        axes.set_xlim(0, None)
        axes.grid(alpha=0.3)
    return figure


def _shown(path: Path) -> list[int]:
    last = len(path.losses) - 1
    return [step for step in SHOWN if step < last] + [last]


def _snapshots(task: Task, path: Path) -> list[list[Grid]]:
    """Every kernel at some steps, and the hidden one."""
    rows = []
    for number, (name, hidden) in enumerate(task.hidden.items()):
        limits = (float(hidden.min()), float(hidden.max()))
        at = [Grid(path.kernels[step, ..., number].round(2), f"step {step}", limits=limits) for step in _shown(path)]
        rows.append([*at, Grid(hidden, f"hidden: {name}", "≈", limits=limits)])
    return rows


def _responses(task: Task, path: Path) -> Figure:
    """The photograph, the response of the first hidden kernel, and those of the learned one at some steps."""
    kernels = np.concatenate([path.kernels[_shown(path), ..., 0], next(iter(task.hidden.values()))[None]])
    y = computed(ops.conv2d, task.image[None, ..., None], np.moveaxis(kernels, 0, -1)[:, :, None])[0]
    height, width = y.shape[:2]
    middle = slice(max(0, width - height) // 2, (width + height) // 2)  # a square
    reach = np.quantile(np.abs(y[..., -1]), 0.99)
    pictures = [signed()(0.5 + picture[:, middle] / (2 * reach))[..., :3] for picture in np.moveaxis(y, -1, 0)]
    gray = task.image[:height, :width][:, middle]
    gray = np.stack([(gray - gray.min()) / np.ptp(gray)] * 3, -1)
    titles = ["photograph", *(f"step {step}" for step in _shown(path)), "hidden kernel"]
    return viz.image_grid(np.stack([gray, *pictures]), titles, 4)


# ---------------------------------------------------------------- results


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of the learned kernels and the steps that they needed."""
    rows = [
        (
            name,
            how,
            show(np.array(result["kernel"]).round(3), 4),
            f"{result['error']:.1e}",
            f"{result['loss'][0]:.2g} to {result['loss'][1]:.1e}",
            result["steps_until_right"] or "not reached",
        )
        for how, results in summary["results"].items()
        for name, result in results.items()
    ]
    head = ("hidden kernel", "gradient descent", "learned", "error", "loss", f"steps until right to {RIGHT:g}")
    condition = f"The largest curvature of the loss is {summary['condition']:.0f} times the smallest."
    return f"{markdown.table(head, rows)}\n\n{condition}"


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claim B11, computed here: from a photograph, and from the image that S1 prints."""
    hidden = {name: KERNELS[name] for name in HIDDEN}
    tasks = {
        "a photograph and its response": Task(standardised(grey("flower")), hidden),
        "the 6x6 image that S1 prints and its 4x4 response": Task(standardised(LECTURE_IMAGE), hidden),
    }
    checked = []
    for what, task in tasks.items():
        path = learn(task, STEPS, 1 / curvatures(task)[-1], 0.9)
        for number, name in enumerate(HIDDEN):
            error, learned = error_of(path, number, hidden[name]), path.kernels[-1, ..., number]
            checked.append(
                check(
                    "B11",
                    f"S1: a hidden {name} kernel learned from {what}, by {STEPS} steps of gradient descent",
                    show(hidden[name]),
                    f"{show(learned.round(3))}, {error[-1]:.0e} apart, {error[0]:.1f} at first",
                    error[-1] <= RIGHT and error[0] > 0.5,
                    f"{RIGHT:g} of the largest number",
                )
            )
    return checked
