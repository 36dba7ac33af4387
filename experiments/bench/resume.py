"""What being hard to kill costs: saving a state every epoch, and the time until a resumed run trains again.

    python launch.py bench resume                    # a quarter of an hour on two cores
    python launch.py bench resume --epochs 1 --starts 1 --data shapes      # a quick look

The lecture's CNN trains epochs of CIFAR-10's 70 % (or of the generated shapes) with the loop's own steps. In turns an
epoch begins with a state being saved, as every epoch but the first does, and counts until that is on disk; or it saves
nothing. What a save takes alone, while nothing trains, is measured too: that is the most it can cost, and where the
epochs are too noisy to tell it is the figure to look at. Then `fcn-vs-cnn` is killed in its second network's training
and the same command started again and again, with the compiled programs in the cache, as a scheduler would: from the
start of the process until the first step of the second network is done. Writes results/bench/resume.json, unless fewer
epochs or starts were asked for.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress

from cnnjax import data, models, tasks, train
from cnnjax.errors import RunError
from cnnjax.lab import heap
from cnnjax.lab.app import run_experiment
from cnnjax.lab.options import parse
from cnnjax.options import Checked, Count
from cnnjax.runs.hardware import use_compilation_cache
from experiments.bench.timing import print_aims, write_results

ROOT = Path(__file__).parents[2]
EPOCHS, STARTS = 7, 5
BATCH, HELD_OUT = 128, 0.3
MOST_PERCENT, MOST_SECONDS = 2, 10
COMMAND = ["fcn-vs-cnn", "--epochs", "2"]  # so that the first state of a network is never its last


@dataclass(frozen=True)
class Options(Checked):
    """Measure what saving costs, and how soon a resumed run trains."""

    epochs: Count = EPOCHS
    """Epochs with a save, and as many without."""
    starts: Count = STARTS
    """How often the killed run is started again."""
    data: str = field(default_factory=lambda: "cifar10" if data.is_prepared("cifar10") else "shapes")
    """A data set; default: cifar10 where it is prepared, else shapes."""


def main(arguments: list[str]) -> int:
    """Measure, print the table and write the results."""
    (options,) = parse("bench resume", __doc__, arguments, Options)
    use_compilation_cache()
    with tempfile.TemporaryDirectory(prefix="cnnjax-resume-") as folder:
        results: dict[str, Any] = {"data": options.data}
        results |= measure_saving(options.data, options.epochs, Path(folder) / "states")
        results["resume_seconds"] = measure_resuming(options.data, options.starts, Path(folder) / "run")
    if options == Options():
        write_results("resume", results)
    _print(results)
    return 0


# ---------------------------------------------------------------- saving


class Training:
    """The lecture's CNN, trained by the loop's own steps an epoch at a time."""

    def __init__(self, name: str):
        dataset = data.load(name)
        examples, _ = data.hold_out(dataset.train, HELD_OUT)
        parallel = train.Parallel(devices=jax.local_devices()[:1])
        self._order = data.epoch_order(0, 0, examples.size, BATCH)
        self.steps = len(self._order[0])
        height, _, channels = dataset.image_shape
        classes = len(dataset.class_names)
        model = models.create_model("lecture-cnn", num_classes=classes, in_channels=channels, image_size=height)
        step = train.compile_step(model, tasks.Classification(), train.Recipe(), parallel)
        self._advance, self.state = step.over(examples.select(("labels",))), step.start()

    def epoch(self) -> None:
        """Train an epoch."""
        *_, (_, self.state) = self._advance(self.state, *self._order)
        jax.block_until_ready(self.state)


def measure_saving(name: str, epochs: int, folder: Path) -> dict[str, Any]:
    """Return the milliseconds of epochs with and without a save, and of a save that nothing else disturbs."""
    training, checkpoints = Training(name), train.Checkpoints(folder)
    blocked: list[float] = []

    def save() -> None:
        checkpoints.save(training.state)
        checkpoints.wait()

    def epoch_with_save() -> None:
        blocked.append(_milliseconds(lambda: checkpoints.save(training.state)))
        training.epoch()
        checkpoints.wait()

    save()
    training.epoch()  # compiles
    turns = {"with": epoch_with_save, "save alone": save, "without": training.epoch}
    times: dict[str, list[float]] = {turn: [] for turn in turns}
    with Progress(console=Console(stderr=True)) as progress:
        for _ in progress.track(range(epochs), description="epochs"):
            for turn, run in turns.items():
                times[turn].append(_milliseconds(run))
    checkpoints.close()
    epoch_ms = statistics.median(times["without"])
    slower = [100 * (saving / plain - 1) for saving, plain in zip(times["with"], times["without"], strict=True)]
    return {
        "epoch_ms": times["without"],
        "epoch_with_save_ms": times["with"],
        "save_alone_ms": times["save alone"],
        "save_blocks_ms": blocked,
        "slower_percent": slower,
        "save_alone_percent": 100 * statistics.median(times["save alone"]) / epoch_ms,
    }


def _milliseconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


# ---------------------------------------------------------------- resuming


def measure_resuming(name: str, starts: int, out: Path) -> list[float]:
    """Return the seconds from the start of a process until it has done a step of a training that was killed."""
    command = [*COMMAND, "--data", name, "--out", str(out)]
    _kill_in_second_network([*command, "--save-every", "0.02"], out)
    seconds = []
    for _ in range(starts + 1):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", __name__, *command], **_QUIET)
        seconds.append(time.perf_counter() - started)
        if done.returncode:
            raise RunError(f"the run in {out} did not resume: {done.stderr}")
    return seconds[1:]  # the first fills the cache of compiled programs


_QUIET: dict[str, Any] = {
    "env": {**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": heap.TUNABLES},
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.PIPE,
    "text": True,
}


def _kill_in_second_network(command: list[str], out: Path) -> None:
    process = subprocess.Popen([sys.executable, str(ROOT / "launch.py"), *command], **_QUIET)
    folder = out / "checkpoints" / "lecture-cnn" / "seed0"
    while process.poll() is None and not any(path.name.isdigit() for path in folder.glob("*")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.kill()
    _, error = process.communicate()
    if process.returncode >= 0:
        raise RunError(f"the run to be killed ended by itself with exit status {process.returncode}: {error}")


def _print(results: dict[str, Any]) -> None:
    median = {name: statistics.median(values) for name, values in results.items() if isinstance(values, list)}
    slower, seconds = results["slower_percent"], results["resume_seconds"]
    change = f"{median['slower_percent']:.2f} ({min(slower):.1f} to {max(slower):.1f})"
    start = f"{median['resume_seconds']:.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
    rows = [
        ("an epoch, ms", f"{median['epoch_ms']:.0f}", ""),
        ("of which saving holds up the steps, ms", f"{median['save_blocks_ms']:.0f}", ""),
        ("a save alone until it is on disk, ms", f"{median['save_alone_ms']:.0f}", ""),
        ("the same, % of an epoch", f"{results['save_alone_percent']:.2f}", f"< {MOST_PERCENT}"),
        ("an epoch with a save slower than one without, %", change, f"< {MOST_PERCENT}"),
        ("from start to the first step of a resumed run, s", start, f"< {MOST_SECONDS}"),
    ]
    print_aims(f"lecture-cnn on {results['data']}, batches of {BATCH}", rows)


# ---------------------------------------------------------------- the resumed process


class ExitAtFirstStep(train.Callback):
    """Ends the process as soon as a step is done."""

    def on_step(self, step: int, state: train.TrainState) -> None:
        jax.block_until_ready(state)
        os._exit(0)


if __name__ == "__main__":  # the command line, but that it ends after a step
    sys.exit(run_experiment(sys.argv[1], sys.argv[2:], (ExitAtFirstStep(),)) or 1)
