"""How fast whole training steps are: ours, plain Flax, Keras on JAX and torch, on the same network and batch.

    python launch.py bench train                       # every network; about two minutes on two cores
    python launch.py bench train --networks "*cnn"     # networks whose name matches

A step is all that happens from a batch of bytes in the host's memory to updated parameters: scaling to [0, 1], forward,
cross-entropy, backward and Adam with Keras's defaults, in float32. Ours is the step that the experiments run; the peers
are what their documentation shows. The contenders take turns, so that whatever else the machine does hits all alike,
and the median counts. The first call, which compiles, is timed on its own. Then a step of eight networks with seeds of
their own, one network after the other and all in one program. Writes results/bench/train.json
(train-gpu.json on a GPU) and a chart. Contenders that are not installed are left out: `pip install keras torch`.
"""

import fnmatch
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cnnjax import data, models, tasks, train, viz
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError
from cnnjax.lab.options import parse
from cnnjax.options import Checked, Count, NotNegative
from experiments.bench.peers import (
    ADAM,
    CLASSES,
    WORKLOADS,
    Workload,
    keras_layers,
    torch_adam,
    torch_network,
    with_inputs,
)
from experiments.bench.timing import matrix_product_gflops, race, result_path, torch_device, write_results

SEEDS = 8  # that are trained together, and one after another


class Contender(NamedTuple):
    """A network ready to train: its number of parameters, and a step that waits until it is done and returns a loss."""

    parameters: int
    step: Callable[[], float]


@dataclass(frozen=True)
class Options(Checked):
    """Time whole training steps against plain Flax, Keras on JAX and torch."""

    networks: str = "*"
    """Shell pattern that the names of the networks to time match."""
    seconds: NotNegative = 6.0
    """Time for every contender and network; 3 steps at least."""
    compilations: Count = 3
    """How often each contender is built anew to time its first call."""


def main(arguments: list[str]) -> int:
    """Time the networks, print the table, write the results and the chart."""
    (options,) = parse("bench train", __doc__, arguments, Options)
    chosen = [workload for workload in WORKLOADS if fnmatch.fnmatch(workload.name, options.networks)]
    if not chosen:
        names = ", ".join(workload.name for workload in WORKLOADS)
        raise UserError(f"no network matches --networks {options.networks!r}: there are {names}")
    rows = [_time_workload(workload, options) for workload in track(chosen, "timing", console=Console(stderr=True))]
    seeds = [_time_seeds(workload, options.seconds) for workload in chosen]
    summary = {"rows": rows, "seeds": seeds, "matrix_product_gflops": matrix_product_gflops()}
    _print(summary)
    if options.networks == "*":
        write_results("train", summary)
        _draw(rows)
    return 0


def _time_workload(workload: Workload, options: Options) -> dict[str, Any]:
    images, labels = _batch(workload)
    makers = {who: make for who, (module, make) in CONTENDERS.items() if importlib.util.find_spec(module)}
    first_calls: dict[str, list[float]] = {who: [] for who in makers}
    steps: dict[str, Callable[[], float]] = {}
    for _ in range(options.compilations):
        for who, make in makers.items():
            steps[who] = make(workload, images, labels).step
            started = time.perf_counter()
            steps[who]()
            first_calls[who].append(time.perf_counter() - started)
    milliseconds = race(steps, options.seconds)
    compilation = {who: statistics.median(taken) - milliseconds[who] / 1e3 for who, taken in first_calls.items()}
    return {"name": workload.name, "milliseconds": milliseconds, "compilation_seconds": compilation}


def _time_seeds(workload: Workload, seconds: float) -> dict[str, Any]:
    """Time a step of `SEEDS` networks: one network's step after the other, and all in one program by `vmap`."""
    parallel = train.Parallel(devices=jax.local_devices()[:1])
    steps = [_compiled(workload, parallel, seed) for seed in range(SEEDS)]
    all_of_them, batch = train.together(steps), _as_batch(*_batch(workload))
    batches = jax.tree.map(lambda x: np.stack([x] * SEEDS), batch)
    apart, together = [step.start() for step in steps], [all_of_them.start()]
    one = steps[0]  # whose program serves all seeds

    def in_turn() -> None:
        apart[:] = [jax.block_until_ready(one(state, batch)) for state in apart]

    def in_one_program() -> None:
        together[0] = jax.block_until_ready(all_of_them(together[0], batches))

    in_turn()
    in_one_program()
    contenders = {"one after another": in_turn, "in one program": in_one_program}
    return {"name": workload.name, "count": SEEDS, "milliseconds": race(contenders, seconds)}


def _batch(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (workload.batch_size, *workload.image), dtype=np.uint8)
    return images, rng.integers(0, CLASSES, workload.batch_size).astype(np.int32)


# ---------------------------------------------------------------- contenders: make(workload, images, labels) -> step


def _compiled(workload: Workload, parallel: train.Parallel, seed: int = 0) -> train.CompiledStep:
    options = {"num_classes": CLASSES, "in_channels": workload.image[2]}
    model = models.create_model(workload.name, seed=seed, **options)
    return train.compile_step(model, tasks.Classification(), train.Recipe(seed=seed), parallel)


def _as_batch(images: np.ndarray, labels: np.ndarray) -> Sample:
    return data.Split(images, labels).take(slice(None), np.ones(len(labels), np.float32))


