"""Every network of the zoo: how large, how exact, and how fast beside plain Flax and torch.

    python launch.py bench models                                 # all that torchvision or timm has; hours on two cores
    python launch.py bench models --models "resnet*" --sizes 96   # some, at 96x96 pixels alone

For each network, at its own image size and at 96x96 pixels: parameters, multiply-adds, milliseconds for a single image
and images a second in batches of 16 in `eval`, a training step of 16 images (cross-entropy and SGD with momentum), and
the memory that this step takes. Contenders take turns and the median counts. Plain Flax is the same network with
Flax's own convolutions, poolings and normalisation in place of ours; torch is torchvision's or timm's in channels_last
memory, its weights in all three: how far the logits are apart is the network's parity error.

Memory is, of ours and of plain Flax, what XLA plans for the step's arguments, results and temporaries; of torch, by how
much its process grows. Each network is written to results/bench/models.json (models-gpu.json on a GPU) when it is done,
in place of what was there of it; with all, results/bench/models.md and a chart are written anew.

Needs torch, torchvision and timm:

    pip install -e ".[parity]" && pip install --no-deps torchvision==0.28.0 timm==1.0.31 huggingface_hub==2.4.0
"""

import fnmatch
import gc
import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cnnjax import interop, models, train, viz
from cnnjax.errors import UserError
from cnnjax.train.devices import keep_freed_memory, peak_memory
from experiments import references
from experiments.plain_flax import plain_flax
from experiments.published_networks import Published, read
from experiments.timing import race, result_path, torch_device, write_results

BATCH, CLASSES, SMALL = 16, 1000, 96
# Smaller images than its own are too small for the auxiliary classifier; what it is called here, and in torchvision.
WITHOUT_AUXILIARY = {"inception_v3": ({"auxiliary": False}, {"aux_logits": False})}
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
OURS, FLAX, TORCH = "cnnjax", "plain Flax", "torch"
MEASURES = ("latency", "throughput", "training")  # milliseconds of an image, of a batch, of a step


@dataclass(frozen=True)
class Options:
    """Measure networks."""

    models: Annotated[str, tyro.conf.arg(help="Shell pattern of the networks to measure.")] = "*"
    sizes: Annotated[str, tyro.conf.arg(help="Image sizes: own, 96, or both as own,96.")] = "own,96"
    seconds: Annotated[float, tyro.conf.arg(help="Time for every contender and measure, at least three calls.")] = 2.0
    skip_flax: Annotated[bool, tyro.conf.arg(help="Leave plain Flax out, which takes most of the time.")] = False

    def __post_init__(self) -> None:
        if not set(self.sizes.split(",")) <= {"own", str(SMALL)}:
            raise UserError(f"--sizes takes own, {SMALL} or own,{SMALL}, got {self.sizes!r}")
        if not fnmatch.filter(_networks(), self.models):
            raise UserError(f"--models {self.models!r} matches none of {', '.join(_networks())}")


def main(arguments: list[str]) -> int:
    """Measure the networks, print a table of each, write the results."""
    options = tyro.cli(Options, args=arguments, prog="launch.py bench models", description=__doc__)
    if not references.installed():
        raise UserError("bench models needs torch, torchvision and timm: see python launch.py bench models --help")
    keep_freed_memory()
    console = Console()
    for name in track(fnmatch.filter(_networks(), options.models), "measuring", console=Console(stderr=True)):
        network = _networks()[name]
        for size in dict.fromkeys(network.size if size == "own" else SMALL for size in options.sizes.split(",")):
            row = measure(network, size, options)
            _keep(row)
            console.print("  ".join(cells(row)))
    rows = _rows()
    train.write_text(result_path("models", ".md"), markdown(rows))
    _draw(rows)
    _print(rows)
    return 0


def _networks() -> dict[str, Published]:
    return {name: network for name, network in read().items() if name not in references.WITHOUT_REFERENCE}


# ---------------------------------------------------------------- one network


class Contender(NamedTuple):
    """A network with the reference's weights: calls that wait until they are done, and bytes of a training step."""

    logits: Callable[[], np.ndarray]  # of the batch, in `eval`
    calls: dict[str, Callable[[], Any]]  # by measure
    memory: int


