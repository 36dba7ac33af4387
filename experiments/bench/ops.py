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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cnnjax import ops, viz
from cnnjax.errors import UserError
from cnnjax.lab.options import parse
from cnnjax.ops.conv_primitives import reference_input_gradient
from cnnjax.options import Checked, NotNegative
from experiments.bench import boxes
from experiments.bench.timing import matrix_product_gflops, race, result_path, torch_device, write_results

Function = Callable[..., Any]
NCHW = (0, 3, 1, 2)


class Row(NamedTuple):
    """One comparison: functions of the same arrays, image first, and whether it counts in the geometric mean."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    ours: Function
    plain: Function
    torch: Callable[[Any], Function]  # given torch.nn.functional
    counts: bool = False


@dataclass(frozen=True)
class Options(Checked):
    """Time the primitives against plain lax and torch."""

    rows: str = "*"
    """Shell pattern that the names of the rows to time match."""
    seconds: NotNegative = 1.0
    """Time for every contender, row and direction."""


def _conv(name: str, image: Sequence[int], kernel: Sequence[int], counts: bool = False, **options: Any) -> Row:
    stride, padding = options.get("stride", 1), options.get("padding", 0)
    dilation, groups = options.get("dilation", 1), options.get("groups", 1)
    return Row(
        f"conv {name}",
        (tuple(image), tuple(kernel)),
        lambda x, k: ops.conv2d(x, k, **options),
        lambda x, k: lax.conv_general_dilated(
            x,
            k,
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        ),
        lambda F: lambda x, k: F.conv2d(x, k, None, stride, padding, dilation, groups),  # noqa: N803
        counts,
    )


def _transposed(
    name: str, image: Sequence[int], kernel: Sequence[int], stride: int, padding: int, extra: int = 0
) -> Row:
    sizes = [(size - 1) * stride - 2 * padding + k + extra for size, k in zip(image[1:3], kernel[:2], strict=True)]
    return Row(
        f"transposed {name}",
        (tuple(image), tuple(kernel)),
        lambda x, k: ops.conv_transpose2d(x, k, stride=stride, padding=padding, output_padding=extra),
        lambda x, k: reference_input_gradient(
            x,
            k.swapaxes(2, 3),
            input_size=tuple(sizes),
            stride=(stride, stride),
            padding=((padding, padding - extra),) * 2,
            dilation=(1, 1),
            groups=1,
        ),
        lambda F: lambda x, k: F.conv_transpose2d(x, k, None, stride, padding, extra),  # noqa: N803
        name.startswith("4x4 s2"),
    )


def _pooled(x: jax.Array, start: float, operation: Any, window: int, stride: int, padding: int) -> jax.Array:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, np.float32(start), operation, (1, window, window, 1), (1, stride, stride, 1), sides)


def _max_pool(name: str, image: Sequence[int], window: int, stride: int, padding: int, counts: bool = False) -> Row:
    return Row(
        f"max pool {name}",
        (tuple(image),),
        lambda x: ops.max_pool2d(x, window, stride=stride, padding=padding),
        lambda x: _pooled(x, -np.inf, lax.max, window, stride, padding),
        lambda F: lambda x: F.max_pool2d(x, window, stride, padding),  # noqa: N803
        counts,
    )


def _plain_batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """As Flax: the variance as E[x^2] - E[x]^2."""
    mean, square = x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))
    return (x - mean) * (lax.rsqrt(jnp.maximum(square - mean * mean, 0) + 1e-5) * scale) + bias


def _plain_response_norm(x: jax.Array) -> jax.Array:
    sums = lax.reduce_window(x * x, np.float32(0), lax.add, (1, 1, 1, 5), (1, 1, 1, 1), ((0, 0),) * 3 + ((2, 2),))
    return x / (2 + 1e-4 / 5 * sums) ** 0.75


def _plain_unpool(x: jax.Array) -> jax.Array:
    y, indices = ops.max_pool2d_with_indices(x, 2)
    n, h, w, c = y.shape
    image, channel = jnp.arange(n)[:, None, None], jnp.arange(c)[None, None]
    flat = jnp.zeros((n, 4 * h * w, c)).at[image, indices.reshape(n, h * w, c), channel].set(y.reshape(n, h * w, c))
    return flat.reshape(n, 2 * h, 2 * w, c)


def _resized(x: jax.Array, method: str) -> jax.Array:
    return jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), method)


BIG, SMALL = (32, 56, 56, 64), (32, 28, 28, 128)
ROWS = (
    _conv("3x3 s1", BIG, (3, 3, 64, 64), True, padding=1),
    _conv("3x3 s2", BIG, (3, 3, 64, 128), True, stride=2, padding=1),
    _conv("1x1", (32, 28, 28, 256), (1, 1, 256, 256), True),
    _conv("7x7 s2 of RGB", (16, 224, 224, 3), (7, 7, 3, 64), True, stride=2, padding=3),
    _conv("3x3 dilation 2", (16, 56, 56, 64), (3, 3, 64, 64), True, padding=2, dilation=2),
    _conv("3x3 dilation 4", (16, 56, 56, 64), (3, 3, 64, 64), padding=4, dilation=4),
    _conv("3x3 of 512", (8, 14, 14, 512), (3, 3, 512, 512), padding=1),
    _conv("3x3 batch 1", (1, 56, 56, 64), (3, 3, 64, 64), padding=1),
    _conv("3x3 valid, lecture", (128, 13, 13, 64), (3, 3, 64, 128)),
    _conv("depthwise 3x3", SMALL, (3, 3, 1, 128), True, padding=1, groups=128),
    _conv("depthwise 5x5", SMALL, (5, 5, 1, 128), padding=2, groups=128),
    _conv("depthwise 3x3 s2", SMALL, (3, 3, 1, 128), stride=2, padding=1, groups=128),
    _conv("3x3 in 32 groups", (16, 28, 28, 256), (3, 3, 8, 256), True, padding=1, groups=32),
    _conv("3x3 in 8 groups", (16, 28, 28, 256), (3, 3, 32, 256), padding=1, groups=8),
    _conv("3x3 in 2 groups", (16, 28, 28, 256), (3, 3, 128, 256), padding=1, groups=2),
    _transposed("4x4 s2", (16, 28, 28, 64), (4, 4, 64, 64), 2, 1),
    _transposed("2x2 s2", (16, 28, 28, 64), (2, 2, 64, 64), 2, 0),
    _transposed("3x3 s2", (16, 28, 28, 64), (3, 3, 64, 64), 2, 1, 1),
    _max_pool("2x2 s2", BIG, 2, 2, 0, True),
    _max_pool("3x3 s2", BIG, 3, 2, 1, True),
    _max_pool("3x3 s1", BIG, 3, 1, 1),
    Row(
        "average pool 2x2",
        (BIG,),
        lambda x: ops.avg_pool2d(x, 2),
        lambda x: _pooled(x, 0, lax.add, 2, 2, 0) / 4,
        lambda F: lambda x: F.avg_pool2d(x, 2),  # noqa: N803
        True,
    ),
    Row(
        "batch norm (train)",
        (BIG, (64,), (64,)),
        lambda x, s, b: ops.batch_norm(x, *ops.moments(x), s, b),
        _plain_batch_norm,
        lambda F: lambda x, s, b: F.batch_norm(x, None, None, s, b, training=True),  # noqa: N803
        True,
    ),
    Row(
        "unpool 2x2",
        (BIG,),
        lambda x: ops.max_unpool2d(*ops.max_pool2d_with_indices(x, 2), (56, 56)),
        _plain_unpool,
        lambda F: lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),  # noqa: N803
    ),
    Row(
        "nearest x2",
        (SMALL,),
        lambda x: ops.upsample_nearest(x, 2),
        lambda x: _resized(x, "nearest"),
        lambda F: lambda x: F.interpolate(x, scale_factor=2),  # noqa: N803
    ),
    Row(
        "bilinear x2",
        (SMALL,),
        lambda x: ops.upsample_bilinear(x, 2),
        lambda x: _resized(x, "bilinear"),
        lambda F: lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),  # noqa: N803
    ),
    Row(
        "global average",
        (BIG,),
        ops.global_avg_pool2d,
        lambda x: x.mean((1, 2)),
        lambda F: lambda x: x.mean((2, 3)),  # noqa: N803
    ),
    Row(
        "local response norm",
        (SMALL,),
        ops.local_response_norm,
        _plain_response_norm,
        lambda F: lambda x: F.local_response_norm(x, 5, 1e-4, 0.75, 2.0),  # noqa: N803
    ),
    *(Row(*row) for row in boxes.ROWS),
)


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
    cotangent = rng.standard_normal(jax.eval_shape(row.ours, *arrays).shape, dtype=np.float32)
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
