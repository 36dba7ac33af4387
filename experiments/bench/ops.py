"""How fast the primitives are: ours, plain lax as Flax calls it, and torch where it is installed, on the same inputs.

    python launch.py bench ops                     # every row; about five minutes on two cores
    python launch.py bench ops --rows "conv*"      # rows whose name matches

Every row is timed forward, and forward with all gradients. The contenders take turns, so that whatever else the machine
does hits all alike, and the median counts. Writes results/bench/ops.json (ops-gpu.json on a GPU) and a chart.
"""

import contextlib
import fnmatch
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cnnjax import viz
from cnnjax.errors import UserError
from cnnjax.lab.options import parse
from cnnjax.options import Checked, NotNegative
from experiments.bench.rows import ROWS, Function, Row
from experiments.bench.timing import matrix_product_gflops, race, result_path, torch_device, write_results

NCHW = (0, 3, 1, 2)


@dataclass(frozen=True)
class Options(Checked):
    """Time the primitives against plain lax and torch."""

    rows: str = "*"
    """Shell pattern that the names of the rows to time match."""
    seconds: NotNegative = 1.0
    """Time for every contender, row and direction."""


def main(arguments: list[str]) -> int:
    """Time the rows, print the table, write the results and the chart."""
    (options,) = parse("bench ops", __doc__, arguments, Options)
    chosen = [row for row in ROWS if fnmatch.fnmatch(row.name, options.rows)]
    if not chosen:
        raise UserError(f"no row matches --rows {options.rows!r}: there are {', '.join(row.name for row in ROWS)}")
    results = [_time_row(row, options.seconds) for row in track(chosen, "timing", console=Console(stderr=True))]
    summary = {
        "rows": results,
        "means": _means([result for result, row in zip(results, chosen, strict=True) if row.counts]),
        "matrix_product_gflops": matrix_product_gflops(),
    }
    _print(summary)
    if options.rows == "*":
        write_results("ops", summary)
        peers = [result["both"].get("torch") for result in results]
        if all(peers):
            ratios = {
                label: [result["both"][who] / peer for result, peer in zip(results, peers, strict=True)]
                for label, who in (("plain lax", "plain"), ("cnnjax", "ours"))
            }
            bars = viz.ratio_bars([row.name for row in chosen], ratios, "forward + backward, time / torch's")
            viz.save(bars, result_path("ops", ".png"))
    return 0


def _time_row(row: Row, seconds: float) -> dict[str, Any]:
    """Median milliseconds of every contender, forward and with gradients, and the memory that the gradients take."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in row.shapes]
    out = jax.eval_shape(row.ours, *arrays)
    cotangent = rng.standard_normal(out.shape, dtype=np.float32)
    forward: dict[str, Function] = {}
    both: dict[str, Function] = {}
    memory: dict[str, float] = {}
    for who, function in (("ours", row.ours), ("plain", row.plain)):
        compiled = compile_gradients(function, row.shapes)
        memory[who] = temporary_memory(compiled)
        forward[who], both[who] = _jax_calls(function, compiled, arrays, cotangent)
    with contextlib.suppress(ImportError):  # without torch the table has no column of torch's
        forward["torch"], both["torch"] = _torch_calls(row, arrays, cotangent)
    return {"name": row.name, "forward": race(forward, seconds), "both": race(both, seconds), "memory": memory}


def compile_gradients(function: Function, shapes: Sequence[tuple[int, ...]]) -> jax.stages.Compiled:
    """Compile `(cotangent, *arrays) -> (y, gradients of all arrays)` for float32 arrays of these shapes."""

    def both(cotangent: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        y, pull = jax.vjp(function, *arrays)
        return y, pull(cotangent)  # with y, or XLA would leave out what a linear function's gradient does not need

    arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return jax.jit(both).lower(jax.eval_shape(function, *arrays), *arrays).compile()


def temporary_memory(compiled: jax.stages.Compiled) -> float:
    """Return the memory that a program needs beside its inputs and outputs, in multiples of these."""
    needs: Any = compiled.memory_analysis()
    return needs.temp_size_in_bytes / (needs.argument_size_in_bytes + needs.output_size_in_bytes)


def _jax_calls(
    function: Function, compiled: Function, arrays: Sequence[np.ndarray], cotangent: np.ndarray
) -> tuple[Function, Function]:
    forward, inputs = jax.jit(function), [jnp.asarray(array) for array in arrays]
    seed = jnp.asarray(cotangent)
    return (
        lambda: jax.block_until_ready(forward(*inputs)),
        lambda: jax.block_until_ready(compiled(seed, *inputs)),
    )


def _torch_calls(row: Row, arrays: list[np.ndarray], cotangent: np.ndarray) -> tuple[Function, Function]:
    import torch

    device = torch_device()

    def convert(array: np.ndarray, order: Sequence[int]) -> Any:
        tensor = torch.tensor(np.ascontiguousarray(array.transpose(order)), device=device)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    kernel_order = (2, 3, 0, 1) if row.name.startswith("transposed") else (3, 2, 0, 1)
    orders = [NCHW if i == 0 else kernel_order if array.ndim == 4 else (0,) for i, array in enumerate(arrays)]
    tensors = [convert(array, order).requires_grad_() for array, order in zip(arrays, orders, strict=True)]
    seed = convert(cotangent, NCHW if cotangent.ndim == 4 else (0, 1))
    function = row.torch(torch.nn.functional)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> None:
        with torch.no_grad():
            function(*tensors)
        wait()

    def both() -> None:
        torch.autograd.grad(function(*tensors), tensors, seed)
        wait()

    return forward, both


def _means(results: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means and worst of the ratios with gradients, over the rows that count."""
    means = {}
    for top, bottom in (("ours", "torch"), ("plain", "torch"), ("plain", "ours")):
        name = f"{top} / {bottom}"
        ratios = [r["both"][top] / r["both"][bottom] for r in results if {top, bottom} <= set(r["both"])]
        if ratios:
            means[name] = math.exp(statistics.mean(map(math.log, ratios)))
            means[f"worst {name}"] = max(ratios)
    return means


def _print(summary: dict[str, Any]) -> None:
    table = Table(title="milliseconds; ours / torch's, and plain lax's / ours")
    table.add_column("row", no_wrap=True)
    for name in ("forward", "/torch", "lax/", "+ grads", "/torch", "lax/"):
        table.add_column(name, justify="right")
    for result in summary["rows"]:
        cells = []
        for direction in ("forward", "both"):
            ms = result[direction]
            peer = f"{ms['ours'] / ms['torch']:.2f}" if "torch" in ms else "-"
            cells += [f"{ms['ours']:.2f}", peer, f"{ms['plain'] / ms['ours']:.1f}"]
        table.add_row(result["name"], *cells)
    console = Console()
    console.print(table)
    most = max(row["memory"]["ours"] for row in summary["rows"])
    console.print(f"most memory beside inputs and outputs: {most:.2f} times")
    console.print("\n".join(f"{name}: {value:.2f}" for name, value in summary["means"].items()))
    console.print(f"matrix product: {summary['matrix_product_gflops']:.0f} GFLOP/s")
