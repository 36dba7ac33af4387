"""A fully connected and a convolutional network side by side on small images: fewer parameters, better accuracy.

Lecture S0, "CNNs vs. FCNs" (claims A1 to A6): both networks learn CIFAR-10 as Keras would train them. Inputs are
scaled to [0, 1], the last 30 % of the training images are held out for validation, batches are of 128, the optimiser
is Adam with Keras's defaults. After 20 epochs the convolutional network is ahead, with a quarter of the parameters.

    python launch.py fcn-vs-cnn                    # CIFAR-10 where TFDS has it prepared, else the generated shapes
    python launch.py fcn-vs-cnn --data shapes      # needs no network; about a minute and a half on two cores
    python launch.py fcn-vs-cnn --data cifar10 --seeds 3

Expect on CIFAR-10 about 66 % (CNN) against 50 % (FCN), and a CNN that memorises its training images (98 %) while its
validation loss doubles. Three seeds take about 40 minutes on two cores.
"""

import csv
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from cnnjax import data, models, runs, tasks, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import ROUNDING, Claim, check, not_run, stored
from cnnjax.options import Fraction
from cnnjax.viz.figures import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure
EXPERIMENT = "fcn-vs-cnn"
MODELS = ("lecture-fcn", "lecture-cnn")
LECTURE_ACCURACY = {"lecture-fcn": 0.496, "lecture-cnn": 0.6647}
NINE = "nine-images.png"
SMALLEST_IMAGE = 12  # three valid 3x3 convolutions and a pooling leave one pixel
POINTS = 0.025  # how far a test accuracy may be from the lecture's: seeds, and JPEG copies of the data


@dataclass(frozen=True)
class Config(train.Recipe, tasks.ClassificationLoss, data.Source):
    """Train a fully connected and a convolutional network and compare them."""

    data: str = field(default_factory=lambda: "cifar10" if data.is_prepared("cifar10") else "shapes")
    """shapes, digits, a TFDS set, or a folder: of train, val and test, each with CLASS/*.jpg, or CLASS/*.jpg alone;
    default: cifar10 where it is prepared, else shapes."""
    validation_split: Fraction = 0.3
    """Share of the training images held out to validate on, the last ones; of a folder without validation images, by
    the names of the files."""


def load(config: Config) -> data.Dataset:
    """Return the data set; raise a UserError if the config does not fit it."""
    dataset = config.dataset()
    height, width, _ = dataset.image_shape
    if height != width or height < SMALLEST_IMAGE:
        raise UserError(
            f"data set {config.data!r} has {height}x{width} images; expected squares, at least {SMALLEST_IMAGE} pixels"
        )
    builds = {name: partial(_build, name, dataset) for name in MODELS}
    train.check_training(builds, _task(config, dataset), config, dataset.train)
    return dataset


