"""Activations: sigmoid, tanh, ReLU, ReLU6 and softplus, their gradients through 50 layers; losses and softmax.

Lecture S2, "Activation Functions" and "CNN Training" (claims G1 and G2): the five functions with their derivatives; the
size of the gradient at every layer of a stack of 50 convolutions, with the initialisation that is usual for each
activation; and mean square error, categorical cross-entropy and softmax compared with NumPy.

    python launch.py activations

Takes less than half a minute. Expect gradients that vanish exponentially with sigmoid, but not with ReLU and ReLU6.
With tanh they vanish with torch's default initialisation and not with that of Glorot & Bengio; with softplus they
vanish, but far more slowly than with sigmoid. The initialisation matters as much as the activation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cnnjax import ops, runs, train, viz
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check
from cnnjax.options import Checked, Seed
from cnnjax.tasks.losses import mean_squared_error, softmax_cross_entropy
from cnnjax.viz import Lines

LAYERS, CHANNELS, SIZE, IMAGES = 50, 16, 8, 4  # of the stack: 3x3 convolutions of 8x8 images, borders joined
VANISHED, EXPLODED = 1e-3, 1e3  # gradient at the first layer's input over that at the last layer's
VARIANCES = {"Glorot": 1.0, "He": 2.0, "torch's default": 1 / 3}  # of a kernel's values, times the fan-in


class Unit(NamedTuple):
    """An activation and its usual initialisation."""

    function: Callable[[jax.Array], jax.Array]
    initialization: str


UNITS = {
    "sigmoid": Unit(jax.nn.sigmoid, "Glorot"),
    "tanh": Unit(jnp.tanh, "Glorot"),
    "ReLU": Unit(jax.nn.relu, "He"),
    "ReLU6": Unit(jax.nn.relu6, "He"),
    "softplus": Unit(jax.nn.softplus, "He"),
}
TANH = ("Glorot", "torch's default")  # of which one keeps its gradients
CAP = 6  # of ReLU6
LARGE = 20  # times the usual input: the first layers' activations reach the cap
CAPPED = (0.1, 0.5)  # share of the first layer's outputs at the cap; about half are 0
STYLES = {"ReLU6": "--"}  # below 6 it covers ReLU's line


@dataclass(frozen=True)
class Config(Checked):
    """Measure gradients through 50 layers."""

    seed: Seed = 0
    """Decides kernels, images and the loss's gradient."""


def load(config: Config) -> None:
    """Return nothing: all numbers are random."""


