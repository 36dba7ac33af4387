"""Every network of the zoo: how large, how exact, and how fast beside plain Flax and torch.

    python launch.py bench models                                       # all; a night on two cores
    python launch.py bench models --models "resnet*,vgg11" --sizes 96   # some, at 96x96 pixels alone

For each network, at its own size and at 96x96 pixels: parameters, multiply-adds, milliseconds for a single image and
images a second in batches of 16 in `eval`, a training step of 16 images (SGD with momentum; cross-entropy, of every
pixel in segmentation, autoencoders squared errors), its memory and the seconds until it is compiled, and the seconds
that the network takes to be created, with all its numbers and, by `nnx.eval_shape`, without. Contenders take turns and
the median counts. Plain Flax is the same network with Flax's own convolutions, poolings and normalisation in place of
ours (transposed convolutions stay); torch is torchvision's, timm's or torch_segmentation.py's in channels_last memory,
its weights in all three: how far our logits are from torch's in float64 is the parity error. Networks that none has go
without torch.

Memory is, of ours and of plain Flax, what XLA plans for the step's arguments, results and temporaries; of torch, by how
much a process that does nothing else grows, or what it holds of a GPU. A network whose step needs more than the machine
has is named at the end, and left out.

On two cores a network takes one or two minutes at an image size, and about a minute more for every 10^9 multiply-adds
of its images (efficientnet_b7 38 of them at its own size), much of it plain Flax's, which --skip-flax leaves out; what
is left of all is estimated before each. Every row is written to results/bench/models.json (models-gpu.json on a GPU)
when it is done: after a stop the same command resumes, and measures no row again; with --again it
begins anew. At the end the whole file becomes results/bench/models.md and a chart; `report` puts the rows at 96x96 into
README.

Needs torch, torchvision and timm:

    pip install -e ".[parity]" && pip install --no-deps torchvision==0.28.0 timm==1.0.31 huggingface_hub==2.4.0
"""

import fnmatch
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from rich.console import Console

from cnnjax import runs, viz
from cnnjax.errors import RunError, UserError
from cnnjax.lab.markdown import table
from cnnjax.lab.options import parse
from cnnjax.lab.terminal import say
from cnnjax.options import Checked, NotNegative
from cnnjax.runs.hardware import describe_device, describe_versions
from experiments.bench import references, zoo
from experiments.bench.timing import print_aims, result_path, write_results
from experiments.bench.zoo import BATCH, FLAX, OURS, SMALL, TORCH, Network

# About what a network takes on two cores: to start and compile, and for each 10^9 multiply-adds of an image.
START_SECONDS, SECONDS_A_GMAC = 90, 60
TEN_TIMES = {  # the networks that plain Flax is to take ten times as long for
    "MobileNet": "mobilenet_*",
    "ShuffleNet": "shufflenet_*",
    "ResNeXt": "resnext*",
    "EfficientNet": "efficientnet_*",
    "Xception": "xception",
}


