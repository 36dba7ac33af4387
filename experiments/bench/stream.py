"""What streaming costs: whether training waits for images decoded on the way, and whether its memory stays flat.

    python launch.py bench stream                      # a minute to draw the images, once; 20 minutes on two cores
    python launch.py bench stream --steps 100          # a quick look, too short for the memory
    python launch.py bench stream --workers 2          # decode in processes instead of threads

Draws a folder tree of 100,000 JPEG images of 64x64, as large sets come, and trains the lecture's CNN one pass over it
with the loop's own steps, in batches of 128. A twin of the network is fed from memory and takes turns of 50 steps with
it, so that whatever else the machine does hits both alike. Three things are told apart: how long the device, with all
its steps done, waits for the stream's next batch (the start of the stream counts too); how much slower the steps
themselves are beside the decoding, which takes cores from them on a CPU; and how far the resident memory, the workers'
included, rises above what it was after a tenth of the pass. The files were just written, so that they are read from the
system's cache: a slow disk is not measured. Writes results/bench/stream.json, unless fewer images or steps were asked
for.
"""

import contextlib
import gc
import itertools
import logging
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress, track

from cnnjax import data, models, runs, tasks, train
from cnnjax.data import shapes
from cnnjax.data.dataset import Batches
from cnnjax.errors import UserError
from cnnjax.lab.options import parse
from cnnjax.options import Checked, Count, CountOrZero, Range
from cnnjax.runs.hardware import use_compilation_cache
from experiments.bench.timing import print_aims, write_results

log = logging.getLogger(__name__)

IMAGES, IMAGE_SIZE, QUALITY = 100_000, 64, 90
BLOCK = 1000  # images drawn at a time
BATCH = 128
TURN = 50  # steps: far more than the batches that are decoded ahead
REMEMBERED = 40  # batches in memory, shown again and again
WARM_UP = 0.1  # of the pass
MOST_WAITING, MOST_GROWTH = 5, 5  # percent


