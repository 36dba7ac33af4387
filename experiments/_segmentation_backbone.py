"""Where the backbone of networks for segmentation has learned: from a file of weights, or from generated shapes."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from cnnjax import data, interop, models, runs, tasks, train
from cnnjax.errors import UserError
from cnnjax.models.vgg import TINY
from cnnjax.nn import Linear

PUBLISHED_CLASSES = 1000  # of weights in files, ImageNet's
RECIPE = train.Recipe(epochs=3, batch_size=32, lr=0.004, schedule="one-cycle")


class NarrowVGG(models.Module):
    """The convolutions of a narrow VGG, and a classifier of the mean of its last maps."""

    heads = ("classifier",)

    def __init__(self, *, num_classes: int, rngs: nnx.Rngs):
        self.network = TINY(num_classes=num_classes, in_channels=3, hidden=1, rngs=rngs)
        self.classifier = Linear(TINY.keywords["widths"][-1], num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.network.features(x).mean((1, 2)))


def trained(seed: int, run: runs.Run, parallel: train.Parallel) -> models.Module:
    """Train the network to classify single shapes, and return the VGG."""
    shapes = data.load("shapes")
    parts = data.hold_out(shapes.train, 0.1)
    model = NarrowVGG(num_classes=len(shapes.class_names), rngs=nnx.Rngs(seed))
    recipe = dataclasses.replace(RECIPE, seed=seed)
    fit = train.fit(model, tasks.Classification(), recipe, *parts, run=run.part("backbone"), parallel=parallel)
    merged: Any = fit.network.merge(fit.state.params, fit.state.model_state)
    return merged.network


def read(name: str, file: str) -> models.Module:
    """Return a network of the zoo with the weights of a file, .safetensors or torch's."""
    network = models.create_model(name, num_classes=PUBLISHED_CLASSES)
    load = interop.load_safetensors if file.endswith(".safetensors") else interop.load_pth
    try:
        load(network, file)
    except (OSError, ValueError) as error:
        raise UserError(f"`weights` has none of {name} ({error})") from error
    return network
