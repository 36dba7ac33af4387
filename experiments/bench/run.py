"""How long the main job takes as a whole: `fcn-vs-cnn` with cnnjax, with Keras on torch, and with a plain torch loop.

    python launch.py bench run                            # 20 epochs of CIFAR-10; about 50 minutes on two cores
    python launch.py bench run --epochs 3 --turns 3       # steadier, in half an hour: every epoch costs the same
    python launch.py bench run --contenders torch         # contenders whose name matches

The job: train `lecture-fcn` and `lecture-cnn` with batches of 128 and Adam with Keras's defaults, in a new order every
epoch, validate after every epoch on the last 30 % of the training images, and evaluate on the test images at the end.
Each contender does it in a process of its own, one after the other, and chooses its own threads; what counts is the
time from the start of its process to its end, with imports, compilation and all. Ours is `launch.py fcn-vs-cnn` as a
person calls it: it also writes checkpoints, TensorBoard files, figures and a report, and compiles everything anew, for
its cache of programs is empty. Keras is `fit` and `evaluate`; torch is the loop of its tutorials, at its best (tensors
in memory, channels_last, fused Adam). Decoding the images is nobody's: each finds the same bytes in files of arrays,
ours in its cache of data, and the peers scale them to [0, 1] beforehand, as their documentation shows. The seconds an
epoch are those of a pass over the training images, without validation.

Then the loop's overhead: epochs of `lecture-cnn` as `train.fit` runs them, each beside as many compiled steps alone on
a batch already at hand, in this process. The part of an epoch that is not those steps is to be below 3 %.

Writes results/bench/run.json if every contender was to run. Those that are not installed are left out.
"""

import fnmatch
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax import data, models, runs, tasks, train
from cnnjax.errors import UserError
from cnnjax.lab.options import parse
from cnnjax.options import Checked, Count
from experiments import fcn_vs_cnn
from experiments.bench import peers
from experiments.bench.timing import write_results

LAUNCH = Path(__file__).parents[2] / "launch.py"
PEER_ENVIRONMENT = {"KERAS_BACKEND": "torch"}
OVERHEAD_NETWORK, OVERHEAD_AIM = "lecture-cnn", 3.0  # percent of an epoch
OVERHEAD_EPOCHS = 5  # each beside as many steps alone