def run(config: Config, nothing: None, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Measure, draw the figures, and return the summary."""
    usual = {name: gradients(name, unit.initialization, config.seed) for name, unit in UNITS.items()}
    alike = {kind: {name: gradients(name, kind, config.seed) for name in UNITS} for kind in VARIANCES}
    viz.save(_draw_functions(), run.figures / "functions.png")
    viz.save(_draw_gradients(usual, alike), run.figures / "gradients.png")
    return {
        "usual": {
            name: {"initialization": UNITS[name].initialization, **_ends(norms)} for name, norms in usual.items()
        },
        "alike": {kind: {name: _ends(norms)["signals"] for name, norms in row.items()} for kind, row in alike.items()},
    }


def _ends(norms: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the first layer's gradient over the last layer's, of inputs ("signals") and of kernels."""
    return {key: float(norms[key][0] / norms[key][-1]) for key in ("kernels", "signals")}


# ---------------------------------------------------------------- gradients through many layers


def gradients(name: str, initialization: str, seed: int, scale: float = 1) -> dict[str, np.ndarray]:
    """Return the norms of the gradients of every layer of the stack, from the input to the output.

    `x[l+1] = f(conv(x[l], kernel[l]))`, 3x3 with 16 channels; x[0] and the loss's gradient are normal numbers.

    Args:
        name: of the activation.
        initialization: of the kernels, normal with a variance of `VARIANCES` over 9 * 16 inputs.
        seed: of all numbers; they are the same for all activations except for the kernels' scale.
        scale: of x[0].

    Returns:
        "signals": norms of the gradients with respect to the layers' inputs, "kernels": to their kernels; (50,) in
        float64. With ReLU a kernel's gradient depends on the scale of earlier kernels too, so "signals" decide.
        "capped": the share of each layer's outputs that are at ReLU6's cap.
    """
    rng = np.random.default_rng(seed)
    deviation = np.sqrt(VARIANCES[initialization] / (9 * CHANNELS))
    kernels = deviation * rng.normal(size=(LAYERS, 3, 3, CHANNELS, CHANNELS))
    x, gradient = rng.normal(size=(2, IMAGES, SIZE, SIZE, CHANNELS)).astype(np.float32)
    inputs, capped, x = [], [], np.float32(scale) * x
    for kernel in kernels.astype(np.float32):
        inputs.append(x)
        x = _forward(name, x, kernel)
        capped.append(float((np.asarray(x) == CAP).mean()))
    norms = []
    for kernel, taken in zip(kernels[::-1].astype(np.float32), inputs[::-1], strict=True):
        gradient, of_kernel = _backward(name, taken, kernel, gradient)
        norms.append([np.linalg.norm(np.asarray(array, np.float64)) for array in (of_kernel, gradient)])
    of_kernels, of_signals = np.array(norms[::-1]).T
    return {"kernels": of_kernels, "signals": of_signals, "capped": np.array(capped)}


def _layer(name: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return UNITS[name].function(ops.conv2d(x, kernel, padding=1, padding_mode="circular"))


_forward = partial(jax.jit, static_argnums=0)(_layer)


@partial(jax.jit, static_argnums=0)
def _backward(name: str, x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of a layer's input and kernel, given that of its output."""
    of_input, of_kernel = jax.vjp(partial(_layer, name), x, kernel)[1](gradient)
    return of_input, of_kernel


# ---------------------------------------------------------------- losses and softmax


def lecture_softmax(values: np.ndarray) -> np.ndarray:
    """Return `e^a_i / sum_k e^a_k` in float64, S2's formula."""
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def lecture_losses(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return S2's two losses of outputs and targets (N, m) in float64.

    MSE `1/N sum_i |y_i - t_i|^2`, categorical cross-entropy `-sum_i sum_j t_ij log y_ij`.
    """
    outputs, targets = outputs.astype(np.float64), targets.astype(np.float64)
    return {
        "MSE": float(np.square(outputs - targets).sum(1).mean()),
        "cross-entropy": float(-(targets * np.log(outputs)).sum()),
    }


def our_losses(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the same of softmax outputs by the losses of training, which give one number for each example."""

    @jax.jit
    def both(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        squared = mean_squared_error(jax.nn.softmax(logits), labels)
        return squared.mean() * logits.shape[1], softmax_cross_entropy(logits, labels).sum()

    squared, entropy = both(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32))
    return {"MSE": float(squared), "cross-entropy": float(entropy)}


# ---------------------------------------------------------------- figures


def _draw_functions() -> Figure:
    x = np.linspace(-6, 8, 281, dtype=np.float32)
    values = {name: np.asarray(jax.jit(unit.function)(x)) for name, unit in UNITS.items()}
    slopes = {name: np.asarray(jax.jit(jax.vmap(jax.grad(unit.function)))(x)) for name, unit in UNITS.items()}
    return viz.line_plots(
        [
            Lines(title, ("u", "y"), {name: (x, y) for name, y in curves.items()}, styles=STYLES)
            for title, curves in (("activations", values), ("their derivatives", slopes))
        ]
    )


def _draw_gradients(usual: dict[str, Any], alike: dict[str, dict[str, Any]]) -> Figure:
    """The gradients of the layers' inputs, without those that are too small for float32."""
    panels = {"usual: Glorot, and He for rectifiers": usual} | {f"all: {kind}": row for kind, row in alike.items()}
    layers = np.arange(1, LAYERS + 1)
    plots = []
    for title, row in panels.items():
        shares = {name: norms["signals"] / norms["signals"][-1] for name, norms in row.items()}
        lines = {name: (layers, np.where(share > 0, share, np.nan)) for name, share in shares.items()}
        labels = ("layer, from the input", "gradient / last layer's")
        plots.append(Lines(title, labels, lines, ("linear", "log"), styles=STYLES))
    return viz.line_plots(plots, size=(3.9, 3.4))


# ---------------------------------------------------------------- results


def table(summary: dict[str, Any]) -> str:
    """Return Markdown tables of the first layer's gradient over the last layer's."""
    head = ("activation", "initialisation", f"input of layer 1 / {LAYERS}", f"kernel of layer 1 / {LAYERS}")
    usual = [
        (name, row["initialization"], f"{row['signals']:.2g}", f"{row['kernels']:.2g}")
        for name, row in summary["usual"].items()
    ]
    alike = [(f"all with {kind}", *(f"{row[name]:.2g}" for name in UNITS)) for kind, row in summary["alike"].items()]
    second = markdown.table(("input of the first / last layer", *UNITS), alike)
    return f"{markdown.table(head, usual)}\n\n{second}"


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims G1 and G2, all computed here with the default options."""
    return [*_vanishing(), *_rectifiers(), *_loss_claims(), _softmax_claim()]


def _signals(name: str, initialization: str, scale: float = 1) -> float:
    """Return the gradient at the first layer's input over that at the last layer's."""
    return _ends(gradients(name, initialization, 0, scale))["signals"]


def _kept(ratio: float) -> bool:
    return VANISHED <= ratio <= EXPLODED


def _vanishing() -> list[Claim]:
    """Sigmoid, and tanh, whose initialisation decides."""
    sigmoid, glorot, default = _signals("sigmoid", "Glorot"), *(_signals("tanh", kind) for kind in TANH)
    over = f"first over last of {LAYERS} layers"
    return [
        check(
            "G1",
            "sigmoid: gradients vanish with depth",
            "leads to the vanishing gradients problem",
            f"{over}: {sigmoid:.2g} (Glorot kernels)",
            sigmoid < VANISHED,
            f"below {VANISHED:g}",
        ),
        check(
            "G1",
            f"tanh: gradients vanish with depth, through {LAYERS} layers with {CHANNELS} channels and inputs of "
            "variance 1, with torch's default initialisation; with that of Glorot & Bengio they do not",
            "leads to the vanishing gradients problem",
            f"{over}: torch's default {default:.2g}, Glorot {glorot:.2g}",
            default < VANISHED and _kept(glorot),
            f"vanished: below {VANISHED:g}; kept: up to {EXPLODED:g}",
        ),
    ]


def _rectifiers() -> list[Claim]:
    relu, capped = _signals("ReLU", "He"), gradients("ReLU6", "He", 0, LARGE)
    ends, share = _ends(capped)["signals"], capped["capped"][0]
    pairs = {kind: (_signals("softplus", kind), _signals("sigmoid", kind)) for kind in ("Glorot", "He")}
    over = f"first over last of {LAYERS} layers"
    return [
        check(
            "G1",
            "ReLU: gradients do not vanish with depth",
            "rectifiers are more suitable",
            f"{over}: {relu:.2g} (He kernels)",
            _kept(relu),
            f"{VANISHED:g} to {EXPLODED:g}",
        ),
        check(
            "G1",
            f"ReLU6: gradients do not vanish with depth, with inputs {LARGE} times as large, so that activations reach "
            f"the cap of {CAP}",
            "rectifiers are more suitable; bounded by 6",
            f"{share:.0%} of the first layer's outputs are {CAP}; {over}: {ends:.2g} (He kernels)",
            _kept(ends) and CAPPED[0] <= share <= CAPPED[1],
            f"{VANISHED:g} to {EXPLODED:g}; {CAPPED[0]:.0%} to {CAPPED[1]:.0%} at the cap",
        ),
        check(
            "G1",
            "softplus: gradients vanish less with depth than with sigmoid and the same kernels",
            "rectifiers are more suitable",
            f"{over}, softplus and sigmoid: "
            + "; ".join(f"{kind} kernels {soft:.2g} and {sigmoid:.2g}" for kind, (soft, sigmoid) in pairs.items()),
            all(soft > 1000 * sigmoid for soft, sigmoid in pairs.values()),
            "at least a thousand times",
        ),
    ]


def _loss_claims() -> list[Claim]:
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(64, 10)), rng.integers(0, 10, 64)
    expected = lecture_losses(lecture_softmax(logits), np.eye(10)[labels])
    formulas = {"MSE": "1/N sum |y - t|^2", "cross-entropy": "-sum t log y"}
    return [
        check(
            "G2",
            f"{name} of softmax outputs",
            formulas[name],
            f"{value:.6f}; NumPy in float64 {expected[name]:.6f}",
            abs(value - expected[name]) <= 1e-5 * expected[name],
            "relative 1e-5",
        )
        for name, value in our_losses(logits, labels).items()
    ]


def _softmax_claim() -> Claim:
    values = 5 * np.random.default_rng(0).normal(size=(256, 10))
    ours = np.asarray(jax.jit(jax.nn.softmax)(jnp.asarray(values, jnp.float32)), np.float64)
    off, error = np.abs(ours.sum(1) - 1).max(), np.abs(ours - lecture_softmax(values)).max()
    return check(
        "G2",
        "softmax outputs lie between 0 and 1, and sum to one",
        "sum 1",
        f"sums at most {off:.0e} off, values at most {error:.0e} from NumPy in float64",
        off <= 1e-6 and error <= 1e-6 and 0 <= ours.min() <= ours.max() <= 1,
        "1e-6",
    )
