"""Semantic segmentation: FCN-8s, DeepLab, DilatedNet and an encoder-decoder side by side with the ground truth.

Lectures S0 and S2 (claims F4, I1): networks that shrink an image and enlarge it again, and dilated ones that do not
shrink it as far, give every pixel a class. All are trained alike on the same backbone, which has learned to classify
images. One more, DeepLab whose backbone is strided and not dilated, with the same parameters and the same reach in the
image, shows what dilation keeps: boundaries, and regions thinner than 7 pixels. Encoder-decoders whose transposed
convolutions have a kernel that the stride divides, or one that it does not, show what training leaves of checkerboards.

    python launch.py segmentation                                  # generated scenes; about four minutes on two cores
    python launch.py segmentation --data camvid --image-size 180 240 --score-size 360 480 --backbone mobilenet_v2 \\
        --weights mobilenet_v2.pth --epochs 40 --batch-size 8 --seeds 2    # street scenes; hours on two cores

Where weights are given, the first network is also trained without them. Generated scenes need none: a narrow VGG first
learns to classify single shapes. DilatedNet's context module is trained on a front end that is trained already.

Sources: Long et al. (2014), Chen et al. (2017), Yu & Koltun (2015), Badrinarayanan et al. (2015), Ronneberger et al.
(2015).
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from cnnjax import data, models, runs, tasks, train
from cnnjax.errors import UserError
from cnnjax.interop.preprocess import MEAN, STD
from cnnjax.lab.claims import Claim, check, check_or_correct, stored
from cnnjax.lab.training import network_of, parts_of
from cnnjax.models.backbones import Backbone
from cnnjax.models.vgg import TINY
from cnnjax.options import Count, Fraction, Positive
from cnnjax.tasks.masks import iou_of, whole
from cnnjax.train.schedules import Schedule
from experiments import _segmentation_backbone, _segmentation_boards

EXPERIMENT = "segmentation"
Builder = Callable[..., models.Module]
SHOWN = 5  # images in the figures
TIMED = 5  # passes of one image
LEAST = 0.4  # mean IoU of a network that segments; one class for all pixels has at most 1 / classes


class Kind(NamedTuple):
    """A network of the comparison.

    Attributes:
        model: its name, of a network that takes any backbone.
        options: of the network.
        narrow: further ones where the backbone is the narrow VGG.
    """

    model: str
    options: Mapping[str, Any] = MappingProxyType({})
    narrow: Mapping[str, Any] = MappingProxyType({})


def _strided(stride: int) -> dict[str, Any]:
    """DeepLab's options; dilated by 32, 64 and 96 pixels of the image at any stride."""
    return {"output_stride": stride, "rates": tuple(pixels // stride for pixels in (32, 64, 96)), "auxiliary": False}


DECK = ("FCN-8s", "DeepLab", "DilatedNet", "encoder-decoder")
POOLED = "DeepLab, not dilated"
NARROW = MappingProxyType({"hidden": 128, "dropout": 0.0})  # of VGG's fully connected layers
NETWORKS = {
    "FCN-8s": Kind("fcn8s_vgg16", narrow=NARROW),
    "DeepLab": Kind("deeplabv3_resnet50", _strided(16), {"width": 64, **_strided(8)}),
    "DilatedNet": Kind("dilatednet_vgg16", narrow=NARROW),
    "encoder-decoder": Kind("unet", narrow={"widths": (256, 128, 32, 16, 16)}),
    POOLED: Kind("deeplabv3_resnet50", _strided(32), {"width": 64}),
}
SCRATCH = f"{DECK[0]}, no trained weights"
DILATED, FRONT_END = "DilatedNet", "front end"


@dataclass(frozen=True)
class Config(train.Recipe, tasks.SegmentationLoss, data.MaskSource):
    """Train networks for segmentation alike, and compare their masks."""

    epochs: Count = 4
    """Passes over the training images."""
    batch_size: Count = 8
    """Images per step, over all devices."""
    lr: Positive | None = 0.006
    """Learning rate; None: the optimiser's usual one."""
    schedule: Schedule = "one-cycle"
    """How the learning rate changes."""
    validation_split: Fraction | None = 0.1
    """Share of the training images held out to validate on, where there are no validation images."""
    backbone: str = ""
    """Network of the zoo as the backbone of all; default: a narrow VGG, which first learns single shapes."""
    weights: str = ""
    """File of the backbone's trained weights, of 1000 classes, .safetensors or torch's; default: none. Images are
    normalised as on ImageNet, unless `mean` and `std` are given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and not self.backbone:
            raise UserError("`weights` are of a `backbone`: name it, such as `backbone=mobilenet_v2`")


class Loaded(NamedTuple):
    """The data set, its images by use, and the backbone with its trained weights if there are any."""

    dataset: data.Dataset
    parts: tuple[data.Examples, data.Examples]  # to train on, and to validate on
    backbone: models.Module | None


def load(config: Config) -> Loaded:
    """Return the data and the backbone; raise a UserError if the config does not fit them."""
    dataset = config.dataset()
    backbone = _segmentation_backbone.read(config.backbone, config.weights) if config.weights else None
    loaded = Loaded(dataset, parts_of(dataset, config.validation_split or 0.1), backbone)
    builds = {name: partial(_build, name, config, loaded) for name in trained_in(config)}
    train.check_training(builds, tasks.Segmentation(config, dataset.class_names), _recipe(config), loaded.parts[0])
    return loaded


def trained_in(config: Config) -> list[str]:
    """Return the names of the networks that a run trains."""
    return [*NETWORKS, *([SCRATCH] if config.weights else [])]


def run(config: Config, loaded: Loaded, run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Train and evaluate the networks, draw the figures, and return the summary."""
    from experiments import segmentation_figures as figures

    if not config.backbone:
        loaded = loaded._replace(backbone=_segmentation_backbone.trained(config.seed, run, parallel))
    dataset, networks, shown = loaded.dataset, {}, {}
    chosen = np.unique(np.linspace(0, dataset.test.size - 1, SHOWN + 2)[1:-1].round().astype(int))
    batch = next(dataset.test.batches(chosen[None], np.ones((1, len(chosen)), np.float32)))
    for name in trained_in(config):
        networks[name], shown[name] = _network(name, config, loaded, batch.images, run, parallel)
    boards, logits = _segmentation_boards.train_all(config.seed, run, parallel)
    if run.writes:
        figures.draw(run.figures, batch, dataset.class_names, shown, networks, logits)
    return {
        "data": {
            "name": dataset.name,
            "version": dataset.version,
            "test": dataset.test.size,
            "score_size": list(np.asarray(batch.masks).shape[1:]),
        },
        "backbone": config.backbone or "narrow VGG",
        "networks": networks,
        "checkerboards": boards,
    }


def _network(
    name: str, config: Config, loaded: Loaded, images: Any, run: runs.Run, parallel: train.Parallel
) -> tuple[dict[str, Any], np.ndarray]:
    """Train a network with all seeds; return what is measured, and the first seed's masks of some images."""
    dataset, build = loaded.dataset, partial(_build, name, config, loaded)
    task = tasks.Segmentation(config, dataset.class_names)
    judge, shas = dataclasses.replace(task, boundaries=True), []
    by_seed, curves, masks, confusions = list[dict[str, float]](), [], [], []
    for *before, fit in _fits(name, build, task, _recipe(config), loaded, run, parallel):
        judged = train.evaluate(fit.network, fit.state, judge, dataset.test, parallel=parallel)
        confusions.append(whole(judged.sums["confusion"]))
        network = network_of(fit.model())
        measured = {
            "step_ms": min([*before, fit][0].history["train/step_ms"]),
            "image_ms": _milliseconds(network, dataset.image_shape),
        }
        by_seed.append({**judged.figures, **measured})
        shas.append(train.tree_sha256(fit.state.params))
        curves.append([iou for one in (*before, fit) for iou in one.history["validation/mean_iou"]])
        masks.append(np.asarray(task.decode(network(images))["mask"]))
    rows, ious = models.layer_rows(build(config.seed), dataset.image_shape), iou_of(np.sum(confusions, 0))
    return {
        **{key: statistics.mean(one[key] for one in by_seed) for key in by_seed[0]},
        "by_seed": by_seed,
        "iou": {name: None if iou != iou else float(iou) for name, iou in zip(dataset.class_names, ious, strict=True)},
        "params": sum(row.params for row in rows),
        "multiply_adds": sum(row.macs for row in rows),
        "curve": np.mean(curves, 0).round(5).tolist(),
        "params_sha256": shas,
    }, masks[0]


def _fits(
    name: str, build: Builder, task: tasks.Task, recipe: Config, loaded: Loaded, run: runs.Run, parallel: train.Parallel
) -> Iterator[list[train.Fit]]:
    """Train a network with each seed; yield its trainings, of DilatedNet the front end's and the context module's."""
    fits: Any = partial(train.fit_seeds, run=run, parallel=parallel)
    if name != DILATED:
        for fit in fits(build, task, recipe, *loaded.parts, name=name):
            yield [fit]
        return
    front_ends = fits(partial(build, context=False), task, recipe, *loaded.parts, name=FRONT_END)
    for seed, front in enumerate(front_ends, recipe.seed):
        state = nnx.state(front.network.merge(front.state.params, front.state.model_state), (nnx.Param, nnx.BatchStat))

        def whole(seed: int, state: nnx.State = state) -> models.Module:
            model = build(seed)
            nnx.update(model, state)
            return model

        alone = dataclasses.replace(recipe, seed=seed, seeds=1, freeze=" ".join(state))
        (fit,) = fits(whole, task, alone, *loaded.parts, name=name)
        yield [front, fit]


def _recipe(config: Config) -> Config:
    normalised = config.weights and config.mean is None
    return dataclasses.replace(config, mean=MEAN, std=STD) if normalised else config


def _build(name: str, config: Config, loaded: Loaded, seed: int, **more: Any) -> models.Module:
    dataset, kind = loaded.dataset, NETWORKS.get(name, NETWORKS[DECK[0]])
    options = {**kind.options, **({} if config.backbone else kind.narrow), **more}
    options |= {"num_classes": len(dataset.class_names), "in_channels": dataset.image_shape[2]}
    model = models.create_model(kind.model, backbone=config.backbone or TINY, **options, seed=seed)
    if loaded.backbone is not None and name != SCRATCH:
        models.load_backbone(model, loaded.backbone)
    return model


def _milliseconds(network: Any, shape: tuple[int, ...]) -> float:
    """Return the median time of a pass of one image."""
    image, times = np.zeros((1, *shape), np.float32), []
    for _ in range(1 + TIMED):
        started = time.perf_counter()
        jax.block_until_ready(network(image))
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[1:])


# ---------------------------------------------------------------- results


def table(summary: dict[str, Any]) -> str:
    """Return the networks' figures and the IoU of each class as Markdown tables."""
    from experiments import segmentation_figures as figures

    return figures.tables(summary)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims F4 and I1: what dilation computes is computed here, trainings are read from a finished run."""
    if summary is None:
        return [_dilated()]
    networks = summary["networks"]
    return [_dilated(), *stored(EXPERIMENT, _keeps(networks), _order(networks), _decoder(networks), _i1(networks))]


def _dilated() -> Claim:
    """F4: in place of strides, dilation gives four times as many values a side, every fourth of which is the same."""
    maps, params = {}, {}
    image = np.random.default_rng(0).uniform(size=(1, 64, 96, 3)).astype(np.float32)
    for stride in (8, 32):
        backbone = Backbone("resnet18", (32,), stride, in_channels=3, rngs=nnx.Rngs(0))
        backbone.eval()
        maps[stride] = np.asarray(nnx.jit(lambda model, x: model(x)[0])(backbone, image))
        params[stride] = models.count_params(backbone)
    apart = float(np.abs(maps[8][:, ::4, ::4] - maps[32]).max() / np.abs(maps[32]).max())
    sizes = {stride: "x".join(map(str, array.shape[1:3])) for stride, array in maps.items()}
    return check(
        "F4",
        "dilation in place of strides keeps resolution: resnet18's last maps have four times as many values a side, "
        "from the same parameters, and every fourth one is what the strided network computes",
        "dilated networks keep resolution",
        f"{sizes[8]} in place of {sizes[32]} for an image of 64x96; {params[8]:,} parameters in both; {apart:.0e} "
        "apart",
        maps[8].shape[1:3] == (8, 12) and maps[32].shape[1:3] == (2, 3) and params[8] == params[32] and apart <= 1e-5,
        "sizes and parameters exact; values 1e-5 of the largest",
    )


def _keeps(networks: dict[str, Any]) -> Claim:
    kept, lost = networks["DeepLab"]["by_seed"], networks[POOLED]["by_seed"]
    keys = {"boundary_f1": "boundary F1", "thin_accuracy": "thin regions", "mean_iou": "mean IoU"}
    ours = [f"{word} {networks['DeepLab'][k]:.1%} against {networks[POOLED][k]:.1%}" for k, word in keys.items()]
    return check(
        "F4",
        "what pooling loses and dilation keeps: boundaries and what is thin, DeepLab against the same network, trained "
        "alike, whose backbone is strided",
        "dilated networks keep resolution",
        ", ".join(ours),
        all(one[key] > other[key] for one, other in zip(kept, lost, strict=True) for key in keys),
        "all three larger, with every seed",
    )


def _order(networks: dict[str, Any]) -> Claim:
    found = {name: networks[name]["mean_iou"] for name in DECK[:3]}
    by_seed = zip(*(networks[name]["by_seed"] for name in found), strict=True)
    orders = {tuple(sorted(found, key=lambda name: seed[DECK.index(name)]["mean_iou"])) for seed in by_seed}
    by_quality = sorted(found, key=lambda name: found[name])
    return check_or_correct(
        "F4",
        "S0: the masks become better from FCN-8s over DeepLab to DilatedNet",
        "the order of the figure",
        ", ".join(f"{name} {iou:.1%}" for name, iou in found.items()),
        "mean IoU, the same order with every seed",
        holds=orders == {DECK[:3]},
        confirmed=len(orders) == 1,
        correction=f"on one backbone, trained alike, the order is {', '.join(by_quality)}; the figure compares "
        "networks as published, with backbones and trainings of their own",
    )


def _decoder(networks: dict[str, Any]) -> Claim:
    best, ours = max(networks[name]["mean_iou"] for name in DECK), networks["encoder-decoder"]["mean_iou"]
    return check(
        "F4",
        "encoder-decoder networks segment images",
        "encoder-decoder networks for segmentation",
        f"mean IoU {ours:.1%}; the best of the four {best:.1%}",
        ours >= best - 0.05,
        "within 5 points of the best",
    )


def _i1(networks: dict[str, Any]) -> Claim:
    found = {name: networks[name] for name in DECK}
    return check(
        "I1",
        "networks give every pixel of unseen images a class",
        "semantic segmentation",
        ", ".join(f"{name} {one['mean_iou']:.1%}" for name, one in found.items())
        + "; each class's IoU at its lowest "
        + ", ".join(f"{min(v for v in one['iou'].values() if v is not None):.0%}" for one in found.values()),
        min(one["mean_iou"] for one in found.values()) >= LEAST,
        f"mean IoU at least {LEAST:.0%} for each",
    )
