"""Evaluate the network of a run of train, of published weights, or of a file of weights on data.

    python launch.py evaluate results/runs/RUN                           # the test images of the run's own data
    python launch.py evaluate results/runs/RUN --data path/to/folder --out evaluation
    python launch.py evaluate results/runs/RUN --split validation
    python launch.py evaluate resnet18 --data path/to/imagenet/val                # needs huggingface_hub
    python launch.py evaluate weights.pth --model resnet50 --classes names.txt --data path/to/folder

The data must have the classes that the network has learned; for weights from elsewhere some of them are enough, named
as the network names them, by WordNet identifiers (n01440764), or by numbers. With --out the folder gets confusion.png,
confusion.csv, metrics.json and mistakes.png (the most confident ones); of segmentation, masks.png and iou.png instead,
and of localization located.png.
"""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cnnjax import data, runs, train
from cnnjax.data.coco import BoxFormat
from cnnjax.data.folders import FolderSource, folder_splits
from cnnjax.data.stream import Labelled, Stream
from cnnjax.errors import UserError
from cnnjax.lab.finished import show_table, trained_of
from cnnjax.lab.imported import Imported, Origin
from cnnjax.lab.kinds import kind_of
from cnnjax.lab.kinds.classification import Config
from cnnjax.lab.options import parse
from cnnjax.lab.training import network_of, parts_of
from cnnjax.options import Checked
from cnnjax.train.located import Locator
from cnnjax.train.segmented import Segmenter

MOST_NAMED = 5  # classes that a message names
BOXES = ("annotations", "box_format", "bad_boxes")  # options of data with boxes
FOR = {"score_size": ("segmentation",), **dict.fromkeys(BOXES, ("localization",))}  # the tasks that have an option


