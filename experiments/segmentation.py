"""Semantic segmentation: FCN-8s, DeepLab, DilatedNet and an encoder-decoder side by side with the ground truth.

Lectures S0 and S2 (claims F4, I1): networks that shrink an image and enlarge it again, and dilated ones that do not
shrink it as far, give every pixel a class. All are trained alike on the same backbone. One more, DeepLab whose
backbone is strided and not dilated, with the same parameters and the same reach in the image, shows what dilation
keeps: boundaries, and regions thinner than 7 pixels. Three encoder-decoders that differ in their transposed
convolutions' kernels show the checkerboards of a kernel that the stride does not divide.

    python launch.py segmentation                                          # generated scenes; half an hour on two cores
    python launch.py segmentation --data camvid --image-size 180 240 --score-size 360 480 --backbone mobilenet_v2 \\
        --weights mobilenet_v2.pth --epochs 40 --batch-size 8 --seeds 2    # street scenes; hours on two cores

Where weights are given, the first network is also trained without them.

Sources: Long et al. (2014), Chen et al. (2017), Yu & Koltun (2015), Badrinarayanan et al. (2015), Ronneberger et al.
(2015).
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from cnnjax import data, interop, models, runs, tasks, train
from cnnjax.errors import UserError
from cnnjax.interop.preprocess import MEAN, STD
from cnnjax.lab.claims import Claim, check, check_or_correct, stored
from cnnjax.lab.training import network_of, parts_of
from cnnjax.models.backbones import Backbone
from cnnjax.nn import ConvTranspose
from cnnjax.options import Count, Fraction
from cnnjax.tasks.masks import iou_of, whole
from cnnjax.train.schedules import Schedule
from experiments import checkerboard

EXPERIMENT = "segmentation"
SHOWN = 5  # images in the figures
TIMED = 5  # passes of one image
KERNELS = (2, 3, 4)  # of the encoder-decoders' transposed convolutions, whose stride is 2
BOARD = train.Recipe(epochs=4, batch_size=8, lr=0.01, schedule="one-cycle")  # of the encoder-decoders' trainings
BOARD_SIZE = 32  # of their scenes
LEAST = 0.4  # mean IoU of a network that segments; one class for all pixels has at most 1 / classes
PUBLISHED_CLASSES = 1000  # of the backbone's weights, ImageNet's


class Kind(NamedTuple):
    """A network of the comparison.

    Attributes:
        tiny: its name with a narrow VGG as its backbone.
        large: its name with any backbone.
        options: of both.
    """

    tiny: str
    large: str
    options: Mapping[str, Any] = MappingProxyType({})


def _deeplab(output_stride: int, *rates: int) -> Kind:
    options = {"output_stride": output_stride, "rates": rates, "auxiliary": False}
    return Kind("deeplabv3_tiny", "deeplabv3_resnet50", options)


DECK = ("FCN-8s", "DeepLab", "DilatedNet", "encoder-decoder")
POOLED = "DeepLab, not dilated"
NETWORKS = {
    "FCN-8s": Kind("fcn8s_tiny", "fcn8s_vgg16"),
    # 32, 64 and 96 pixels of the image at either stride.
    "DeepLab": _deeplab(16, 2, 4, 6),
    "DilatedNet": Kind("dilatednet_tiny", "dilatednet_vgg16"),
    "encoder-decoder": Kind("segnet_tiny", "unet"),
    POOLED: _deeplab(32, 1, 2, 3),
}
CAPTIONS = {
    "checkerboards": "Logits of the background from encoder-decoders that differ in their transposed convolutions.",
    "dilation": "Masks of DeepLab with a dilated backbone, and with the same one strided, beside the ground truth.",
    "figures": "Mean IoU, boundary F1 and the share of pixels in thin regions that are right, for every network.",
    "learning": "Mean IoU of the validation images over the epochs, for every network.",
    "side-by-side": "Test images, masks of FCN-8s, DeepLab, DilatedNet and an encoder-decoder, and the ground truth.",
    "spectra": "Spectra of the logits of encoder-decoders with three kernels; the stride's frequency is at the right.",
}
SCRATCH = f"{DECK[0]}, no trained weights"


@dataclass(frozen=True)
class Config(train.Recipe, tasks.SegmentationLoss, data.MaskSource):
    """Train networks for segmentation alike, and compare their masks."""

    epochs: Count = 30
    """Passes over the training images."""
    batch_size: Count = 8
    """Images per step, over all devices."""
    schedule: Schedule = "one-cycle"
    """How the learning rate changes."""
    validation_split: Fraction | None = 0.1
    """Share of the training images held out to validate on, where there are no validation images."""
    backbone: str = ""
    """Network of the zoo as the backbone of all; default: a narrow VGG."""
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
    backbone = None
    if config.weights:
        backbone = models.create_model(config.backbone, num_classes=PUBLISHED_CLASSES)
        read = interop.load_safetensors if config.weights.endswith(".safetensors") else interop.load_pth
        try:
            read(backbone, config.weights)
        except (OSError, ValueError) as error:
            raise UserError(f"`weights` has none of {config.backbone} ({error})") from error
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

    dataset, networks, shown = loaded.dataset, {}, {}
    chosen = np.unique(np.linspace(0, dataset.test.size - 1, SHOWN + 2)[1:-1].round().astype(int))
    batch = next(dataset.test.batches(chosen[None], np.ones((1, len(chosen)), np.float32)))
    for name in trained_in(config):
        networks[name], shown[name] = _network(name, config, loaded, batch.images, run, parallel)
    boards, logits = checkerboards(config, run, parallel)
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
    options: Any = {"run": run, "name": name, "parallel": parallel}
    for fit in train.fit_seeds(build, task, _recipe(config), *loaded.parts, **options):
        judged = train.evaluate(fit.network, fit.state, judge, dataset.test, parallel=parallel)
        confusions.append(whole(judged.sums["confusion"]))
        network = network_of(fit.model())
        measured = {
            "step_ms": min(fit.history["train/step_ms"]),
            "image_ms": _milliseconds(network, dataset.image_shape),
        }
        by_seed.append({**judged.figures, **measured})
        shas.append(train.tree_sha256(fit.state.params))
        curves.append(fit.history["validation/mean_iou"])
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


def _recipe(config: Config) -> Config:
    normalised = config.weights and config.mean is None
    return dataclasses.replace(config, mean=MEAN, std=STD) if normalised else config


def _build(name: str, config: Config, loaded: Loaded, seed: int) -> models.Module:
    dataset, kind = loaded.dataset, NETWORKS.get(name, NETWORKS[DECK[0]])
    options = {"num_classes": len(dataset.class_names), "in_channels": dataset.image_shape[2], **kind.options}
    if not config.backbone:
        return models.create_model(kind.tiny, **options, seed=seed)
    # Only a VGG has the poolings whose maxima SegNet's decoder puts back.
    large = "segnet_vgg16" if kind.large == "unet" and config.backbone.startswith("vgg") else kind.large
    model = models.create_model(large, backbone=config.backbone, **options, seed=seed)
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


# ---------------------------------------------------------------- checkerboards


def checkerboards(
    config: Config, run: runs.Run, parallel: train.Parallel
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Train encoder-decoders on scenes that differ in the kernels of their transposed convolutions, of stride 2.

    Returns:
        by kernel, the power of the logits at the stride's frequency as `checkerboard.peak` has it, and the mean IoU;
        and the logits of test images.
    """
    scenes = data.load_masks("shapes", image_size=BOARD_SIZE)
    parts = data.hold_out(scenes.train, 0.1)
    task = tasks.Segmentation(class_names=scenes.class_names)
    recipe = dataclasses.replace(BOARD, seed=config.seed)
    measured, shown = {}, dict[str, np.ndarray]()
    for size in KERNELS:
        name = f"{size}x{size}"
        build = partial(encoder_decoder, size, len(scenes.class_names))
        options: Any = {"run": run, "name": f"checkerboards/{name}", "parallel": parallel}
        (fit,) = train.fit_seeds(build, task, recipe, *parts, **options)
        judged = train.evaluate(fit.network, fit.state, task, scenes.test, parallel=parallel)
        shown[name] = np.asarray(network_of(fit.model())(scenes.test.first(64).images))
        measured[name] = {"peak": checkerboard.peak(shown[name]), "mean_iou": judged.figures["mean_iou"]}
    return measured, shown