@dataclass(frozen=True)
class Options(Checked):
    """Time the whole main job."""

    epochs: Count = 20
    """Passes over the training images."""
    data: str = field(default_factory=lambda: fcn_vs_cnn.Config().data)
    """shapes, digits or a TFDS set; default: cifar10 where it is prepared, else shapes."""
    contenders: str = "*"
    """Shell pattern that the names of those to run match."""
    turns: Count = 1
    """How often each contender runs, every time with another seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if Path(self.data).is_dir():
            raise UserError(f"`data` must be shapes, digits or a TFDS set, got the folder {self.data}")


class Job(NamedTuple):
    """What one contender does in one turn: the options of `fcn-vs-cnn`, and folders for its arrays and its traces."""

    config: fcn_vs_cnn.Config
    classes: int
    arrays: Path
    folder: Path


class Outcome(NamedTuple):
    """The seconds of a whole run, and how the training of every network went."""

    seconds: float
    networks: Mapping[str, peers.Training]


class Contender(NamedTuple):
    """Who does the job: the modules that it takes, and how it runs."""

    modules: tuple[str, ...]
    run: Callable[[Job], Outcome]


def main(arguments: list[str]) -> int:
    """Run the contenders, measure the overhead, print the table and write the results."""
    (options,) = parse("bench run", __doc__, arguments, Options)
    chosen = _choose(options.contenders)
    config = fcn_vs_cnn.Config(data=options.data, epochs=options.epochs, stream="never")
    try:
        with runs.raised_signals():  # which end the contender's process, too
            dataset = fcn_vs_cnn.load(config)
            outcomes = _take_turns(chosen, config, dataset, options.turns)
            overhead = measure_overhead(config, dataset, OVERHEAD_EPOCHS) if "cnnjax" in chosen else None
    except runs.Interrupted as stop:
        return 128 + stop.signum
    results = summarize(outcomes) | {
        "data": options.data,
        "epochs": options.epochs,
        "turns": options.turns,
        "overhead": overhead,
        "peers": {name: version(name) for name in ("keras", "torch") if importlib.util.find_spec(name)},
    }
    _print(results)
    if options.contenders == "*":
        write_results("run", results)
    return 0


def _choose(pattern: str) -> dict[str, Contender]:
    """Return the contenders that match; those that are not installed are left out and reported."""
    matching = {who: contender for who, contender in CONTENDERS.items() if fnmatch.fnmatch(who, pattern)}
    if not matching:
        raise UserError(f"no contender matches --contenders {pattern!r}: there are {', '.join(CONTENDERS)}")
    chosen = {}
    for who, contender in matching.items():
        missing = [module for module in contender.modules if not importlib.util.find_spec(module)]
        if missing:
            _say(f"{who} is left out: pip install {' '.join(missing)}")
        else:
            chosen[who] = contender
    if not chosen:
        raise UserError(f"no contender that matches --contenders {pattern!r} is installed")
    return chosen


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- whole runs


def _take_turns(
    contenders: Mapping[str, Contender], config: fcn_vs_cnn.Config, dataset: data.Dataset, turns: int
) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {who: [] for who in contenders}
    with tempfile.TemporaryDirectory(prefix="cnnjax-bench-") as temporary:
        arrays = Path(temporary) / "arrays"
        arrays.mkdir()
        training, validation = dataset.train, dataset.validation
        assert validation is not None  # fcn-vs-cnn always holds some out
        splits = zip(peers.SPLITS, (training, validation, dataset.test), strict=True)
        peers.save_arrays(
            arrays, {name: (split.first(split.size).images, split.first(split.size).labels) for name, split in splits}
        )
        for contender in contenders.values():
            if contender.modules:  # read from the disk now, or the first turn would wait for that
                _time(["-c", f"import {', '.join(contender.modules)}"], PEER_ENVIRONMENT, Path(temporary) / "log")
        for turn in range(turns):
            for who, contender in contenders.items():
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    seeded = replace(config, seed=config.seed + turn)
                    outcome = contender.run(Job(seeded, len(dataset.class_names), arrays, Path(folder)))
                outcomes[who].append(outcome)
                _say(f"{who}, turn {turn + 1} of {turns}: {outcome.seconds:.1f} s")
    return outcomes


def _cnnjax(job: Job) -> Outcome:
    cache, out = job.folder / "cache", job.folder / "run"
    cache.mkdir()
    (cache / "splits").symlink_to(data.cache_dir().absolute() / "splits")  # decoded images, but no compiled programs
    options = {name: getattr(job.config, name) for name in ("data", "stream", "epochs", "seed")} | {"out": out}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    seconds = _time([str(LAUNCH), "fcn-vs-cnn", *arguments], {"CNNJAX_CACHE_DIR": str(cache)}, job.folder / "log")
    summary = runs.read_json(out / "summary.json") or {}
    networks = {
        name: peers.Training(result["curves"]["train/seconds"], result["test_accuracy"])
        for name, result in summary["models"].items()
    }
    return Outcome(seconds, networks)


def _peer(name: str) -> Callable[[Job], Outcome]:
    def run(job: Job) -> Outcome:
        out, numbers = job.folder / "result.json", (job.classes, job.config.epochs, job.config.seed)
        command = ["-m", "experiments.bench.peers", name, str(job.arrays), str(out), *map(str, numbers)]
        seconds = _time(command, PEER_ENVIRONMENT, job.folder / "log")
        results = runs.read_json(out) or {}
        return Outcome(seconds, {network: peers.Training(**result) for network, result in results.items()})

    return run


def _time(command: Sequence[str], environment: Mapping[str, str], log: Path) -> float:
    """Return the seconds that Python takes for `command`; raise a UserError with its last words if it fails."""
    everything = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    with log.open("w") as file:
        started = time.perf_counter()
        status = subprocess.run([sys.executable, *command], env=everything, stdout=file, stderr=file).returncode
        seconds = time.perf_counter() - started
    if status:
        last = "\n".join(log.read_text().splitlines()[-5:])
        raise UserError(f"python {' '.join(command)} failed with exit status {status}:\n{last}")
    return seconds


CONTENDERS = {
    "cnnjax": Contender((), _cnnjax),
    "Keras on torch": Contender(("keras", "torch"), _peer("keras")),
    "torch": Contender(("torch",), _peer("torch")),
}


def summarize(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """Return the medians over turns, and of each network its epochs' and its mean test accuracy."""
    rows = []
    for who, turns in outcomes.items():
        networks = {}
        for name in turns[0].networks:
            epochs = [seconds for turn in turns for seconds in turn.networks[name].epoch_seconds]
            networks[name] = {
                "fastest_epoch_seconds": min(epochs),
                "median_epoch_seconds": statistics.median(epochs),
                "test_accuracy": statistics.mean(turn.networks[name].test_accuracy for turn in turns),
            }
        seconds = statistics.median(turn.seconds for turn in turns)
        rows.append({"name": who, "seconds": seconds, "networks": networks})
    return {"rows": rows}


# ---------------------------------------------------------------- the loop's overhead