@dataclass(frozen=True)
class Evaluate(Checked):
    """What is evaluated on what."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|NAME|FILE")] = ""
    """Directory of a run of train, its weights.safetensors, or its name in results/runs; or the name of a network, for
    its published weights; or a file of weights, with the options of "origin"."""
    data: str = ""
    """shapes, digits, a TFDS set, or a folder with train/CLASS/*.jpg and test/CLASS/*.jpg; default: that of the run."""
    split: Literal["test", "validation", "train"] = "test"
    """Which images: of train and validation, as the run held them out."""
    flip: bool = False
    """Judge the mean of the probabilities of each image and of its mirror image."""
    out: Path | None = None
    """Folder for the confusion matrix, the most confident mistakes and the figures."""
    skip_bad: bool = False
    """Leave out images that cannot be decoded; each is named."""
    scales: tuple[float, ...] = (1.0,)
    """Of segmentation: judge the mean of the probabilities of each image at these scales."""
    score_size: tuple[int, ...] | None = None
    """Of segmentation: height and width of the masks that predictions are judged on; default: on the run's own data as
    it judged them, else the images'."""
    annotations: str | None = None
    """Of data with boxes: COCO's JSON, its name in the folder or a path; default: as the run had it."""
    box_format: BoxFormat | None = None
    """Of data with boxes: what the JSON's boxes are; default: as the run had it."""
    bad_boxes: Literal["refuse", "drop"] | None = None
    """Of data with boxes: whether boxes that cannot be right are refused or left out; default: as the run had it."""


def main(arguments: Sequence[str]) -> int:
    """Evaluate, and print the figures."""
    options, origin = parse("evaluate", __doc__, arguments, Evaluate, Origin)
    trained = trained_of("evaluate", options.run, origin)
    trained = changed(trained, options.flip, options.scales)
    name = options.data or trained.about.get("data", {}).get("name", "")
    if not name:
        raise UserError("weights from elsewhere have no data of their own: say on which images with `data`")
    kind = kind_of(trained.about["task"])
    examples, names = load(trained, name, options)
    evaluation = train.evaluate(*trained.split(), kind.judge(trained.task.loss, names, True), examples)
    figures = {"images": examples.size, **evaluation.figures}
    shown = [key for key in kind.columns if key in figures]
    shown += [key for key in figures if key not in kind.columns and key != "images"]
    rows = [("images", f"{examples.size:,}")] + [
        (title, f"{figures[key]:.2%}" if form.endswith("%") else f"{figures[key]:.4f}")
        for key in shown
        for title, form in [kind.columns.get(key, (key.replace("_", " "), ""))]
    ]
    show_table((f"{name}, {options.split}", ""), rows)
    for title, table in kind.details(evaluation, names):
        print()
        show_table(title, table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        files = kind.draw(options.out, examples, names, evaluation, network_of(trained.model))
        with (options.out / "confusion.csv").open("w", newline="") as file:
            counts = kind.confusion(evaluation).tolist()
            csv.writer(file).writerows(
                [["true", *names], *([one, *row] for one, row in zip(names, counts, strict=True))]
            )
        about = {"model": trained.about["model"], "data": name, "split": options.split}
        runs.write_json(options.out / "metrics.json", {**about, **figures})
        print(
            f"\nwrote {', '.join(['confusion.csv', 'metrics.json', *(path.name for path in files)])} to {options.out}"
        )
    return 0


def changed(trained: train.Trained, flip: bool, scales: tuple[float, ...] = (1.0,)) -> train.Trained:
    """Return the network with probabilities that are means over mirror images and scales.

    Raises:
        UserError: the network's task has no scales.
    """
    if scales == (1.0,):
        return trained.flipped if flip else trained
    if not isinstance(trained, Segmenter):
        raise UserError(f"`scales` are for segmentation: this network has learned {trained.about['task']}")
    return trained.averaged(flip=flip, scales=scales)


def load(trained: train.Trained, name: str, options: Evaluate) -> tuple[data.Examples, tuple[str, ...]]:
    """Return a split of a data set, as the network takes it, and the names of the classes.

    Raises:
        UserError: it has other classes, or images of another size or number of channels.
    """
    for option, tasks in FOR.items():
        learned = trained.about["task"]
        if getattr(options, option) is not None and learned not in tasks:
            raise UserError(f"`{option}` is for {' and '.join(tasks)}: this network has learned {learned}")
    split, skip_bad = options.split, options.skip_bad
    if isinstance(trained, Imported):
        return _for_imported(trained, name, split, skip_bad), trained.classes
    height = trained.image_shape[0]
    is_folder = Path(name).is_dir() or "/" in name
    size = height if is_folder else None
    share = trained.about["data"]["validation_split"]
    if isinstance(trained, Segmenter):
        masks = _masks(trained, name, options.score_size, skip_bad=skip_bad, validation_split=share)
        return _part(trained, name, masks.dataset(), split, share)
    if isinstance(trained, Locator):
        boxes = _boxes(trained, name, options, skip_bad=skip_bad, validation_split=share)
        return _part(trained, name, boxes.dataset(), split, share)
    deep = trained.about.get("deep", "refuse")
    source = Config(data=name, image_size=size, skip_bad=skip_bad, deep=deep, validation_split=share)
    dataset = source.dataset()
    if isinstance(dataset.train, Stream) and not is_folder and dataset.image_shape != trained.image_shape:
        dataset = dataclasses.replace(source, image_size=height, stream="always").dataset()
    return _part(trained, name, dataset, split, share)


def _masks(trained: Segmenter, name: str, score_size: tuple[int, ...] | None, **options: Any) -> data.MaskSource:
    """Return images with masks as the network was trained on them."""
    about = trained.about
    size = trained.image_shape[:1] if name == "shapes" else trained.image_shape[:2]
    if name == about["data"]["name"]:
        score_size = score_size or (about.get("score_size") and tuple(about["score_size"]))
    return data.MaskSource(name, size, score_size, mask_ignore=about.get("mask_ignore"), **options)


def _boxes(trained: train.Trained, name: str, given: Evaluate, **options: Any) -> Any:
    """Return images with boxes as the network was trained on them, but for what is given."""
    size = trained.image_shape[:1] if name == "shapes" else trained.image_shape[:2]
    own = {option: getattr(given, option) for option in BOXES if getattr(given, option) is not None}
    source = kind_of(trained.about["task"]).Config
    return source(data=name, image_size=size, **{**trained.about["boxes"], **own, **options})


def _part(
    trained: train.Trained, name: str, dataset: data.Dataset, split: str, share: float
) -> tuple[data.Examples, tuple[str, ...]]:
    if dataset.class_names != trained.classes:
        raise UserError(
            f"{name} has the classes {_listed(dataset.class_names)}, the network has learned "
            f"{_listed(trained.classes)}: choose data with the same classes in the same order"
        )
    if dataset.image_shape != trained.image_shape:
        theirs, ours = ("x".join(map(str, shape)) for shape in (dataset.image_shape, trained.image_shape))
        raise UserError(f"{name} has images of {theirs}, the network was trained on {ours} (height, width, channels)")
    training, validation = parts_of(dataset, share)
    return {"train": training, "validation": validation, "test": dataset.test}[split], dataset.class_names


def _for_imported(trained: Imported, name: str, split: str, skip_bad: bool) -> Stream:
    """Return the images as the network takes them, with its labels; a folder of classes without splits is one split."""
    root, shape = Path(name), trained.image_shape
    if root.is_dir():
        names, sources = folder_splits(root)
        if not (root / "train").is_dir():  # a part was held out
            files, labels = (sum((getattr(part, key) for part in sources.values()), ()) for key in ("files", "targets"))
            sources = {split: FolderSource(files, labels)}
        streams: dict[str, data.Examples] = {
            part: Stream(source, Labelled(shape, len(names)), 0, len(source), skip_bad=skip_bad)
            for part, source in sources.items()
        }
    else:
        dataset = data.load(name, image_size=shape[0], stream="always", skip_bad=skip_bad)
        names, streams = dataset.class_names, {"train": dataset.train, "test": dataset.test}
    stream = streams.get(split)
    if not isinstance(stream, Stream):
        raise UserError(f"{name} has no images of the split {split}: choose another `split`")
    return trained.prepared(stream, names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