def measure(network: Published, size: int, options: Options) -> dict[str, Any]:
    """Return the row of a network at an image size."""
    images = np.random.default_rng(0).standard_normal((BATCH, size, size, 3), np.float32)
    labels = np.arange(BATCH) % CLASSES
    options_here, options_there = ({}, {}) if size >= network.size else WITHOUT_AUXILIARY.get(network.name, ({}, {}))
    grown = _growth()
    reference = references.build(network.name, **options_there)
    weights = {key: value.numpy().copy() for key, value in reference.state_dict().items()}
    contenders = {TORCH: _torch(reference, grown, images, labels)}
    params, macs = 0, 0
    for who in (OURS, FLAX)[: 1 if options.skip_flax else 2]:
        model = models.create_model(network.name, **options_here)
        interop.load_torch(model, weights)
        if who == OURS:
            model.eval()
            params = models.count_params(model)
            macs = sum(row.macs for row in models.layer_rows(model, (size, size, 3)))
        contenders[who] = _jax(plain_flax(model) if who == FLAX else model, images, labels)
    logits = {who: contender.logits() for who, contender in contenders.items()}
    scale = np.abs(logits[TORCH]).max()
    row = {
        "name": network.name,
        "size": size,
        "own": size == network.size,
        "params": params,
        "macs": macs,
        "parity_error": float(np.abs(logits[OURS] - logits[TORCH]).max() / scale),
        "memory": {who: contender.memory for who, contender in contenders.items()},
        "milliseconds": {
            what: race({who: c.calls[what] for who, c in contenders.items()}, options.seconds) for what in MEASURES
        },
    }
    del contenders, reference
    jax.clear_caches()
    gc.collect()
    return row


def _jax(model: nnx.Module, images: np.ndarray, labels: np.ndarray) -> Contender:
    model.eval()
    graphdef, state = nnx.split(model)
    infer = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    batch, single = jnp.asarray(images), jnp.asarray(images[:1])

    model.train()
    training, params, *others = nnx.split(model, nnx.Param, ...)
    (rest,) = others
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)

    def step(params: Any, rest: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_of(params: Any) -> Any:
            model = nnx.merge(training, params, rest, copy=True)
            outputs = model(x)
            main, others, weight = outputs if isinstance(outputs, models.WithAuxiliary) else (outputs, (), 0.0)
            losses = [optax.softmax_cross_entropy_with_integer_labels(z, y).mean() for z in (main, *others)]
            return losses[0] + weight * sum(losses[1:]), nnx.state(model, nnx.Not(nnx.Param))

        (loss, new_rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), new_rest, opt_state, loss

    # The arrays of `state` live on in inference: the step must not take their buffers before it has its own.
    carried = [jax.tree.map(jnp.copy, (params, rest, optimizer.init(params)))]
    y = jnp.asarray(labels)
    compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*carried[0], batch, y).compile()
    plan: Any = compiled.memory_analysis()

    def train_step() -> None:
        *new, loss = compiled(*carried[0], batch, y)
        carried[0] = tuple(new)
        loss.block_until_ready()

    return Contender(
        lambda: np.asarray(infer(state, batch)),
        {
            "latency": lambda: infer(state, single).block_until_ready(),
            "throughput": lambda: infer(state, batch).block_until_ready(),
            "training": train_step,
        },
        plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes,
    )


def _torch(reference: Any, grown: Callable[[], int], images: np.ndarray, labels: np.ndarray) -> Contender:
    import torch

    device = torch_device()
    network = reference.to(device).to(memory_format=torch.channels_last)
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # NHWC numbers are channels_last
    y = torch.from_numpy(labels).to(device)
    network.eval()
    with torch.no_grad():
        logits = network(x).cpu().numpy()  # before a step changes the weights
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)
    cross_entropy = torch.nn.functional.cross_entropy

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def infer(x: Any) -> None:
        network.eval()
        with torch.no_grad():
            network(x)
        wait()

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        outputs = network(x)
        main, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        weight = 0.3 if len(others) == 2 else 0.4  # GoogLeNet's, Inception-v3's
        loss = cross_entropy(main, y) + weight * sum(cross_entropy(z, y) for z in others)
        loss.backward()
        optimizer.step()
        wait()

    step()
    return Contender(
        lambda: logits,
        {"latency": lambda: infer(x[:1]), "throughput": lambda: infer(x), "training": step},
        grown(),
    )