@dataclass(frozen=True)
class Options(Checked):
    """Measure networks."""

    models: str = "*"
    """Networks to measure: names or shell patterns, with commas."""
    sizes: str = "own,96"
    """Image sizes: own, 96, or both as own,96."""
    seconds: NotNegative = 2.0
    """Time for every contender and measure."""
    skip_flax: bool = False
    """Leave plain Flax out, which takes most of the time."""
    again: bool = False
    """Measure again what is there already."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not set(self.sizes.split(",")) <= {"own", str(SMALL)}:
            raise UserError(f"`sizes` must be own, {SMALL} or own,{SMALL}, got {self.sizes!r}")
        for pattern in self.models.split(","):
            if not fnmatch.filter(zoo.networks(), pattern):
                raise UserError(f"`models={pattern!r}` matches none of {', '.join(zoo.networks())}")


def main(arguments: list[str]) -> int:
    """Measure the networks, print a line of each and the aims, write the results."""
    (options,) = parse("bench models", __doc__, arguments, Options)
    if not references.installed():
        raise UserError("bench models needs torch, torchvision and timm: see python launch.py bench models --help")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch takes its turns on the same GPU
    try:
        with runs.raised_signals():  # which end the process that measures, too
            failed = _measure_all(_missing(options), options)
    except runs.Interrupted as stop:
        return 128 + stop.signum
    if rows := _rows():
        runs.write_text(result_path("models", ".md"), markdown(rows))
        runs.write_text(result_path("networks", ".md"), short_table(rows) + "\n")
        _draw(rows)
        print_aims(f"the zoo, {len(rows)} rows: {result_path('models', '.md')}", aims(rows))
    for what in failed:
        say(what)
    return 1 if failed else 0


def _missing(options: Options) -> list[tuple[Network, int]]:
    """Return the networks and image sizes to measure, without those that are there with every contender."""
    found, there = zoo.networks(), set()
    for row in _rows():  # which are of this machine, or nothing is measured
        if not options.again and (options.skip_flax or FLAX in row["milliseconds"]["training"]):
            there.add((row["name"], row["size"]))
    chosen = [
        (found[name], found[name].size if size == "own" else SMALL)
        for pattern in options.models.split(",")
        for name in fnmatch.filter(found, pattern)
        for size in options.sizes.split(",")
    ]
    return [(network, size) for network, size in dict.fromkeys(chosen) if (network.name, size) not in there]


def _measure_all(todo: Sequence[tuple[Network, int]], options: Options) -> list[str]:
    """Measure one after the other, write each when it is done, and return what could not be measured, in words."""
    failed, started, console = [], time.perf_counter(), Console()
    expected = [expected_seconds(network, size) for network, size in todo]
    for number, (network, size) in enumerate(todo):
        left = seconds_left(expected, number, time.perf_counter() - started)
        what = f"{network.name} at {size}x{size}"
        say(f"{what}: {number + 1} of {len(todo)}, about {timedelta(seconds=round(left))} left")
        try:
            row = measure(network, size, options)
        except RunError as error:
            failed.append(f"{what} was not measured: {error}")
            say(failed[-1])
            continue
        _keep(row)
        console.print("  ".join(cells(row)), soft_wrap=True)
    return failed


def expected_seconds(network: Network, size: int) -> float:
    """Return about how long a network takes at an image size; multiply-adds grow with the pixels."""
    return START_SECONDS + SECONDS_A_GMAC * network.gmacs * (size / network.size) ** 2


def seconds_left(expected: Sequence[float], done: int, taken: float) -> float:
    """Return what is expected of all after the first `done`, as much slower or faster as these were."""
    return sum(expected[done:]) * (taken / sum(expected[:done]) if done else 1)


def measure(network: Network, size: int, options: Options) -> dict[str, Any]:
    """Return the row of a network at an image size.

    Raises:
        RunError: the process that measured failed.
    """
    row: dict[str, Any] = _apart(zoo.measure, network.name, size, options.seconds, options.skip_flax)
    if zoo.has_peer(network.name) and (torch_bytes := _apart(zoo.torch_memory, network.name, size)) is not None:
        row["memory"][TORCH] = torch_bytes
    return row


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of `zoo` returns in a process of its own."""
    command = [sys.executable, "-m", "experiments.bench.zoo", json.dumps([function.__name__, arguments])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        reason = " (killed, most likely for want of memory)" if done.returncode == -9 else ""
        raise RunError(f"{function.__name__} ended with exit status {done.returncode}{reason}")
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- what comes out


def _rows() -> list[dict[str, Any]]:
    """Return what is there.

    Raises:
        UserError: it was measured elsewhere: rows of two machines would stand beside each other.
    """
    path = result_path("models", ".json")
    kept = runs.read_json(path) or {"rows": [], **_here()}
    if changed := [name for name, value in _here().items() if kept.get(name) != value]:
        raise UserError(
            f"{path} was measured with other {', '.join(changed)} than are here: move it away to measure all anew"
        )
    return list(kept["rows"])


def _here() -> dict[str, Any]:
    peers = {name: version(name) for name in ("torch", "torchvision", "timm") if find_spec(name)}
    return {"device": describe_device(), "versions": describe_versions(), "peers": peers}


def _keep(row: dict[str, Any]) -> None:
    """Write a row in place of the one of the same network and size."""
    others = [old for old in _rows() if (old["name"], old["size"]) != (row["name"], row["size"])]
    rows = sorted([*others, row], key=lambda row: (row["name"], row["size"]))
    write_results("models", {"rows": rows, "peers": _here()["peers"]})


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
    "compilation, s",
    "creation, s",
    "without numbers, s",
)
IN_DOCS = (
    "network",
    "parameters",
    "multiply-adds, 10^9",
    "parity error",
    "images a second",
    "training step, ms",
    "/ torch's",
    "plain Flax's /",
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
        "" if row["parity_error"] is None else f"{row['parity_error']:.0e}",
        f"{times['latency'][OURS]:.1f}",
        f"{1e3 * BATCH / times['throughput'][OURS]:.0f}",
        f"{times['training'][OURS]:.0f}",
        f"{step[TORCH]:.2f}" if TORCH in step else "",
        f"{1 / step[FLAX]:.1f}" if FLAX in step else "",
        f"{memory[OURS] / 1e6:.0f}",
        f"{memory[TORCH] / 1e6:.0f}" if TORCH in memory else "",
        f"{row['compilation_seconds'][OURS]:.1f}",
        f"{row['creation_seconds']:.2f}",
        f"{row['tracing_seconds']:.2f}",
    ]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a page."""
    summary = table(("what", "measured", "aim"), aims(rows))
    whole = table(HEAD, map(cells, rows))
    here = _here()
    there = "{count} {kind} of a machine with {cpu_cores} cores ({machine})".format(**here["device"])
    libraries = ", ".join(f"{name} {number}" for name, number in (here["versions"] | here["peers"]).items())
    return (
        "# The zoo, measured\n\n"
        f"Written by `python launch.py bench models` on {there}, with {libraries}.\n\n{summary}\n\n{whole}\n"
    )


def short_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table that docs/benchmarks.md shows: the main columns of what was measured at 96x96 pixels."""
    lines = [cells(row) for row in rows if row["size"] == SMALL]
    columns = [HEAD.index(name) for name in IN_DOCS]
    return table(IN_DOCS, [[line[column] for column in columns] for line in lines])


