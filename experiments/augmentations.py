"""Every augmentation on photographs, with boxes, masks and keypoints that follow the pixels.

Lecture S2, "Data Augmentation": translation, cropping, changed intensities of RGB channels, scaling and rotation,
mirror images, salt and pepper noise (claim G7; claim G6 trains with them).

    python launch.py augmentations                    # CIFAR-10 where TFDS has it prepared, else two photographs
    python launch.py augmentations --data photographs

Takes about ten seconds. Expect a figure for each family of augmentations, one row for each augmentation with the
original in the first column; for mixing with the changed labels; and a figure of annotated shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnnjax import data, runs, train, viz
from cnnjax.data import augment, shapes
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check, not_run, stored
from cnnjax.lab.experiments import reading
from cnnjax.options import Checked, Seed
from cnnjax.viz.figures import COLOURS
from experiments.bench.timing import result_path

BENCH = "bench augment"
TOGETHER = "the lecture's together"  # in the results of `bench augment`
LECTURE = "translate random-crop zoom rotate:degrees=90 mirror rgb-intensity salt-and-pepper"
FIGURES: dict[str, tuple[str, ...]] = {  # the augmentations of a figure, one in each row
    "geometry": (
        "translate",
        "random-crop",
        "resized-crop",
        "mirror",
        "flip-vertical",
        "rotate:degrees=90",
        "rotate90",
        "zoom",
    ),
    "colour": (
        "rgb-intensity:std=0.5",
        "brightness:amount=0.5",
        "contrast:amount=0.5",
        "saturation:amount=0.8",
        "hue:amount=0.2",
    ),
    "noise": ("gaussian-noise", "salt-and-pepper", "cutout:size=16"),
    "mixing": ("mixup:alpha=1", "cutmix"),
    "policies": ("rand-augment", "rand-augment:magnitude=20", LECTURE),
}
MOVED = ("translate", "random-crop:padding=8", "resized-crop", "mirror", "rotate:degrees=90", "zoom:scale=0.5..1.5")
COLUMNS = 8
SIDE = 64  # of the pieces of photographs and of the shapes, in pixels
MOST_PERCENT = 10  # of a training step, for the lecture's augmentations together

Picture = tuple[jax.Array, str]  # (H, W, 3), and its title


@dataclass(frozen=True)
class Config(Checked):
    """Draw every augmentation."""

    data: str = field(default_factory=lambda: "cifar10" if data.is_prepared("cifar10") else "photographs")
    """photographs (scikit-learn's), or a data set; default: cifar10 where it is prepared."""
    seed: Seed = 0
    """Decides what is drawn."""


def load(config: Config) -> np.ndarray:
    """Return eight colour images, bytes (8, H, W, 3)."""
    if config.data == "photographs":
        return _pieces()
    images = np.asarray(data.load(config.data).train.first(COLUMNS).images)
    if images.shape[0] < COLUMNS or images.shape[1] != images.shape[2]:
        raise UserError(f"data set {config.data!r}: expected {COLUMNS} square images or more, got {images.shape}")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _pieces() -> np.ndarray:
    """Return eight squares of scikit-learn's two photographs, four from each."""
    photographs = [data.photograph(name) for name in data.PHOTOGRAPHS]
    side, places = 256, [(60, 20), (150, 180), (171, 330), (40, 384)]
    pieces = np.stack([photo[y : y + side, x : x + side] for y, x in places for photo in photographs])
    return pieces.reshape(len(pieces), SIDE, side // SIDE, SIDE, side // SIDE, 3).mean((2, 4)).astype(np.uint8)


def run(config: Config, images: np.ndarray, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Draw the figures, and return how much each augmentation changes an image, and whether masks stay in boxes."""
    keys = iter(jax.random.split(jax.random.key(config.seed), 100))  # one for each row
    floats = jnp.asarray(images / np.float32(255))
    changes: dict[str, float] = {}
    for name, lines in FIGURES.items():
        rows: dict[str, list[Picture]] = {}
        for number, line in enumerate(lines):
            one = jnp.broadcast_to(floats[3 * number % COLUMNS], floats[1:].shape)
            sample = augment.Sample(floats, jnp.eye(COLUMNS)) if name == "mixing" else augment.Sample(one)
            result = jax.jit(augment.parse(line))(next(keys), sample)
            changes[line] = float(jnp.abs(result.images - sample.images).mean())
            rows[line] = _pictures(result) if name == "mixing" else [(one[0], "original"), *_pictures(result)]
        if name == "mixing":
            rows = {"originals": [(image, str(number)) for number, image in enumerate(floats)], **rows}
        viz.save(_sheet(rows), run.figures / f"{name}.png")
    sample = shapes_sample(config.seed)
    moved = {line: jax.jit(augment.parse(line))(next(keys), sample) for line in MOVED}
    viz.save(_annotated({"original": sample, **moved}), run.figures / "annotations.png")
    return {
        "data": {"name": config.data, "image": list(images.shape[1:])},
        "mean_change": changes,
        "mask_in_box": {line: _mask_in_box(result) for line, result in moved.items()},
    }


def shapes_sample(seed: int) -> augment.Sample:
    """Return eight generated shapes with boxes, masks, and every second point of their outlines as keypoints."""
    drawn = shapes.generate(COLUMNS, size=SIDE, seed=seed)
    outlines = SIDE * drawn.outlines[:, ::2, ::-1]
    return augment.Sample(
        jnp.asarray(drawn.images / np.float32(255)),
        boxes=jnp.asarray(SIDE * drawn.boxes[:, None, [1, 0, 3, 2]]),
        masks=jnp.asarray(drawn.masks),
        keypoints=jnp.asarray(np.concatenate([outlines, np.ones_like(outlines[..., :1])], -1)),
    )


def _mask_in_box(sample: augment.Sample) -> float:
    """Return the share of the masks' pixels whose centres lie in their boxes."""
    masks, boxes = np.asarray(sample.masks), np.asarray(sample.boxes)[:, 0, :, None, None]
    y, x = np.mgrid[: masks.shape[1], : masks.shape[2]] + 0.5
    x0, y0, x1, y1 = boxes.transpose(1, 0, 2, 3)
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return float((masks & inside).sum() / masks.sum())


# ---------------------------------------------------------------- figures


def _pictures(result: augment.Sample) -> list[Picture]:
    """The images, with their labels as titles if they have any."""
    if result.labels is None:
        return [(image, "") for image in result.images]
    shares = [
        " + ".join(f"{row[k]:.2f} of {k}" for k in np.flatnonzero(row > 0.005)) for row in np.asarray(result.labels)
    ]
    return list(zip(result.images, shares, strict=True))


def _sheet(rows: dict[str, list[Picture]]) -> Figure:
    figure = Figure(figsize=(1.5 * COLUMNS, 1.75 * len(rows)), layout="constrained")
    for part, (line, pictures) in zip(_parts(figure, len(rows)), rows.items(), strict=True):
        part.suptitle(line, fontsize=10, x=0.01, ha="left")
        for axes, (image, title) in zip(_cells(part, len(pictures)), pictures, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_title(title, fontsize=7)
    return figure


def _annotated(rows: dict[str, augment.Sample]) -> Figure:
    figure = Figure(figsize=(1.5 * COLUMNS, 1.75 * len(rows)), layout="constrained")
    for part, (line, sample) in zip(_parts(figure, len(rows)), rows.items(), strict=True):
        part.suptitle(line, fontsize=10, x=0.01, ha="left")
        parts = (np.asarray(x) for x in (sample.images, sample.boxes, sample.masks, sample.keypoints))
        for axes, image, ((x0, y0, x1, y1),), mask, points in zip(_cells(part, COLUMNS), *parts, strict=True):
            height, width = mask.shape
            axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest")
            axes.imshow(np.ma.masked_where(~mask, mask), extent=(0, width, height, 0), cmap="cool", alpha=0.35)
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=COLOURS[1], linewidth=1.4))
            seen = points[:, 2] > 0
            order = np.flatnonzero(seen) / len(points)  # along the outline, reversed in a mirror image
            axes.scatter(*points[seen, :2].T, s=4, c=order, cmap="viridis", vmin=0, vmax=1)
            axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _parts(figure: Figure, count: int) -> Sequence[Any]:
    return np.atleast_1d(np.asarray(figure.subfigures(count, 1), dtype=object)).tolist()


def _cells(part: Any, count: int) -> list[Axes]:
    cells = [part.add_subplot(1, count, number + 1) for number in range(count)]
    for axes in cells:
        axes.set_axis_off()
    return cells


# ---------------------------------------------------------------- results


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of how much each augmentation changes an image, and whether masks stay in boxes."""
    changes = {line: f"{change:.3f}" for line, change in summary["mean_change"].items()}
    inside = {line: f"{share:.1%}" for line, share in summary["mask_in_box"].items()}
    rows = [(line, changes.get(line, ""), inside.get(line, "")) for line in changes | inside]
    return markdown.table(("augmentation", "mean change of a value", "mask inside its box"), rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claim G7, whose time another command measures: it is read from `bench augment`'s results, not the summary.

    The file is results/bench/augment.json.
    """
    statement = "augmentation can be done with minimal computation cost inside the training process"
    path = result_path("augment", ".json")
    measured = runs.read_json(path)
    if measured is None:
        return stored(
            BENCH, not_run("G7", statement, f"needs {path.name}, which python launch.py bench augment writes")
        )
    with reading(path):
        together = next(row for row in measured["rows"] if row["name"] == TOGETHER)
        milliseconds, percent = together["milliseconds"], together["percent_of_step"]
    return stored(
        BENCH,
        check(
            "G7",
            statement,
            "minimal",
            f"{milliseconds:.1f} ms for a batch of 128, {percent:.1f} % of a step of the lecture's CNN",
            percent <= MOST_PERCENT,
            f"all of the lecture's together at most {MOST_PERCENT} % of a step",
        ),
    )