def encoder_decoder(kernel_size: int, num_classes: int, seed: int) -> models.Module:
    """Return a small U-Net whose transposed convolutions have another kernel size than 2x2; the maps' sizes stay."""
    model: Any = models.create_model("unet_tiny", num_classes=num_classes, seed=seed)
    for number, layer in enumerate(model.up):
        up = ConvTranspose(
            layer.in_channels,
            layer.out_channels,
            kernel_size,
            2,
            (kernel_size - 1) // 2,
            output_padding=kernel_size % 2,
            init="he_normal_fan_in",
            rngs=nnx.Rngs(seed + number),
        )
        model.up[number] = up
    return model


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
    keys = ("boundary_f1", "thin_accuracy", "mean_iou")
    words = ("boundary F1", "thin regions", "mean IoU")
    ours = [
        f"{w} {networks['DeepLab'][k]:.1%} against {networks[POOLED][k]:.1%}" for k, w in zip(keys, words, strict=True)
    ]
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
    first, second, third = found.values()
    by_quality = sorted(found, key=lambda name: found[name])
    return check_or_correct(
        "F4",
        "the masks become better from FCN-8s over DeepLab to DilatedNet",
        "the order of the figure",
        ", ".join(f"{name} {iou:.1%}" for name, iou in found.items()),
        "mean IoU, means over seeds",
        holds=first < second < third,
        confirmed=not first < second < third,
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
