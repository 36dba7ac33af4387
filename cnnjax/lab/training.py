"""Train any network of the zoo on any labelled images: a folder of your own, a TFDS set, or generated ones.

    python launch.py train --model resnet18 --data path/to/folder --image-size 64 --epochs 20
    python launch.py train --model resnet18 --data cifar10 --augment "random-crop:padding=4 mirror" --schedule cosine
    python launch.py train --model resnet18 --data path/to/folder --image-size 224 --pretrained resnet18

It is a run like any other: the same command resumes it. Besides, its directory has weights.safetensors, the network of
the epoch that is the best by validation, and model.json; `predict`, `evaluate` and `export` take the directory. Figures
are the curves, the confusion matrix and the most confident mistakes on the test images.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import data, models, runs, tasks, train, viz
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim
from cnnjax.lab.starting import Pretrained, started_from
from cnnjax.models.registry import lookup
from cnnjax.options import Fraction
from cnnjax.runs.hardware import describe_versions
from cnnjax.tasks.task import Outputs
from cnnjax.train.lengths import stopped_early
from cnnjax.train.state import count_steps
from cnnjax.viz.figures import Curve

TOP = 5  # classes among which "top5" looks for the true one, where there are more
MISTAKES = 12  # that are shown
MOST_CLASSES = 60  # that a confusion matrix shows legibly


@dataclass(frozen=True)
class Config(train.Recipe, tasks.ClassificationLoss, data.Source):
    """Train a network on labelled images."""

    task: Literal["classification"] = "classification"
    """What the network learns."""
    model: str = "resnet18"
    """Network; `models` lists all of them."""
    validation_split: Fraction = 0.1
    """Share of the training images held out for validation, by which the best epoch is chosen."""
    pretrained: Pretrained = ""
    """Weights to start from, with the normalisation that they were trained with, unless `mean` and `std` are given;
    where they are for other classes, the layer that computes the logits starts anew."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds != 1:
            raise UserError(
                f"`seeds` must be 1, got {self.seeds}: a run of train is one network; several are the cells of a "
                "sweep, as with sweep train --grid seed=0,1,2"
            )


class Loaded(NamedTuple):
    """The data, the network with its initial parameters, the arguments that it was built with, and the recipe.

    The recipe is the config, with the normalisation of the weights that the training starts from.
    """

    dataset: data.Dataset
    training: data.Examples
    validation: data.Examples
    model: models.Module
    arguments: dict[str, Any]
    recipe: Config


class Judged(tasks.Classification):
    """Classification that also counts how often the true class is among the five most probable ones."""

    def measure(self, outputs: Outputs, batch: Sample) -> dict[str, jax.Array]:
        measured = super().measure(outputs, batch)
        if outputs.shape[-1] > TOP:
            _, best = jax.lax.top_k(outputs, TOP)
            found = (best == jnp.asarray(batch.labels)[:, None]).any(1)
            measured["top5"] = jnp.sum(found * batch.weights)
        return measured


class Reviewed(Judged):
    """The same, with the predictions of every image."""

    gathers = True


def load(config: Config) -> Loaded:
    """Return data and network; raise a UserError if they do not fit."""
    if config.model not in models.list_models(task=config.task):
        if config.model in models.list_models():
            raise UserError(
                f"{config.model} is a network for {lookup(config.model).task}: choose one for {config.task}, which "
                f"`models --task {config.task}` lists"
            )
        raise unknown_name("`model`", config.model, models.list_models(task=config.task))
    dataset = config.dataset()
    training, validation = parts_of(dataset, config.validation_split)
    if not validation.size:
        raise UserError(
            f"`validation_split={config.validation_split}` of {dataset.train.size} images is none: give a larger share"
        )
    arguments = arguments_for(config.model, dataset)

    def build(seed: int) -> models.Module:
        return models.create_model(config.model, **arguments, seed=seed)

    try:
        train.check_training({config.model: build}, _task(config, dataset), config, training)
    except UserError:
        raise
    except ValueError as error:  # of the network's arguments
        raise UserError(f"{config.model} cannot be built for images of {dataset.image_shape} ({error})") from error
    if not config.pretrained:
        return Loaded(dataset, training, validation, build(config.seed), arguments, config)
    start = started_from(config, arguments)
    recipe = replace(config, mean=start.mean, std=start.std)
    return Loaded(dataset, training, validation, start.model, arguments, recipe)