def _ours(workload: Workload, images: np.ndarray, labels: np.ndarray) -> Contender:
    compiled = _compiled(workload, train.Parallel(devices=jax.local_devices()[:1]))
    batch, carried = _as_batch(images, labels), [compiled.start()]

    def step() -> float:
        before = float(carried[0].sums["loss"])
        carried[0] = jax.block_until_ready(compiled(carried[0], batch))
        return (float(carried[0].sums["loss"]) - before) / len(labels)

    return Contender(sum(leaf.size for leaf in jax.tree.leaves(compiled.initial.params)), step)


class _FlaxNetwork(nnx.Module):
    def __init__(self, workload: Workload, rngs: nnx.Rngs):
        self.layers: Any = nnx.List()
        for kind, inputs, outputs in with_inputs(workload):
            if kind == "conv":
                self.layers.append(nnx.Conv(inputs, outputs, (3, 3), padding="VALID", rngs=rngs))
            elif kind == "max pool":
                self.layers.append(lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)))
            elif kind == "flatten":
                self.layers.append(lambda x: x.reshape(x.shape[0], -1))
            else:
                self.layers.append(nnx.Linear(inputs, outputs, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = layer(x)
            x = nnx.relu(x) if isinstance(layer, nnx.Module) else x
        return self.layers[-1](x)


def _flax(workload: Workload, images: np.ndarray, labels: np.ndarray) -> Contender:
    model = _FlaxNetwork(workload, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(**ADAM), wrt=nnx.Param)

    @nnx.jit
    def compiled(model: Any, optimizer: Any, images: Any, labels: Any) -> jax.Array:
        def loss_of(model: Any) -> jax.Array:
            logits = model(images.astype(np.float32) / 255)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    def step() -> float:
        loss = compiled(model, optimizer, images, labels)
        jax.block_until_ready(nnx.state(model))
        return float(loss)

    return Contender(models.count_params(model), step)


def _keras(workload: Workload, images: np.ndarray, labels: np.ndarray) -> Contender:
    os.environ.setdefault("KERAS_BACKEND", "jax")  # before the first import, or Keras takes TensorFlow
    import keras

    if keras.backend.backend() != "jax":
        raise UserError(f"KERAS_BACKEND is {keras.backend.backend()!r}: Keras is compared on JAX, KERAS_BACKEND=jax")
    model = keras.Sequential([keras.Input(workload.image), keras.layers.Rescaling(1 / 255), *keras_layers(workload)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    weight = model.trainable_weights[-1]

    def step() -> float:
        loss = model.train_on_batch(images, labels)
        jax.block_until_ready(weight.value)
        return float(loss)

    return Contender(model.count_params(), step)


def _torch(workload: Workload, images: np.ndarray, labels: np.ndarray, fused: bool = False) -> Contender:
    import torch

    device = torch_device()
    model = torch_network(workload).to(device)
    optimizer = torch_adam(model, fused=fused)

    def step() -> float:
        optimizer.zero_grad()
        x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255  # NHWC bytes are channels_last
        loss = torch.nn.functional.cross_entropy(model(x), torch.from_numpy(labels).to(device).long())
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return Contender(sum(p.numel() for p in model.parameters()), step)


CONTENDERS: dict[str, tuple[str, Callable[[Workload, np.ndarray, np.ndarray], Contender]]] = {
    "cnnjax": ("cnnjax", _ours),
    "plain Flax": ("flax", _flax),
    "Keras on JAX": ("keras", _keras),
    "torch": ("torch", _torch),
    "torch, fused Adam": ("torch", partial(_torch, fused=True)),
}


# ---------------------------------------------------------------- what comes out


def _print(summary: dict[str, Any]) -> None:
    table = Table(title="one training step: median milliseconds, and seconds that the first call takes longer")
    for name in ("network", "contender", "step", "cnnjax / it", "compilation", "cnnjax / it"):
        table.add_column(name, justify="left" if name in ("network", "contender") else "right")
    for row in summary["rows"]:
        ms, seconds = row["milliseconds"], row["compilation_seconds"]
        for who in ms:
            compiles = not who.startswith("torch")
            table.add_row(
                row["name"] if who == "cnnjax" else "",
                who,
                f"{ms[who]:.1f}",
                f"{ms['cnnjax'] / ms[who]:.2f}",
                f"{seconds[who]:.2f}" if compiles else "-",
                f"{seconds['cnnjax'] / seconds[who]:.2f}" if compiles else "-",
            )
        table.add_section()
    console = Console()
    console.print(table)
    for row in summary["seeds"]:
        turns, one = row["milliseconds"].values()
        console.print(
            f"{row['count']} seeds of {row['name']}: {turns:.0f} ms a step one after another, {one:.0f} ms in one "
            f"program, {turns / one:.2f} times the throughput"
        )
    console.print(f"matrix product: {summary['matrix_product_gflops']:.0f} GFLOP/s")


def _draw(rows: Sequence[dict[str, Any]]) -> None:
    if not all("torch" in row["milliseconds"] for row in rows):
        return
    ratios = {
        who: [row["milliseconds"][who] / row["milliseconds"]["torch"] for row in rows]
        for who in ("Keras on JAX", "plain Flax", "torch, fused Adam", "cnnjax")
        if all(who in row["milliseconds"] for row in rows)
    }
    bars = viz.ratio_bars([row["name"] for row in rows], ratios, "training step, time / torch's")
    viz.save(bars, result_path("train", ".png"))
