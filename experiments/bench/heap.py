"""What the heap that launch.py sets is worth: training steps and their memory under three settings of glibc.

    python launch.py bench heap                            # ten networks; about a quarter of an hour on two cores
    python launch.py bench heap --networks "resnet*"       # networks whose name matches

Each setting has a process of its own, because glibc reads its settings when a process starts. The three processes of a
network take turns of eight steps, of which the last four count: a virtual machine may hand the huge pages of a process
that waits back to its host, and getting them anew takes several steps. Memory is what a process holds at its peak, most
of which is the same in all. A machine whose Linux gives no huge pages on request (`madvise`) has the third setting.
Writes results/bench/heap.json if all networks were measured.
"""

import fnmatch
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cnnjax import data, models, tasks, train
from cnnjax.errors import UserError
from cnnjax.lab.heap import TUNABLES
from cnnjax.lab.options import parse
from cnnjax.options import Checked, Count
from cnnjax.runs.hardware import peak_memory
from experiments.bench.timing import write_results

CLASSES = 10
SIZES = {"lecture-fcn": (128, 32), "lecture-cnn": (128, 32)}  # batch and side of the images; of all others:
USUAL = (16, 96)
NETWORKS = [
    *("lecture-fcn", "lecture-cnn", "vgg11", "resnet18", "resnet50", "densenet121", "mobilenet_v2"),
    *("efficientnet_b0", "shufflenet_v2_x1_0", "squeezenet1_1"),
]
SETTINGS = {
    "glibc's defaults": "",
    "launch.py's heap": TUNABLES,
    "launch.py's heap without huge pages": TUNABLES.replace("hugetlb=1", "hugetlb=0"),
}
WARM_STEPS, TIMED_STEPS = 4, 4  # of each turn


@dataclass(frozen=True)
class Options(Checked):
    """Time training steps under settings of glibc's heap."""

    networks: str = "*"
    """Shell pattern that the names of the networks to time match."""
    turns: Count = 4
    """Turns that every setting gets, of four timed steps each; the medians count."""


def main(arguments: list[str]) -> int:
    """Time the networks, print the table, write the results."""
    (options,) = parse("bench heap", __doc__, arguments, Options)
    if sys.platform != "linux":
        raise UserError("bench heap is about glibc, the C library of Linux: there is nothing to measure here")
    chosen = [name for name in NETWORKS if fnmatch.fnmatch(name, options.networks)]
    if not chosen:
        raise UserError(f"no network matches --networks {options.networks!r}: there are {', '.join(NETWORKS)}")
    rows = [_row(name, options.turns) for name in track(chosen, "timing", console=Console(stderr=True))]
    _print(rows)
    if chosen == NETWORKS:
        write_results("heap", {"rows": rows, "turns": options.turns})
    return 0


def _row(name: str, turns: int) -> dict[str, Any]:
    environments = {who: os.environ | {"GLIBC_TUNABLES": setting} for who, setting in SETTINGS.items()}
    workers = {
        who: subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.heap", name],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who, environment in environments.items()
    }
    try:
        answers: dict[str, list[dict[str, Any]]] = {who: [] for who in workers}
        for _ in range(turns):
            for who, worker in workers.items():
                answers[who].append(_ask(worker))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()
    return {
        "name": name,
        "milliseconds": {
            who: 1e3 * statistics.median(taken for one in of_one for taken in one["seconds"])
            for who, of_one in answers.items()
        },
        "peak_memory_bytes": {who: of_one[-1]["peak_memory_bytes"] for who, of_one in answers.items()},
    }


def _ask(worker: Any) -> dict[str, Any]:
    worker.stdin.write("\n")
    worker.stdin.flush()
    answer: dict[str, Any] = json.loads(worker.stdout.readline())
    return answer


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="Training step and peak memory under settings of glibc's heap")
    table.add_column("network")
    for who in SETTINGS:
        table.add_column(who, justify="right")
    for row in rows:
        cells = (f"{row['milliseconds'][who]:.0f} ms, {row['peak_memory_bytes'][who] / 1e9:.2f} GB" for who in SETTINGS)
        table.add_row(row["name"], *cells)
    Console().print(table)


def _work(name: str) -> None:
    """Answer every line on standard input with the seconds of a few steps and the peak memory."""
    batch_size, side = SIZES.get(name, USUAL)
    rng = np.random.default_rng(0)
    split = data.Split(
        rng.integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8),
        rng.integers(0, CLASSES, batch_size).astype(np.int32),
    )
    batch = split.take(slice(None), np.ones(batch_size, np.float32))
    model = models.create_model(name, num_classes=CLASSES)
    step = train.compile_step(model, tasks.Classification(), train.Recipe(), train.Parallel())
    state = jax.block_until_ready(step(step.start(), batch))
    for _ in sys.stdin:
        seconds = []
        for _ in range(WARM_STEPS + TIMED_STEPS):
            started = time.perf_counter()
            state = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - started)
        print(json.dumps({"seconds": seconds[WARM_STEPS:], "peak_memory_bytes": peak_memory()}), flush=True)


if __name__ == "__main__":
    _work(sys.argv[1])