def parts_of(dataset: data.Dataset, share: float) -> tuple[data.Examples, data.Examples]:
    """Return the training and the validation images: the data set's own, or a share of the training images."""
    own = dataset.validation
    return data.hold_out(dataset.train, share) if own is None else (dataset.train, own)


def arguments_for(name: str, dataset: data.Dataset) -> dict[str, Any]:
    """Return what `create_model` takes for the images and classes of a data set."""
    height, width, channels = dataset.image_shape
    arguments: dict[str, Any] = {"num_classes": len(dataset.class_names), "in_channels": channels}
    if takes_image_size(name):
        if height != width:
            raise UserError(f"{name} takes square images, and data set {dataset.name!r} has {height}x{width}")
        arguments["image_size"] = height
    return arguments


def takes_image_size(name: str) -> bool:
    """Return whether a network is built for images of one size."""
    build: Any = lookup(name).build
    build = getattr(build, "func", build)  # of a partial
    return "image_size" in inspect.signature(vars(build)["__init__"] if isinstance(build, type) else build).parameters


def run(config: Config, loaded: Loaded, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Train, evaluate the best epoch on all splits, write the network and the figures, and return the summary."""
    dataset, task, about = loaded.dataset, _task(config, loaded.dataset), describe(config, loaded)
    if run.writes:  # what is there is of the same training, stopped, or finished with fewer epochs
        so_far = runs.read_json(run.path / train.trained.MODEL) or about
        runs.write_json(run.path / train.trained.MODEL, {**so_far, "finished": False})
    keep = train.KeepBest(loaded.model, run, task, about)
    options: Any = {"run": run, "parallel": parallel, "callbacks": [keep]}
    fit = train.fit(loaded.model, task, loaded.recipe, loaded.training, loaded.validation, **options)
    best = train.best_state(fit, run)
    splits = {"train": loaded.training, "validation": loaded.validation, "test": dataset.test}
    judges = {"train": Judged, "validation": Judged, "test": Reviewed}
    options = {"precision": config.precision, "parallel": parallel}
    judged = {
        name: train.evaluate(fit.network, best, judges[name](config, dataset.class_names), examples, **options)
        for name, examples in splits.items()
    }
    metrics = {name: evaluation.figures for name, evaluation in judged.items()}
    steps = -(-loaded.training.size // config.batch_size)
    epoch, last = count_steps(best) // steps, count_steps(fit.state) // steps
    early = stopped_early(last, config.epochs, task.best, config.patience or 0)
    if run.writes:
        model = fit._replace(state=best).model()
        train.trained.save(run.path, model, {**about, "epoch": epoch, "metrics": metrics, "finished": True})
        draw(run.figures, dataset, fit.history, judged["test"])
    return {
        "data": {"name": dataset.name, "version": dataset.version, "classes": len(dataset.class_names)},
        "images": {name: examples.size for name, examples in splits.items()},
        "model": config.model,
        "params": models.count_params(loaded.model),
        "best_epoch": epoch,
        "epochs": last,
        "stopped": early if last < config.epochs else None,
        "metrics": metrics,
        "test_accuracy": metrics["test"]["accuracy"],
        "train_seconds": sum(fit.history["train/seconds"]),
        "params_sha256": train.tree_sha256(fit.state.params),
    }


def _task(config: Config, dataset: data.Dataset) -> tasks.Classification:
    return tasks.Classification(config, dataset.class_names)


def describe(config: Config, loaded: Loaded) -> dict[str, Any]:
    """Return what `model.json` says of a network, but for the epoch and its figures."""
    dataset = loaded.dataset
    height, width, channels = dataset.image_shape
    return {
        "model": config.model,
        "arguments": loaded.arguments,
        "task": config.task,
        "loss": config.loss,
        "classes": list(dataset.class_names),
        "image_size": [height, width],
        "channels": channels,
        "mean": loaded.recipe.mean,
        "std": loaded.recipe.std,
        "preprocessing": "scaled (bilinear, antialiased) until it covers image_size, cropped to its middle, over 255"
        + (", minus mean, over std" if loaded.recipe.mean else ""),
        "deep": config.deep,
        "data": {"name": config.data, "validation_split": config.validation_split},
        "versions": describe_versions(),
    }


# ---------------------------------------------------------------- figures and results


def draw(
    folder: Path,
    dataset: data.Dataset,
    history: Mapping[str, Sequence[float]],
    test: train.Evaluation,
) -> None:
    """Draw the curves, the confusion matrix and the mistakes."""
    panels = {
        quantity: [
            Curve(split, np.array(history[f"{split}/{quantity}"]), colour, "-")
            for colour, split in enumerate(("train", "validation"))
        ]
        for quantity in ("loss", "accuracy")
    }
    viz.save(viz.curves(panels), folder / "curves.png")
    draw_evaluation(folder, dataset.test, dataset.class_names, test)


def draw_evaluation(
    folder: Path, examples: data.Examples, names: Sequence[str], evaluation: train.Evaluation
) -> list[Path]:
    """Draw the confusion matrix and the most confident mistakes of an evaluation; return the files.

    Nothing is drawn of more classes than are legible, and no mistakes where there are none.
    """
    files = []
    if len(names) <= MOST_CLASSES:
        files.append(folder / "confusion.png")
        confusion = {"test images, in % of each true class": evaluation.sums["confusion"].astype(int)}
        viz.save(viz.confusion_matrices(confusion, names), files[-1])
    worst = mistakes(evaluation)
    if len(worst) and len(evaluation.predictions["label"]) == examples.size:  # none was left out, which shifts indices
        predictions = evaluation.predictions
        batch = next(examples.batches(worst[None], np.ones((1, len(worst)), np.float32)))
        titles = [
            f"{names[predictions['label'][k]]} ({predictions['scores'][k].max():.0%})\nis {names[label]}"
            for k, label in zip(worst, np.asarray(batch.labels), strict=True)
        ]
        files.append(folder / "mistakes.png")
        viz.save(viz.image_grid(np.asarray(batch.images), titles, columns=min(4, len(worst))), files[-1])
    return files


def mistakes(evaluation: train.Evaluation) -> np.ndarray:
    """Return the images whose class is another than the predicted one, those with the highest scores first."""
    predictions, targets = evaluation.predictions, evaluation.targets
    assert targets is not None
    assert targets.weights is not None
    wrong = np.flatnonzero((predictions["label"] != np.asarray(targets.labels)) & (np.asarray(targets.weights) > 0))
    return wrong[np.argsort(-predictions["scores"][wrong].max(1), kind="stable")][:MISTAKES]


def table(summary: dict[str, Any]) -> str:
    """Return the results of the best epoch on all splits as a Markdown table."""
    top = summary["data"]["classes"] > TOP
    rows = [
        [name, f"{summary['images'][name]:,}", f"{figures['accuracy']:.1%}"]
        + ([f"{figures['top5']:.1%}"] if top else [])
        + [f"{figures['loss']:.3f}"]
        for name, figures in summary["metrics"].items()
    ]
    head = ["split", "images", "accuracy", *(["top-5"] if top else []), "loss"]
    said = (
        f"{summary['model']}, {summary['params']:,} parameters, on {summary['data']['name']}; the best of "
        f"{summary['epochs']} epochs by validation is epoch {summary['best_epoch']}:"
    )
    if summary["stopped"]:
        said = f"It {summary['stopped']}. {said}"
    return f"{said}\n\n{markdown.table(head, rows)}"


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return none: the lectures say nothing about data of your own."""
    return []
