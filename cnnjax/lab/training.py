"""Train any network of the zoo on any images: a folder of your own, a TFDS set, or generated ones.

    python launch.py train --model resnet18 --data path/to/folder --image-size 64 --epochs 20
    python launch.py train --model resnet18 --data cifar10 --augment "random-crop:padding=4 mirror" --schedule cosine
    python launch.py train --model resnet18 --data path/to/folder --image-size 224 --pretrained resnet18

    python launch.py train --task segmentation --model deeplabv3_tiny --data path/to/folder --image-size 180 240
    python launch.py train --task localization --data path/to/folder --image-size 128 --backbone mobilenet_v2

It is a run like any other: the same command resumes it. Besides, its directory has weights.safetensors, the network of
the epoch that is the best by validation, and model.json; `predict`, `evaluate` and `export` take the directory. Figures
are the curves, and of the test images the confusion matrix and the most confident mistakes, or masks or boxes beside
the true ones. `train --task TASK --help` lists the options of a task.
"""

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cnnjax import data, models, runs, train, viz
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim
from cnnjax.lab.kinds import KINDS, Kind, Loaded, kind_of
from cnnjax.lab.kinds.classification import Config
from cnnjax.lab.starting import started_from
from cnnjax.models.registry import lookup
from cnnjax.runs.hardware import describe_versions
from cnnjax.train.lengths import stopped_early
from cnnjax.train.state import count_steps
from cnnjax.train.step import scale_pixels
from cnnjax.viz.figures import Curve

CAPTIONS = {
    "confusion": "What the test images of each class (row), or their pixels, were taken for (column), in per cent of "
    "the row.",
    "curves": "Loss and figures over the epochs.",
    "iou": "Intersection over union of each class, over all test images.",
    "located": "Some test images, with the predicted class, its probability, and the true class; and both boxes.",
    "masks": "Some test images, the predicted class of each pixel, and the true one.",
}

__all__ = ["CAPTIONS", "Config", "claims", "config_for", "load", "run", "table"]