def run(config: Config, dataset: data.Dataset, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Train both networks with every seed, draw the figures, and return the summary."""
    task, trained, training, validation = _task(config, dataset), {}, dataset.train, dataset.validation
    assert validation is not None  # `validation_split` is never None here
    for name in MODELS:
        build = partial(_build, name, dataset)
        options: Any = {"run": run, "name": name, "parallel": parallel}
        trained[name] = [
            # Optimiser states are two thirds of the memory, and not needed any more.
            (fit._replace(state=fit.state._replace(opt_state=())), _test(fit, task, config, dataset, parallel))
            for fit in train.fit_seeds(build, task, config, training, validation, **options)
        ]
    if run.writes:
        _draw(run.figures, dataset, trained)
    states = [fit.state.params for runs in trained.values() for fit, _ in runs]
    return {
        "data": {
            "name": dataset.name,
            "version": dataset.version,
            "counts": {"training": training.size + validation.size, "test": dataset.test.size},
            "first_nine": [dataset.class_names[label] for label in dataset.train.first(9).labels],
        },
        "models": {name: _describe(name, dataset, runs) for name, runs in trained.items()},
        "params_sha256": train.tree_sha256(states),
    }


def _build(name: str, dataset: data.Dataset, seed: int) -> models.Module:
    height, _, channels = dataset.image_shape
    return models.create_model(
        name, num_classes=len(dataset.class_names), in_channels=channels, image_size=height, seed=seed
    )


def _task(config: Config, dataset: data.Dataset) -> tasks.Classification:
    return tasks.Classification(config, dataset.class_names)


def _test(
    fit: train.Fit, task: tasks.Task, config: Config, dataset: data.Dataset, parallel: train.Parallel
) -> train.Evaluation:
    options: Any = {"precision": config.precision, "parallel": parallel}
    return train.evaluate(fit.network, fit.state, task, dataset.test, **options)


def _describe(name: str, dataset: data.Dataset, runs: list[tuple[train.Fit, train.Evaluation]]) -> dict[str, Any]:
    """Return a network's part of the summary: layers, curves averaged over seeds, test results by seed."""
    rows = models.layer_rows(_build(name, dataset, 0), dataset.image_shape)
    curves = {key: np.mean([fit.history[key] for fit, _ in runs], axis=0) for key in runs[0][0].history}
    accuracies = [evaluation.figures["accuracy"] for _, evaluation in runs]
    return {
        "params": sum(row.params for row in rows),
        "multiply_adds": sum(row.macs for row in rows),
        "test_accuracy": statistics.mean(accuracies),
        "test_accuracy_by_seed": accuracies,
        "test_loss": statistics.mean(evaluation.figures["loss"] for _, evaluation in runs),
        "step_ms": min(value for fit, _ in runs for value in fit.history["train/step_ms"]),  # the least disturbed epoch
        "train_seconds": sum(value for fit, _ in runs for value in fit.history["train/seconds"]),
        "curves": {key: [round(float(value), 5) for value in values] for key, values in curves.items()},
        "params_sha256": [train.tree_sha256(fit.state.params) for fit, _ in runs],
    }


def _draw(folder: Path, dataset: data.Dataset, trained: dict[str, list[tuple[train.Fit, train.Evaluation]]]) -> None:
    nine = dataset.train.first(9)
    viz.save(_nine_images(nine.images, [dataset.class_names[label] for label in nine.labels]), folder / NINE)

    panels: dict[str, list[Curve]] = {}
    lecture = lecture_curves() if dataset.name == "cifar10" else {}
    for quantity in ("loss", "accuracy"):
        for colour, name in enumerate(MODELS):
            for split, style in (("train", "-"), ("validation", "--")):
                key = f"{split}/{quantity}"
                values = np.array([fit.history[key] for fit, _ in trained[name]])
                panels.setdefault(quantity, []).append(Curve(f"{name} {split}", values, colour, style))
                if lecture:
                    theirs = Curve(
                        f"lecture's, {name} {split}", lecture[name][key], 2 * colour + 2 + (split == "train"), ":"
                    )
                    panels[quantity].append(theirs)
    viz.save(viz.curves(panels), folder / "curves.png")

    confusions = {
        name: np.sum([evaluation.sums["confusion"].astype(int) for _, evaluation in runs], axis=0)
        for name, runs in trained.items()
    }
    viz.save(viz.confusion_matrices(confusions, dataset.class_names), folder / "confusion.png")

    sizes = {name: models.count_params(_build(name, dataset, 0)) for name in MODELS}
    points = {
        name: (sizes[name], statistics.mean(evaluation.figures["accuracy"] for _, evaluation in trained[name]))
        for name in MODELS
    }
    hollow = {f"lecture's {name}": (sizes[name], LECTURE_ACCURACY[name]) for name in MODELS} if lecture else {}
    viz.save(viz.tradeoff(points, hollow), folder / "accuracy-against-parameters.png")

    first_layer = trained["lecture-cnn"][0][0].state.params["conv1"]["kernel"]
    viz.save(viz.kernels(np.asarray(first_layer)), folder / "first-layer-kernels.png")


def _nine_images(images: np.ndarray, titles: list[str]) -> "Figure":
    return viz.image_grid(images, titles, columns=3)


def lecture_curves() -> dict[str, dict[str, np.ndarray]]:
    """Return the curves of the lecture's training log by network and name, such as "train/loss", a value per epoch."""
    with (Path(__file__).parent / "fcn_vs_cnn.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = [key for key in rows[0] if "/" in key]
    return {
        name: {key: np.array([float(row[key]) for row in rows if row["model"] == name]) for key in keys}
        for name in MODELS
    }


def table(summary: dict[str, Any]) -> str:
    """Return the results as a Markdown table, beside the lecture's where the data is the lecture's."""
    lecture = summary["data"]["name"] == "cifar10"
    head = ["network", "parameters", "test accuracy", "training", "validation", "step (fastest epoch)"]
    rows = []
    for name, result in summary["models"].items():
        accuracies = result["test_accuracy_by_seed"]
        spread = f" ± {statistics.stdev(accuracies):.1%} ({len(accuracies)} seeds)" if len(accuracies) > 1 else ""
        row = [
            name,
            f"{result['params']:,}",
            f"{result['test_accuracy']:.1%}{spread}",
            f"{result['curves']['train/accuracy'][-1]:.1%}",
            f"{result['curves']['validation/accuracy'][-1]:.1%}",
            f"{result['step_ms']:.1f} ms",
        ]
        rows.append(row + ([f"{LECTURE_ACCURACY[name]:.1%}"] if lecture else []))
    return markdown.table(head + (["lecture's test"] if lecture else []), rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims A1 to A6: structure and values are computed here, accuracies read from a finished run on CIFAR-10.

    Where TFDS has CIFAR-10 prepared, its first nine images are read for A6.
    """
    apart = {name: _distance_from_numpy(name) for name in MODELS}
    checked = [_structure(*row, apart=apart[row[1]]) for row in STRUCTURES]
    if summary is None or summary["data"]["name"] != "cifar10":
        reason = "needs a finished run with --data cifar10"
        return checked + stored(EXPERIMENT, *(not_run(id, text, reason) for id, text in MEASURED.items()))
    results = summary["models"]
    fcn, cnn = results["lecture-fcn"], results["lecture-cnn"]
    accuracies = [_accuracy(name, results[name], apart[name]) for name in MODELS]
    measured = [*accuracies, _overfits(cnn["curves"]), _smaller_and_better(fcn, cnn), _picture(summary)]
    return checked + stored(EXPERIMENT, *measured)


def _accuracy(name: str, result: dict[str, Any], apart: float) -> Claim:
    ours, lecture = result["test_accuracy"], LECTURE_ACCURACY[name]
    epochs = len(result["curves"]["train/loss"])
    return check(
        "A3",
        f"{name}: test accuracy after 20 epochs, of a network that computes what the lecture's layers do",
        f"{lecture:.2%}",
        f"{ours:.2%} after {epochs} epochs; logits {apart:.0e} from NumPy's",
        abs(ours - lecture) <= POINTS and epochs == 20 and apart <= ROUNDING,
        f"{100 * POINTS} points; logits {ROUNDING:g}",
    )


MEASURED = {
    "A3": "test accuracy after 20 epochs",
    "A4": "the CNN overfits",
    "A5": "fewer parameters and better accuracy at once",
    "A6": "the first nine training images as a 3x3 picture",
}

LAYERS = ("conv1", "conv2", "conv3", "dense1", "dense2")
# id, model, output shapes (None: not printed) and parameters of the layers that the lecture prints, and its total
STRUCTURES = (
    ("A1", "lecture-fcn", None, [6_293_504, 2_098_176, 524_800, 65_664, 1_290], 8_983_434),
    (
        "A2",
        "lecture-cnn",
        [(30, 30, 32), (15, 15, 32), (13, 13, 64), (11, 11, 128), (15488,), (128,), (10,)],
        [896, 0, 18_496, 73_856, 0, 1_982_592, 1_290],
        2_077_130,
    ),
)


def _structure(
    id: str, name: str, shapes: list[tuple[int, ...]] | None, params: list[int], total: int, *, apart: float
) -> Claim:
    rows = models.layer_rows(nnx.eval_shape(lambda: models.create_model(name, num_classes=10)), (32, 32, 3))
    if shapes is None:  # Keras takes vectors here, so its table has no line for flattening
        rows = [row for row in rows if row.kind == "Linear"]
    ours = [row.params for row in rows]
    same_shapes = shapes is None or [row.output_shape for row in rows] == shapes
    return check(
        id,
        f"{name}: {'output shapes and ' if shapes else ''}parameters of every layer and in total; its logits are those "
        "of the lecture's layers, ReLUs included, in NumPy",
        f"{', '.join(f'{count:,}' for count in params)}; total {total:,}",
        f"{', '.join(f'{count:,}' for count in ours)}; total {sum(ours):,}; logits {apart:.0e} apart",
        ours == params and sum(ours) == total and same_shapes and apart <= ROUNDING,
        f"exact; logits {ROUNDING:g} of the largest",
    )


def _distance_from_numpy(name: str) -> float:
    """Return how far a network's logits are from the lecture's layers in NumPy in float64, over the largest logit."""
    model: Any = models.create_model(name, num_classes=10)
    layers = [*model.dense] if name == "lecture-fcn" else [getattr(model, layer) for layer in LAYERS]
    kernels = [np.asarray(layer.kernel[...], float) for layer in layers]
    images = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)
    x: np.ndarray = images.astype(float)
    for number, kernel in enumerate(kernels):  # biases start at 0
        if kernel.ndim == 4:
            windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
            x = np.einsum("nhwcab,abco->nhwo", windows, kernel, optimize=True)
        else:
            x = x.reshape(len(x), -1) @ kernel
        x = np.maximum(x, 0) if number < len(kernels) - 1 else x
        if kernel.ndim == 4 and number == 0:  # 2x2 max pooling
            x = x.reshape(4, 15, 2, 15, 2, -1).max((2, 4))
    model.eval()
    return float(np.abs(np.asarray(nnx.jit(lambda model, x: model(x))(model, images)) - x).max() / np.abs(x).max())


def _overfits(curves: dict[str, list[float]]) -> Claim:
    train_accuracy, accuracy = curves["train/accuracy"][-1], curves["validation/accuracy"][-1]
    losses = curves["validation/loss"]
    lowest, last = min(losses), losses[-1]
    return check(
        "A4",
        "the CNN overfits: training accuracy far above validation's, validation loss falls, then rises",
        "accuracy 0.98 against 0.68; validation loss 0.94 (epoch 5), then 2.14",
        f"accuracy {train_accuracy:.2f} against {accuracy:.2f}; validation loss {lowest:.2f} "
        f"(epoch {losses.index(lowest) + 1}), then {last:.2f}",
        abs(train_accuracy - 0.98) <= 0.03
        and abs(accuracy - 0.68) <= 0.03
        and abs(lowest - 0.94) <= 0.1
        and 3 <= losses.index(lowest) + 1 <= 8
        and last >= 2 * lowest,
        "accuracies 0.03; lowest loss 0.1, at epoch 3 to 8, and at least doubled at the end",
    )


def _smaller_and_better(fcn: dict[str, Any], cnn: dict[str, Any]) -> Claim:
    return check(
        "A5",
        MEASURED["A5"],
        "CNN 2M and 66.5 %, FCN 9M and 49.6 %",
        f"CNN {cnn['params'] / 1e6:.0f}M and {cnn['test_accuracy']:.1%}, "
        f"FCN {fcn['params'] / 1e6:.0f}M and {fcn['test_accuracy']:.1%}",
        round(cnn["params"] / 1e6) == 2
        and round(fcn["params"] / 1e6) == 9
        and cnn["test_accuracy"] >= fcn["test_accuracy"] + 0.1,
        "parameters to the million; accuracy ahead by at least 10 points",
    )


def _picture(summary: dict[str, Any]) -> Claim:
    """A6: what is drawn of the data set's first nine images, as TFDS itself reads them, or of noise where it cannot."""
    names, images = summary["data"]["first_nine"], np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    prepared, labels = data.is_prepared("cifar10"), list(names)
    if prepared:
        import tensorflow_datasets as tfds

        records = list(tfds.data_source("cifar10", split="train[:9]"))
        images = np.stack([record["image"] for record in records])
        labels = [tfds.builder("cifar10").info.features["label"].int2str(record["label"]) for record in records]
    drawn = _nine_images(images, labels).axes
    corners = [(-round(axes.get_position().y0, 3), axes.get_position().x0) for axes in drawn]
    rows = len({height for height, _ in corners})
    same = corners == sorted(corners) and all(
        np.array_equal(np.asarray(axes.get_images()[0].get_array()), image)
        for axes, image in zip(drawn, images, strict=False)
    )
    return check(
        "A6",
        MEASURED["A6"],
        "the first nine images of CIFAR-10 in three rows",
        f"figures/{NINE}: {', '.join(names)}, in {rows} rows"
        + ("; the first nine records of TFDS" if prepared else "; not compared with the data set, which is not here"),
        same and rows == 3 and len(drawn) == 9 and names == labels,
        "pixels and labels exact; TFDS has another order than Keras, so that they are other images than the lecture's",
    )
