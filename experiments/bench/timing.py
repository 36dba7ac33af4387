"""What the benchmarks share: contenders that take turns, and the machine's ceiling."""

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from cnnjax import runs
from cnnjax.lab import code
from cnnjax.runs.hardware import describe_device, describe_versions

FOLDER = Path(__file__).parents[2] / "results" / "bench"


def race(contenders: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Return the median milliseconds of each, over at least one turn and `seconds`.

    They take turns, so that whatever else the machine does hits all alike. A turn is one call that does not count and
    three that do, fewer after one that takes more than `seconds`: PyTorch's threads spin for a while after a call, and
    would take half a core from whoever comes next.
    """
    times: dict[str, list[float]] = {who: [] for who in contenders}
    while waiting := [who for who, taken in times.items() if not taken or sum(taken) < seconds]:
        for who in waiting:
            contenders[who]()
            for _ in range(3):
                started = time.perf_counter()
                contenders[who]()
                times[who].append(time.perf_counter() - started)
                if times[who][-1] > seconds:
                    break
    return {who: 1e3 * statistics.median(taken) for who, taken in times.items()}


def matrix_product_gflops() -> float:
    """Return the rate of a matrix product of 2048, the ceiling of everything else."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: a @ a)
    ms = race({"product": lambda: product(a).block_until_ready()}, 1.0)["product"]
    return 2 * 2048**3 / ms / 1e6


def result_path(name: str, suffix: str) -> Path:
    """Return where a benchmark's results on this kind of device lie: `results/bench/NAME[-gpu]SUFFIX`."""
    device = "" if jax.default_backend() == "cpu" else f"-{jax.default_backend()}"
    return FOLDER / f"{name}{device}{suffix}"


def write_results(name: str, results: dict[str, Any]) -> None:
    """Write what was measured, and on what, to `results/bench`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = {"device": describe_device(), "versions": describe_versions()}
    made["code"] = code.describe(Path(__file__).with_name(f"{name}.py"))
    runs.write_json(result_path(name, ".json"), results | made)


def print_aims(title: str, rows: Iterable[tuple[str, str, str]]) -> None:
    """Print a table of what was measured and what was aimed at."""
    table = Table(title=title)
    for name in ("what", "measured", "aim"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def torch_device() -> str:
    """Return the torch device that stands for JAX's default one."""
    import torch

    return "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