def config_for(arguments: Sequence[str]) -> type[Any]:
    """Return the options of the task that the arguments name, as `--task NAME` or `--task=NAME`."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    asked = [after for word, after in itertools.pairwise(words) if word == "--task"]
    return kind_of(asked[-1]).Config if asked and asked[-1] in KINDS else Config


def load(config: Any) -> Loaded:
    """Return data and network; raise a UserError if they do not fit."""
    kind = kind_of(config.task)
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
    arguments = arguments_for(config.model, dataset) | _chosen(config)

    def build(seed: int) -> models.Module:
        return models.create_model(config.model, **arguments, seed=seed)

    try:
        train.check_training({config.model: build}, kind.task(config, dataset.class_names), config, training)
    except UserError:
        raise
    except ValueError as error:  # of the network's arguments
        raise UserError(f"{config.model} cannot be built for images of {dataset.image_shape} ({error})") from error
    if not config.pretrained:
        return Loaded(dataset, training, validation, build(config.seed), arguments, config)
    start = started_from(config, arguments)
    recipe = replace(config, mean=start.mean, std=start.std)
    return Loaded(dataset, training, validation, start.model, arguments, recipe)


def _chosen(config: Any) -> dict[str, Any]:
    """Arguments of a network that are options of `train`."""
    backbone = getattr(config, "backbone", "")
    if backbone and not _takes(config.model, "backbone"):
        raise UserError(f"{config.model} is a network as a whole, and takes no `backbone`: leave it out")
    return {"backbone": backbone} if backbone else {}


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
    return _takes(name, "image_size")


def _takes(name: str, argument: str) -> bool:
    build: Any = lookup(name).build
    build = getattr(build, "func", build)  # of a partial
    return argument in inspect.signature(vars(build)["__init__"] if isinstance(build, type) else build).parameters


def run(config: Any, loaded: Loaded, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Train, evaluate the best epoch on all splits, write the network and the figures, and return the summary."""
    dataset, kind, about = loaded.dataset, kind_of(config.task), describe(config, loaded)
    task = kind.task(config, dataset.class_names)
    if run.writes:  # what is there is of the same training, stopped, or finished with fewer epochs
        so_far = runs.read_json(run.path / train.trained.MODEL) or about
        runs.write_json(run.path / train.trained.MODEL, {**so_far, "finished": False})
    keep = train.KeepBest(loaded.model, run, task, about)
    options: Any = {"run": run, "parallel": parallel, "callbacks": [keep]}
    fit = train.fit(loaded.model, task, loaded.recipe, loaded.training, loaded.validation, **options)
    best = train.best_state(fit, run)
    splits = {"train": loaded.training, "validation": loaded.validation, "test": dataset.test}
    options = {"precision": config.precision, "parallel": parallel}
    judged = {}
    for name, examples in splits.items():
        judge = kind.judge(config, dataset.class_names, name == "test")
        judged[name] = train.evaluate(fit.network, best, judge, examples, **options)
    metrics = {name: evaluation.figures for name, evaluation in judged.items()}
    steps = -(-loaded.training.size // config.batch_size)
    epoch, last = count_steps(best) // steps, count_steps(fit.state) // steps
    early = stopped_early(last, config.epochs, task.best, config.patience or 0)
    if run.writes:
        model = fit._replace(state=best).model()
        train.trained.save(run.path, model, {**about, "epoch": epoch, "metrics": metrics, "finished": True})
        draw_curves(run.figures, kind, fit.history)
        kind.draw(run.figures, dataset.test, dataset.class_names, judged["test"], network_of(model))
    return {
        "data": {"name": dataset.name, "version": dataset.version, "classes": len(dataset.class_names)},
        "images": {name: examples.size for name, examples in splits.items()},
        "task": config.task,
        "model": config.model,
        "params": models.count_params(loaded.model),
        "best_epoch": epoch,
        "epochs": last,
        "stopped": early if last < config.epochs else None,
        "metrics": metrics,
        f"test_{task.best}": metrics["test"][task.best],
        "train_seconds": sum(fit.history["train/seconds"]),
        "params_sha256": train.tree_sha256(fit.state.params),
    }


def describe(config: Any, loaded: Loaded) -> dict[str, Any]:
    """Return what `model.json` says of a network, but for the epoch and its figures."""
    dataset = loaded.dataset
    height, width, channels = dataset.image_shape
    return {
        "model": config.model,
        "arguments": loaded.arguments,
        "task": config.task,
        "classes": list(dataset.class_names),
        "image_size": [height, width],
        "channels": channels,
        "mean": loaded.recipe.mean,
        "std": loaded.recipe.std,
        **kind_of(config.task).about(config, loaded),
        "data": {"name": config.data, "validation_split": config.validation_split},
        "versions": describe_versions(),
    }


def network_of(model: models.Module) -> Any:
    """Return a compiled function from images, bytes or floats in [0, 1], to a network's outputs."""
    model.eval()
    graphdef, state = nnx.split(model)
    program = jax.jit(lambda state, images: nnx.merge(graphdef, state)(scale_pixels(images)))
    return lambda images: program(state, images)


# ---------------------------------------------------------------- figures and results


def draw_curves(folder: Path, kind: Kind, history: Mapping[str, Sequence[float]]) -> None:
    """Draw the quantities of a task over the epochs, of training and validation as far as they are measured."""
    panels = {
        kind.columns[quantity].title if quantity in kind.columns else quantity.replace("_", " "): [
            Curve(split, np.array(history[f"{split}/{quantity}"]), colour, "-")
            for colour, split in enumerate(("train", "validation"))
            if f"{split}/{quantity}" in history
        ]
        for quantity in kind.curves
    }
    viz.save(viz.curves(panels), folder / "curves.png")


def table(summary: dict[str, Any]) -> str:
    """Return the results of the best epoch on all splits as a Markdown table."""
    columns = kind_of(summary["task"]).columns
    there = [name for name in columns if any(name in figures for figures in summary["metrics"].values())]
    rows = [
        [split, f"{summary['images'][split]:,}"]
        + [format(figures[name], columns[name].format) if name in figures else "" for name in there]
        for split, figures in summary["metrics"].items()
    ]
    head = ["split", "images", *(columns[name].title for name in there)]
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
