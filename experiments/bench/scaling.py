"""What it costs to split a step over devices and processes that share one machine.

    python launch.py bench scaling                     # about five minutes on two cores
    python launch.py bench scaling --networks "*cnn"   # networks whose name matches

The lecture's networks train on batches of 128 with the steps that experiments run, on 1, 2, 4 and 8 virtual devices
of the CPU under `jax.shard_map` and `jax.pmap`, and on 2 and 4 devices of two processes, which exchange gradients
over gloo: each device with each, through sockets, also where two belong to one process. The work is the same for all
and so are the cores, so that what a step takes longer than on one device is what splitting it costs: smaller matrix
products, the exchange of gradients, and an Adam of every replica's own. Between as many devices of one process and of
two, the difference is the processes'. Contenders take turns, so that whatever else the machine does hits all alike.
Writes results/bench/scaling.json.
"""

import fnmatch
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax import data, models, tasks, train
from cnnjax.errors import RunError, UserError
from cnnjax.lab.options import parse
from cnnjax.options import Checked, NotNegative
from cnnjax.runs import processes
from experiments.bench.timing import race, write_results

NETWORKS = ("lecture-fcn", "lecture-cnn")
BATCH, IMAGE, CLASSES = 128, (32, 32, 3), 10
DEVICES = (1, 2, 4, 8)
PROCESSES, SHARED = 2, (2, 4)  # and the devices that they have together
DONE = "done\n"


@dataclass(frozen=True)
class Options(Checked):
    """Time a step over devices and processes."""

    networks: str = "*"
    """Shell pattern that the names of the networks to time match."""
    seconds: NotNegative = 8.0
    """Time for every contender and network; 3 steps at least."""


def main(arguments: list[str]) -> int:
    """Time the steps, print the table, write the results."""
    (options,) = parse("bench scaling", __doc__, arguments, Options)
    chosen = fnmatch.filter(NETWORKS, options.networks)
    if not chosen:
        raise UserError(f"no network matches --networks {options.networks!r}: there are {', '.join(NETWORKS)}")
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    rows = [_time_network(name, options.seconds) for name in chosen]
    _print(rows)
    if options == Options():
        write_results("scaling", {"batch_size": BATCH, "rows": rows})
    return 0


def _time_network(name: str, seconds: float) -> dict[str, Any]:
    steps = {
        in_one_process(count, mode): make_step(name, train.Parallel(mode, jax.local_devices()[:count]))
        for mode in train.MODES
        for count in DEVICES
    }
    with ExitStack() as running:
        for count in SHARED:
            steps[in_two(count)] = running.enter_context(closing(Processes(name, count))).step
        for step in steps.values():
            step()  # compiles
        return {"name": name, "milliseconds": race(steps, seconds)}


def in_one_process(devices: int, mode: str = "shard_map") -> str:
    """Return what such a contender is called."""
    return f"{devices} device{'s' * (devices > 1)}, {mode}"


def in_two(devices: int) -> str:
    """Return what a contender with these devices in several processes is called."""
    return f"{devices} devices of {PROCESSES} processes"


def make_step(network: str, parallel: train.Parallel) -> Callable[[], None]:
    """Return a call that takes the next step of a training, on a batch that starts in the host's memory."""
    model = models.create_model(network, num_classes=CLASSES)
    compiled = train.compile_step(model, tasks.Classification(), train.Recipe(), parallel)
    rng, share = np.random.default_rng(0), parallel.own(np.arange(BATCH))
    images = rng.integers(0, 256, (BATCH, *IMAGE), dtype=np.uint8)[share]
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)[share]
    batch = data.Split(images, labels).take(slice(None), np.ones(len(share), np.float32))
    carried = [compiled.start()]

    def step() -> None:
        carried[0] = jax.block_until_ready(compiled(carried[0], parallel.split(batch)))

    return step


class Processes:
    """A training in processes of its own with so many devices together, which take a step when they are told to."""

    def __init__(self, network: str, devices: int):
        with socket.socket() as probe:
            probe.bind(("", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices // PROCESSES), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", __name__, network, address, str(PROCESSES)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._all = [subprocess.Popen([*command, str(index)], env=environment, **pipes) for index in range(PROCESSES)]

    def step(self) -> None:
        """Take a step, and return when every process has."""
        for process in self._all:
            print(file=process.stdin)
        for process in self._all:
            if DONE not in iter(process.stdout.readline, ""):  # type: ignore[union-attr] # gloo prints there too
                raise RunError("a process of the benchmark ended by itself: its message is above")

    def close(self) -> None:
        """End the processes, which wait for each other."""
        for process in self._all:
            process.stdin.close()  # type: ignore[union-attr]
        for process in self._all:
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def serve(network: str, *place: str) -> None:
    """Take a step for every line of standard input, and say so."""
    processes.join(place, 60)
    with processes.together():
        step = make_step(network, train.Parallel())
        for _ in sys.stdin:
            step()
            print(DONE, end="", flush=True)


# ---------------------------------------------------------------- what comes out


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"a step on a batch of {BATCH}: median milliseconds, and how much longer than on one device")
    for name in ("network", "devices", "step", "longer"):
        table.add_column(name, justify="left" if name in ("network", "devices") else "right")
    for row in rows:
        ms = row["milliseconds"]
        one = ms[in_one_process(1)]
        for who, taken in ms.items():
            table.add_row(row["name"], who, f"{taken:.1f}", f"{100 * (taken / one - 1):.0f} %")
        table.add_section()
    console = Console()
    console.print(table)
    for row in rows:
        ms = row["milliseconds"]
        for count in SHARED:
            percent = 100 * (ms[in_two(count)] / ms[in_one_process(count)] - 1)
            console.print(
                f"{row['name']}: {count} devices of {PROCESSES} processes take {percent:.0f} % longer than of one"
            )


if __name__ == "__main__":
    serve(*sys.argv[1:])