@dataclass(frozen=True)
class Options(Checked):
    """Train one pass over a stream of images."""

    images: Annotated[int, Range(f"at least {BATCH}, a batch", lambda value: value >= BATCH)] = IMAGES
    """Training images of the set."""
    folder: Path | None = None
    """Where the set is, or is drawn; default: in the cache (CNNJAX_CACHE_DIR)."""
    steps: Count | None = None
    """Steps of the pass, at most all; default: all."""
    workers: CountOrZero = 0
    """Processes that decode; 0: threads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        every = -(-self.images // BATCH)
        if self.steps is not None and self.steps > every:
            raise UserError(f"`steps` must be 1 to {every}, a pass over {self.images} images, got {self.steps}")


def main(arguments: list[str]) -> int:
    """Draw the images once, train on their stream, print the table and write the results."""
    (options,) = parse("bench stream", __doc__, arguments, Options)
    if not Path("/proc/self/status").exists():
        raise UserError("bench stream reads its memory from /proc/self/status, which this system does not have")
    use_compilation_cache()
    default = data.cache_dir() / "stream" / f"shapes-{shapes.VERSION}-{IMAGE_SIZE}-{options.images}"
    dataset = load_set(options.folder or default, options.images, options.workers)
    results = measure(dataset, options.steps) | {"workers": options.workers}
    if options.images == IMAGES and options.steps is None:
        write_results("stream", results)
    _print(results)
    return 0


# ---------------------------------------------------------------- the set


def load_set(folder: Path, images: int, workers: int = 0) -> data.Dataset:
    """Return the stream of the set in `folder`, drawn before if it is not there.

    Raises:
        UserError: the folder holds something else, or less than was drawn, or cannot be written.
    """
    try:
        draw_set(folder, images)
    except OSError as error:
        raise UserError(f"cannot draw images to {folder} ({error.strerror}): choose a `folder`") from error
    dataset = data.load(str(folder.absolute()), image_size=IMAGE_SIZE, stream="always", workers=workers)
    if dataset.train.size != images:
        found = f"{dataset.train.size} training images, not the {images} that were drawn"
        raise UserError(f"{folder} holds {found}: delete it, and it is drawn again")
    return dataset


def draw_set(folder: Path, images: int) -> None:
    """Draw `images` training and a hundredth as many test images, every one another, as `folder/SPLIT/CLASS/*.jpg`.

    The same bytes every time. The folder appears in one rename: what a killed process leaves has another name, and is
    drawn anew.
    """
    content = {"shapes": shapes.VERSION, "image_size": IMAGE_SIZE, "quality": QUALITY, "images": images}
    there = runs.read_json(folder / "set.json") if folder.is_dir() else None
    if there == content:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        holds = f"another set ({there}; expected {content})" if there else "something that is no set of this benchmark"
        raise UserError(f"{folder} is or holds {holds}: choose an empty or a new `folder`")
    partial = folder.with_name(f".{folder.name}-partial")
    if partial.exists():
        log.warning("%s was left by a process that did not finish: drawing anew", partial)
        shutil.rmtree(partial)
    blocks = [("train", first, min(BLOCK, images - first)) for first in range(0, images, BLOCK)]
    blocks.append(("test", images, max(images // 100, len(shapes.CLASS_NAMES))))
    for split, name in itertools.product(("train", "test"), shapes.CLASS_NAMES):
        (partial / split / name).mkdir(parents=True)
    for block in track(blocks, "drawing images", console=Console(stderr=True)):
        _draw_block(partial, *block)
    runs.write_json(partial / "set.json", content)
    partial.rename(folder)


def _draw_block(root: Path, split: str, first: int, count: int) -> None:
    drawn = shapes.generate(count, size=IMAGE_SIZE, seed=first)
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True), first):
        file = root / split / shapes.CLASS_NAMES[label] / f"{number:07d}.jpg"
        Image.fromarray(image).save(file, quality=QUALITY)


# ---------------------------------------------------------------- the pass


class Feed:
    """A training fed by some examples, which notes how long it takes and how long the device waits for them."""

    def __init__(self, examples: data.Examples, indices: np.ndarray, weights: np.ndarray):
        parallel = train.Parallel(devices=jax.local_devices()[:1], epoch_program=False)
        model = models.create_model("lecture-cnn", num_classes=len(shapes.CLASS_NAMES), image_size=IMAGE_SIZE)
        step = train.compile_step(model, tasks.Classification(), train.Recipe(), parallel)
        advance = step.over(self)  # type: ignore[arg-type] # all it needs of us is `batches`
        self._examples, self._state = examples, step.start()
        self.steps, self.seconds, self._waited = 0, 0.0, 0.0
        for _, compiled in advance(self._state, indices[:1], weights[:1]):
            self._state = jax.block_until_ready(compiled)
        self._states = advance(self._state, indices, weights)
        self._waited = 0.0  # while it compiled

    def batches(self, indices: np.ndarray, weights: np.ndarray) -> Batches:
        """Yield the examples' batches, as `Examples` do.

        The loop runs ahead of the device, so that a batch is waited for only if all steps before it are done when it
        comes. Its whole time counts then, which is the most that the device can have waited.
        """
        batches = self._examples.batches(indices, weights)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            if self._state.step.is_ready():  # type: ignore[attr-defined]
                self._waited += time.perf_counter() - started
            yield batch

    def turn(self) -> Iterator[None]:
        """Take the next `TURN` steps, as many as there are; yield after each."""
        started = time.perf_counter()
        for _, state in itertools.islice(self._states, TURN):
            self._state = state
            self.steps += 1
            yield
        jax.block_until_ready(self._state)
        self.seconds += time.perf_counter() - started

    @property
    def images_per_second(self) -> float:
        """Images a second so far."""
        return self.steps * BATCH / self.seconds

    @property
    def waiting_percent(self) -> float:
        """Share of the time so far that the device waited."""
        return 100 * self._waited / self.seconds

    @property
    def step_seconds(self) -> float:
        """Time of a step so far, without the waiting."""
        return (self.seconds - self._waited) / self.steps


def measure(dataset: data.Dataset, steps: int | None = None) -> dict[str, Any]:
    """Train one pass over the stream, or its first `steps`, in turns with as many steps from memory."""
    indices, weights = (array[:steps] for array in data.epoch_order(0, 0, dataset.train.size, BATCH))
    memory = _remember(dataset.train, indices[:REMEMBERED].reshape(1, -1))
    again = np.resize(np.arange(memory.size, dtype=np.int32), indices.shape)
    feeds = {"stream": Feed(dataset.train, indices, weights), "memory": Feed(memory, again, weights)}
    held = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=2 * len(indices))
        for _ in range(len(indices) // TURN + 1):  # the last turn finds the end, which ends the workers
            for feed in feeds.values():
                for _ in feed.turn():
                    held.append(resident_memory())
                    progress.advance(task)
    gc.collect()  # Grain's iterators are cycles: the memory they share with workers must go before the process does
    warm, most = max(held[: max(math.ceil(WARM_UP * len(held)), 2 * TURN)]), max(held)
    slower = feeds["stream"].step_seconds / feeds["memory"].step_seconds - 1
    return {
        "images": int(weights.sum()),
        "image_size": IMAGE_SIZE,
        "batch_size": BATCH,
        "images_per_second": {who: feed.images_per_second for who, feed in feeds.items()},
        "waiting_percent": {who: feed.waiting_percent for who, feed in feeds.items()},
        "step_slower_percent": 100 * slower,
        "warm_memory_bytes": warm,
        "most_memory_bytes": most,
        "memory_growth_percent": 100 * (most / warm - 1),
        "most_memory_bytes_by_turn": [max(held[at : at + 2 * TURN]) for at in range(0, len(held), 2 * TURN)],
    }


def _remember(examples: data.Examples, indices: np.ndarray) -> data.Split:
    batch = next(examples.batches(indices, np.ones(indices.shape, np.float32)))
    return data.Split(np.array(batch.images), np.array(batch.labels))


def resident_memory() -> int:
    """Return the bytes that this process and its workers hold in memory."""
    processes = (os.getpid(), *(worker.pid for worker in multiprocessing.active_children()))
    return sum(map(_resident_memory, processes))


def _resident_memory(process: int | None) -> int:
    with contextlib.suppress(OSError, IndexError):  # a worker may end meanwhile
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024
    return 0


def _print(results: dict[str, Any]) -> None:
    images, workers = results["images"], results["workers"]
    rate, waiting = results["images_per_second"], results["waiting_percent"]
    rows = [
        ("images/s, stream", f"{rate['stream']:.0f}", ""),
        ("images/s, memory", f"{rate['memory']:.0f}", ""),
        ("waiting for the stream, % of the time", f"{waiting['stream']:.2f}", f"< {MOST_WAITING}"),
        ("waiting for memory, % of the time", f"{waiting['memory']:.2f}", ""),
        ("steps slower than from memory, %", f"{results['step_slower_percent']:.1f}", ""),
        ("memory after a tenth, MB", f"{results['warm_memory_bytes'] / 1e6:.0f}", ""),
        ("most memory after that, MB", f"{results['most_memory_bytes'] / 1e6:.0f}", ""),
        ("growth, %", f"{results['memory_growth_percent']:.2f}", f"< {MOST_GROWTH}"),
    ]
    print_aims(f"training on {images:,} images from a stream, {workers or 'no'} workers", rows)
