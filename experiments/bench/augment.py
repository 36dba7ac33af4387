"""What augmentation costs: each one alone and the lecture's together, beside a training step of the lecture's CNN.

    python launch.py bench augment                     # about a minute on two cores
    python launch.py bench augment --seconds 5         # steadier

A batch is 128 images of 32x32x3, on the device; an augmentation is compiled and called by itself, with labels alone.
Lecture S2 (claim G7) says that augmentation comes "with minimal computation cost inside the training process": its own
set together should take less than a tenth of a step. The step is that of `bench train`. Where torchvision is installed,
`torchvision.transforms.v2` does the same image by image, as a data loader would. Writes results/bench/augment.json.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax.data import augment
from cnnjax.lab.options import parse
from cnnjax.options import Checked, NotNegative
from experiments.augmentations import LECTURE, TOGETHER
from experiments.bench import train as bench_train
from experiments.bench.timing import race, write_results

BATCH, CLASSES = 128, 10

PEERS: dict[str, Callable[[Any], Any]] = {  # of torchvision.transforms.v2, the nearest to each default
    "translate": lambda v2: v2.RandomAffine(0, translate=(0.125, 0.125)),
    "random-crop": lambda v2: v2.RandomCrop(32, padding=4),
    "resized-crop": lambda v2: v2.RandomResizedCrop(32, antialias=False),
    "mirror": lambda v2: v2.RandomHorizontalFlip(),
    "flip-vertical": lambda v2: v2.RandomVerticalFlip(),
    "rotate": lambda v2: v2.RandomRotation(15, v2.InterpolationMode.BILINEAR),
    "zoom": lambda v2: v2.RandomAffine(0, scale=(0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR),
    "brightness": lambda v2: v2.ColorJitter(brightness=0.2),
    "contrast": lambda v2: v2.ColorJitter(contrast=0.2),
    "saturation": lambda v2: v2.ColorJitter(saturation=0.2),
    "hue": lambda v2: v2.ColorJitter(hue=0.05),
    "gaussian-noise": lambda v2: v2.GaussianNoise(sigma=0.05),
}


@dataclass(frozen=True)
class Options(Checked):
    """Time every augmentation."""

    seconds: NotNegative = 1.0
    """Time for every contender."""


def main(arguments: list[str]) -> int:
    """Time the augmentations, print the table and write the results."""
    (options,) = parse("bench augment", __doc__, arguments, Options)
    with Console(stderr=True).status("timing"):
        milliseconds = race(contenders(), options.seconds)
    step = milliseconds.pop("step")
    theirs = {name.removeprefix("torchvision "): ms for name, ms in milliseconds.items() if "torchvision" in name}
    rows = [
        {
            "name": name,
            "milliseconds": ms,
            "percent_of_step": 100 * ms / step,
            "torchvision_milliseconds": theirs.get(name),
        }
        for name, ms in milliseconds.items()
        if "torchvision" not in name
    ]
    results = {"batch": [BATCH, 32, 32, 3], "lecture": LECTURE, "step_milliseconds": step, "rows": rows}
    write_results("augment", results)
    _print(results)
    return 0


def contenders() -> dict[str, Callable[[], Any]]:
    """Return what takes turns: a training step, every augmentation, the lecture's together, and torchvision's."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    workload = next(workload for workload in bench_train.WORKLOADS if workload.name == "lecture-cnn")
    _, make_step = bench_train.CONTENDERS["cnnjax"]
    sample = augment.Sample(jnp.asarray(images / np.float32(255)), jax.nn.one_hot(labels, CLASSES))
    boxed = replace(sample, boxes=jnp.tile(jnp.float32([8, 8, 24, 24]), (BATCH, 1, 1)))
    every = {name: boxed if name == "object-crop" else sample for name in augment.AUGMENTATIONS}
    ours = {name: _ours(name, given) for name, given in every.items()} | {TOGETHER: _ours(LECTURE, sample)}
    return {"step": make_step(workload, images, labels).step} | ours | _torchvision(images)


def _ours(line: str, sample: augment.Sample) -> Callable[[], Any]:
    change, key = jax.jit(augment.parse(line)), jax.random.key(0)
    return lambda: jax.block_until_ready(change(key, sample))


def _torchvision(images: np.ndarray) -> dict[str, Callable[[], Any]]:
    if not importlib.util.find_spec("torchvision"):
        return {}
    import torch

    importlib.import_module("experiments.bench.torchvision_without_ops")
    from torchvision.transforms import v2

    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    def one_by_one(transform: Any) -> Callable[[], Any]:
        return lambda: torch.stack([transform(image) for image in batch])

    return {f"torchvision {name}": one_by_one(make(v2)) for name, make in PEERS.items()}


def _print(results: dict[str, Any]) -> None:
    step = results["step_milliseconds"]
    table = Table(
        title=f"augmenting {BATCH} images of 32x32x3; a training step of the lecture's CNN takes {step:.1f} ms"
    )
    for name in ("augmentation", "ms", "% of a step", "torchvision, ms"):
        table.add_column(name, justify="left" if name == "augmentation" else "right")
    for row in results["rows"]:
        theirs = row["torchvision_milliseconds"]
        shown = "-" if theirs is None else f"{theirs:.1f}"
        table.add_row(row["name"], f"{row['milliseconds']:.2f}", f"{row['percent_of_step']:.1f}", shown)
    Console().print(table)