def aims(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return what the rows come to beside what was aimed at, as (what, measured, aim); means over those with a peer."""
    steps = {row["name"]: ratios(row, "training") for row in rows if row["size"] == SMALL}
    to_torch = {name: step[TORCH] for name, step in steps.items() if TORCH in step}
    gains = {name: 1 / step[FLAX] for name, step in steps.items() if FLAX in step}
    labels = {f"{row['name']} at {row['size']}x{row['size']}": row for row in rows}
    own_steps = {row["name"]: ratios(row, "training") for row in rows if row["own"]}
    own_to_torch = {name: step[TORCH] for name, step in own_steps.items() if TORCH in step}
    step_title = f"training step of {BATCH} images of {SMALL}x{SMALL}"
    own_title = f"training step of {BATCH} images of their own sizes"
    largest = max(rows, key=lambda row: row["params"])
    errors = {what: row["parity_error"] for what, row in labels.items() if row["parity_error"] is not None}
    return [
        (f"{step_title}, cnnjax / torch: geometric mean of {len(to_torch)} networks", _mean(to_torch), "<= 1.2"),
        ("the same, the worst", _named(max, to_torch), "<= 2"),
        (f"{own_title}, cnnjax / torch: geometric mean of {len(own_to_torch)} networks", _mean(own_to_torch), ""),
        ("the same, the worst", _named(max, own_to_torch), ""),
        *(
            (f"{step_title}, plain Flax / cnnjax: {family}, the worst", _named(min, _like(gains, pattern)), ">= 10")
            for family, pattern in TEN_TIMES.items()
        ),
        (
            "compiling a training step, s: the longest",
            _named(max, {what: row["compilation_seconds"][OURS] for what, row in labels.items()}),
            "< 60",
        ),
        ("create_model of the largest, s", f"{largest['creation_seconds']:.2f} ({largest['name']})", "< 5"),
        ("the same, the longest", _named(max, {what: row["creation_seconds"] for what, row in labels.items()}), ""),
        (
            "without numbers, by nnx.eval_shape, s: the longest",
            _named(max, {what: row["tracing_seconds"] for what, row in labels.items()}),
            "instant",
        ),
        ("parity error, part of the largest logit: the largest", _named(max, errors, ".0e"), "<= 1e-4"),
    ]


def _mean(values: Mapping[str, float]) -> str:
    return f"{statistics.geometric_mean(values.values()):.2f}" if values else ""


def _like(values: Mapping[str, float], pattern: str) -> dict[str, float]:
    return {name: values[name] for name in fnmatch.filter(values, pattern)}


def _named(choose: Callable[..., str], values: Mapping[str, float], form: str = ".2f") -> str:
    """Return the largest or smallest value and whose it is, NaN as the largest; nothing of nothing."""
    who = choose(values, key=lambda name: (math.isnan(values[name]), values[name]), default="")
    return f"{values[who]:{form}} ({who})" if who else ""


def _draw(rows: Sequence[Mapping[str, Any]]) -> None:
    small = [row for row in rows if row["size"] == SMALL and TORCH in row["milliseconds"]["training"]]
    if not small:
        return
    contenders = [FLAX, OURS] if all(FLAX in row["milliseconds"]["training"] for row in small) else [OURS]
    bars = {
        who: [row["milliseconds"]["training"][who] / row["milliseconds"]["training"][TORCH] for row in small]
        for who in contenders
    }
    title = f"training step of {BATCH} images of {SMALL}x{SMALL}, time / torch's"
    viz.save(viz.ratio_bars([row["name"] for row in small], bars, title), result_path("models", ".png"))