def measure_overhead(config: fcn_vs_cnn.Config, dataset: data.Dataset, epochs: int) -> dict[str, Any]:
    """Return the seconds of an epoch of `train.fit` and what percentage of it is not its compiled steps; medians.

    Once as it is ("whole_epoch"), and once without validation and checkpoints ("loop"): what is left is feeding the
    steps, waiting for them and writing down how they went.

    Args:
        config: how to train; its batch size counts.
        dataset: what to train on.
        epochs: how many to time, each after as many steps alone.
    """
    training, validation = dataset.train, dataset.validation
    height, _, channels = dataset.image_shape
    model = models.create_model(
        OVERHEAD_NETWORK, num_classes=len(dataset.class_names), in_channels=channels, image_size=height
    )
    parallel = train.Parallel(devices=jax.local_devices()[:1])
    task, recipe = tasks.Classification(config), replace(config, epochs=epochs + 1)
    time_steps, steps = _steps_alone(model, task, config, training, parallel)
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in (("loop", None), ("whole_epoch", runs.Run(Path(folder), "bench run"))):
            watch = WatchedEpochs(time_steps, steps, epochs)
            options: Any = {"run": run, "parallel": parallel, "callbacks": [watch]}
            train.fit(model, task, recipe, training, validation if run else None, **options)
            percents = [100 * (1 - alone / epoch) for epoch, alone in watch.pairs]
            measured[name] = {
                "epoch_seconds": statistics.median(epoch for epoch, _ in watch.pairs),
                "overhead_percent": statistics.median(percents),
                "overhead_percents": percents,
            }
    return measured


class WatchedEpochs(train.Callback):
    """Notes the seconds of every epoch of a training after the first, and of as many steps alone.

    An epoch is taken from the moment when its steps are done to the same moment of the next one. There, where nothing
    else goes on, it is held for the steps alone.

    Args:
        time_steps: runs an epoch's steps alone, and returns the seconds that they took.
        steps: of an epoch.
        epochs: how many to note.
    """

    def __init__(self, time_steps: Callable[[], float], steps: int, epochs: int):
        self.pairs: list[tuple[float, float]] = []
        self._time_steps, self._steps, self._epochs = time_steps, steps, epochs
        self._alone = self._began = 0.0

    def on_step(self, step: int, state: train.TrainState) -> None:
        if step % self._steps:
            return
        jax.block_until_ready(state)
        if self._began:
            self.pairs.append((time.perf_counter() - self._began, self._alone))
        self._alone = self._time_steps() if len(self.pairs) < self._epochs else 0.0
        self._began = time.perf_counter()


def _steps_alone(
    model: models.Module, task: tasks.Task, recipe: train.Recipe, training: data.Examples, parallel: train.Parallel
) -> tuple[Callable[[], float], int]:
    """Return what runs an epoch's number of compiled steps on one batch and returns their seconds, and the number."""
    steps = -(-training.size // recipe.batch_size)
    compiled = train.compile_step(model, task, recipe, parallel, steps_per_epoch=steps)
    first = training.select(task.targets).first(recipe.batch_size)
    batch = parallel.replicate(first.take(slice(None), np.ones(recipe.batch_size, np.float32)))
    jax.block_until_ready(compiled(compiled.start(), batch))

    def time_steps() -> float:
        state = jax.block_until_ready(compiled.start())
        started = time.perf_counter()
        for _ in range(steps):
            state = compiled(state, batch)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return time_steps, steps


# ---------------------------------------------------------------- what comes out


def _print(results: Mapping[str, Any]) -> None:
    table = Table(title=f"fcn-vs-cnn on {results['data']}, epochs: {results['epochs']}; seconds, and test accuracy")
    for name in ("contender", "whole run", "cnnjax / it", "network", "fastest epoch", "median", "accuracy"):
        is_name = name in ("contender", "network")
        table.add_column(name, justify="left" if is_name else "right", no_wrap=is_name)
    ours = next((row["seconds"] for row in results["rows"] if row["name"] == "cnnjax"), None)
    for row in results["rows"]:
        whole = [row["name"], f"{row['seconds']:.1f}", f"{ours / row['seconds']:.2f}" if ours else "-"]
        for name, network in row["networks"].items():
            fastest, median = network["fastest_epoch_seconds"], network["median_epoch_seconds"]
            table.add_row(*whole, name, f"{fastest:.2f}", f"{median:.2f}", f"{network['test_accuracy']:.1%}")
            whole = ["", "", ""]
        table.add_section()
    console = Console()
    console.print(table)
    for name, overhead in (results["overhead"] or {}).items():
        percents, seconds = overhead["overhead_percents"], overhead["epoch_seconds"]
        said = "with validation and checkpoint" if name == "whole_epoch" else f"aim: below {OVERHEAD_AIM:.0f} %"
        console.print(
            f"{OVERHEAD_NETWORK}, an epoch in cnnjax: {seconds:.2f} s, of which {overhead['overhead_percent']:.1f} % "
            f"({min(percents):.1f} to {max(percents):.1f}) are not compiled steps; {said}"
        )
