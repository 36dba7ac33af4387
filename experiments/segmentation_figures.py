"""The figures and the tables of the experiment `segmentation`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cnnjax import viz
from cnnjax.data.augment import Sample
from cnnjax.lab import markdown
from cnnjax.viz import Lines, Picture
from cnnjax.viz.figures import COLOURS, blank
from experiments import checkerboard
from experiments.segmentation import DECK, POOLED

COLUMNS = {  # of the table: a figure's name in words, and how it is written
    "params": ("parameters", ",d"),
    "multiply_adds": ("multiply-adds", ",d"),
    "mean_iou": ("mean IoU", ".1%"),
    "pixel_accuracy": ("pixel accuracy", ".1%"),
    "boundary_f1": ("boundary F1", ".1%"),
    "thin_accuracy": ("thin regions", ".1%"),
    "image_ms": ("one image", ".0f"),
    "step_ms": ("training step (fastest epoch)", ".0f"),
}
BARS = ("mean_iou", "boundary_f1", "thin_accuracy")


def draw(
    folder: Path,
    batch: Sample,
    class_names: Sequence[str],
    masks: Mapping[str, np.ndarray],
    networks: Mapping[str, Any],
    logits: Mapping[str, np.ndarray],
) -> None:
    """Write every figure into a folder.

    Args:
        folder: for the files.
        batch: test images with their masks.
        class_names: what the classes are called.
        masks: predicted, by network.
        networks: what was measured of each.
        logits: of the encoder-decoders for scenes, by kernel.
    """
    images, truth = np.asarray(batch.images), {"ground truth": np.asarray(batch.masks)}
    deck = {name: masks[name] for name in DECK}
    viz.save(viz.segmentations(images, deck | truth, class_names), folder / "side-by-side.png")
    pair = {name: masks[name] for name in ("DeepLab", POOLED)}
    viz.save(viz.segmentations(images, pair | truth, class_names), folder / "dilation.png")
    viz.save(_bars(networks), folder / "figures.png")
    viz.save(_learning(networks), folder / "learning.png")
    viz.save(_boards(logits), folder / "checkerboards.png")
    viz.save(_spectra(logits), folder / "spectra.png")


def _bars(networks: Mapping[str, Any]) -> Figure:
    figure = blank(1.5 * len(networks) + 1.5, 3.4)
    axes = figure.add_subplot()
    width = 0.8 / len(BARS)
    for number, key in enumerate(BARS):
        values = np.array([one[key] for one in networks.values()])
        places = np.arange(len(values)) + (number - 1) * width
        axes.bar(places, values, width, color=COLOURS[number], label=COLUMNS[key][0])
        for place, value in zip(places, values, strict=True):
            axes.text(place, value, f"{value:.0%}", ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(networks)), [name.replace(", ", ",\n") for name in networks], fontsize=8)
    axes.set(ylim=(0, 1.1), title="Test images: regions, their boundaries, and what is thin")
    axes.legend(fontsize=8, ncols=3, loc="upper center")
    return figure


def _learning(networks: Mapping[str, Any]) -> Figure:
    lines = {name: (np.arange(1, len(one["curve"]) + 1), np.array(one["curve"])) for name, one in networks.items()}
    return viz.line_plots([Lines("Mean IoU of the validation images", ("epoch", "mean IoU"), lines)], size=(6.4, 3.6))


def _boards(logits: Mapping[str, np.ndarray]) -> Figure:
    rows = {
        f"{kernel} transposed convolutions, stride 2: the background's logits": [
            Picture(image[..., 0], limits=tuple(np.quantile(image[..., 0], (0.02, 0.98)))) for image in images[:5]
        ]
        for kernel, images in logits.items()
    }
    return viz.picture_rows(rows, size=1.7)


def _spectra(logits: Mapping[str, np.ndarray]) -> Figure:
    lines = {kernel: checkerboard.spectrum(images) for kernel, images in logits.items()}
    labels = ("frequency (1 / pixels)", "share of the power")
    return viz.line_plots([Lines("Logits of trained encoder-decoders", labels, lines, ("linear", "log"))])


def tables(summary: dict[str, Any]) -> str:
    """Return the networks' figures and the IoU of each class as Markdown tables."""
    networks = summary["networks"]
    rows = []
    for name, one in networks.items():
        cells = [format(one[key], form) + (" ms" if key.endswith("_ms") else "") for key, (_, form) in COLUMNS.items()]
        if len(one["by_seed"]) > 1:
            every = [seed["mean_iou"] for seed in one["by_seed"]]
            cells[2] += f" ± {statistics.stdev(every):.1%} ({len(every)} seeds)"
        rows.append([name, *cells])
    classes = next(iter(networks.values()))["iou"]
    ious = [[label, *(_share(one["iou"][label]) for one in networks.values())] for label in classes]
    boards = [
        [kernel, "yes" if int(kernel[0]) % 2 == 0 else "no", f"{one['peak']:.2f}", f"{one['mean_iou']:.1%}"]
        for kernel, one in summary["checkerboards"].items()
    ]
    size = "x".join(map(str, summary["data"]["score_size"]))
    return "\n\n".join(
        [
            f"{summary['data']['test']} test images of {summary['data']['name']}, masks of {size} pixels; backbone "
            f"{summary['backbone']}:",
            markdown.table(["network", *(title for title, _ in COLUMNS.values())], rows),
            "IoU of each class:",
            markdown.table(["class", *networks], ious),
            "Encoder-decoders on generated scenes, by the kernel of their transposed convolutions with a stride of 2:",
            markdown.table(
                ["kernel", "divisible by the stride", "power at the stride's frequency", "mean IoU"], boards
            ),
        ]
    )


def _share(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.1%}"
