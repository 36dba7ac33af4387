"""Encoder-decoders that differ in their transposed convolutions' kernels, and the checkerboards of their logits."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
from flax import nnx

from cnnjax import data, models, runs, tasks, train
from cnnjax.lab.training import network_of
from cnnjax.nn import ConvTranspose
from experiments import checkerboard

KERNELS = (2, 3)  # of the transposed convolutions, whose stride is 2
RECIPE = train.Recipe(epochs=4, batch_size=8, lr=0.01, schedule="one-cycle")
SIZE = 32  # of the scenes
WIDTHS = (8, 16, 32, 64)  # channels at each size, from the image on


def train_all(
    seed: int, run: runs.Run, parallel: train.Parallel
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Train encoder-decoders on scenes that differ in the kernels of their transposed convolutions, of stride 2.

    Returns:
        by kernel, the power of the logits at the stride's frequency as `checkerboard.peak` has it, and the mean IoU;
        and the logits of test images.
    """
    scenes = data.load_masks("shapes", image_size=SIZE)
    parts = data.hold_out(scenes.train, 0.1)
    task = tasks.Segmentation(class_names=scenes.class_names)
    recipe = dataclasses.replace(RECIPE, seed=seed)
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
    model: Any = models.create_model("unet", widths=WIDTHS, batch_norm=True, num_classes=num_classes, seed=seed)
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