def _growth() -> Callable[[], int]:
    """Return a function that says by how many bytes this process has grown at most since now; 0 where nobody counts."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return lambda: 0
    return lambda: peak_memory() - before


# ---------------------------------------------------------------- what comes out


def _rows() -> list[dict[str, Any]]:
    return (train.read_json(result_path("models", ".json")) or {"rows": []})["rows"]


def _keep(row: dict[str, Any]) -> None:
    """Write a row in place of the one of the same network and size."""
    others = [old for old in _rows() if (old["name"], old["size"]) != (row["name"], row["size"])]
    write_results("models", {"rows": sorted([*others, row], key=lambda row: (row["name"], row["size"]))})


def ratios(row: Mapping[str, Any], what: str) -> dict[str, float]:
    """Return cnnjax's time for a measure as a ratio to each other contender's."""
    times = row["milliseconds"][what]
    return {who: times[OURS] / taken for who, taken in times.items() if who != OURS}


HEAD = (
    "network",
    "image",
    "parameters",
    "multiply-adds, 10^9",
    "parity error",
    "one image, ms",
    "images a second",
    "training step, ms",
    "/ torch's",
    "plain Flax's /",
    "step's memory, MB",
    "torch's",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row of the table, below `HEAD`."""
    times, memory = row["milliseconds"], row["memory"]
    step = ratios(row, "training")
    return [
        row["name"],
        str(row["size"]),
        f"{row['params']:,}",
        f"{row['macs'] / 1e9:.3f}",
        f"{row['parity_error']:.0e}",
        f"{times['latency'][OURS]:.1f}",
        f"{1e3 * BATCH / times['throughput'][OURS]:.0f}",
        f"{times['training'][OURS]:.0f}",
        f"{step[TORCH]:.2f}",
        f"{1 / step[FLAX]:.1f}" if FLAX in step else "",
        f"{memory[OURS] / 1e6:.0f}",
        f"{memory[TORCH] / 1e6:.0f}",
    ]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a page."""
    lines = [HEAD, ["---"] * len(HEAD), *map(cells, rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# The zoo, measured\n\nWritten by `python launch.py bench models`.\n\n{table}\n\n{summary(rows)}\n"


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the table comes to: the mean and the worst ratio of training steps at 96x96 pixels."""
    steps = {row["name"]: ratios(row, "training")[TORCH] for row in rows if row["size"] == SMALL}
    if not steps:
        return f"No network was measured at {SMALL}x{SMALL} pixels."
    worst = max(steps, key=steps.__getitem__)
    return (
        f"Training steps of {BATCH} images of {SMALL}x{SMALL}, cnnjax / torch: geometric mean "
        f"{statistics.geometric_mean(steps.values()):.2f} over {len(steps)} networks, the worst {steps[worst]:.2f} "
        f"({worst}); largest parity error {max(row['parity_error'] for row in rows):.0e} of the largest logit."
    )


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=f"cnnjax in `eval`, and a training step of {BATCH} images")
    for name in HEAD:
        table.add_column(name, justify="left" if name == "network" else "right")
    for row in rows:
        table.add_row(*cells(row))
    console = Console()
    console.print(table)
    console.print(summary(rows))


def _draw(rows: Sequence[Mapping[str, Any]]) -> None:
    small = [row for row in rows if row["size"] == SMALL]
    if not small:
        return
    contenders = [FLAX, OURS] if all(FLAX in row["milliseconds"]["training"] for row in small) else [OURS]
    bars = {
        who: [row["milliseconds"]["training"][who] / row["milliseconds"]["training"][TORCH] for row in small]
        for who in contenders
    }
    title = f"training step of {BATCH} images of {SMALL}x{SMALL}, time / torch's"
    viz.save(viz.ratio_bars([row["name"] for row in small], bars, title), result_path("models", ".png"))
