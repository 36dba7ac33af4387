"""Keras and torch as the benchmarks' peers: the networks that both build, and whole trainings in their own process.

`python -m experiments.bench.peers NAME ARRAYS OUT CLASSES EPOCHS SEED` trains every network on the arrays that
`bench run` left in a folder, as the documentation of Keras or torch shows it, and writes a JSON file. Nothing here
imports JAX, so that a peer's process starts as fast as its user's would.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax import geometry

CLASSES, ADAM = 10, {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-7}
SPLITS = ("training", "validation", "test")
EVAL_BATCH = 512


class Workload(NamedTuple):
    """One network: a model of `cnnjax.models`, and its layers in order for the peers to build the same."""

    name: str
    image: tuple[int, int, int]
    batch_size: int
    layers: tuple[tuple[str, int], ...]  # ("conv", channels) is 3x3, valid; every layer but the last has a ReLU

    def fitted_to(self, image: tuple[int, int, int], classes: int) -> "Workload":
        """Return the same network for other images and another number of classes."""
        return self._replace(image=image, layers=(*self.layers[:-1], ("dense", classes)))


WORKLOADS = (
    Workload(
        "lecture-fcn",
        (32, 32, 3),
        128,
        (("flatten", 0), ("dense", 2048), ("dense", 1024), ("dense", 512), ("dense", 128), ("dense", CLASSES)),
    ),
    Workload(
        "lecture-cnn",
        (32, 32, 3),
        128,
        (
            ("conv", 32),
            ("max pool", 2),
            ("conv", 64),
            ("conv", 128),
            ("flatten", 0),
            ("dense", 128),
            ("dense", CLASSES),
        ),
    ),
)


class Examples(NamedTuple):
    """Images float32 (size, height, width, channels) in [0, 1] and labels int64 (size,)."""

    images: np.ndarray
    labels: np.ndarray


class Training(NamedTuple):
    """How a whole training went: the seconds of every pass over the training images, and the accuracy at the end."""

    epoch_seconds: list[float]
    test_accuracy: float


def with_inputs(workload: Workload) -> Sequence[tuple[str, int, int]]:
    """Return (kind, input channels or features, output channels or features) of every layer."""
    (size, _, channels), layers = workload.image, []
    for kind, outputs in workload.layers:
        inputs = channels
        if kind == "conv":
            size, channels = geometry.conv_output_size(size, 3), outputs
        elif kind == "max pool":
            size = geometry.conv_output_size(size, outputs, stride=outputs)
        elif kind == "flatten":
            channels = size * size * channels
        else:
            channels = outputs
        layers.append((kind, inputs, channels))
    return layers


# ---------------------------------------------------------------- networks


def keras_layers(workload: Workload) -> list[Any]:
    """Return the network's layers for `keras.Sequential`, which give logits."""
    import keras

    make = {
        "conv": lambda size: keras.layers.Conv2D(size, 3, activation="relu"),
        "max pool": lambda size: keras.layers.MaxPooling2D(size),
        "flatten": lambda size: keras.layers.Flatten(),
        "dense": lambda size: keras.layers.Dense(size, activation="relu"),
    }
    *hidden, (_, classes) = workload.layers
    return [*(make[kind](size) for kind, size in hidden), keras.layers.Dense(classes)]


def torch_network(workload: Workload) -> Any:
    """Return the network as a torch module from NCHW images to logits, in channels_last memory."""
    import torch

    layers = list[Any]()
    for kind, inputs, outputs in with_inputs(workload):
        if kind == "conv":
            layers += [torch.nn.Conv2d(inputs, outputs, 3), torch.nn.ReLU()]
        elif kind == "max pool":
            layers.append(torch.nn.MaxPool2d(2))
        elif kind == "flatten":
            layers.append(torch.nn.Flatten())
        else:
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    network: Any = torch.nn.Sequential(*layers[:-1])
    return network.to(memory_format=torch.channels_last)


def torch_adam(network: Any, **options: Any) -> Any:
    """Return torch's Adam with Keras's defaults."""
    import torch

    betas = (ADAM["b1"], ADAM["b2"])
    return torch.optim.Adam(network.parameters(), lr=ADAM["learning_rate"], betas=betas, eps=ADAM["eps"], **options)


# ---------------------------------------------------------------- whole trainings


def train_keras(workload: Workload, splits: Mapping[str, Examples], epochs: int, seed: int) -> Training:
    """Train with `fit` and evaluate with `evaluate`, as Keras's guides do, on torch."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(workload.image), *keras_layers(workload)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    begun, ended = list[float](), list[float]()
    stopwatch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begun.append(time.perf_counter()),
        on_test_begin=lambda logs: ended.append(time.perf_counter()),  # of the validation, after the last step
    )
    model.fit(
        *splits["training"],
        validation_data=splits["validation"],
        batch_size=workload.batch_size,
        epochs=epochs,
        callbacks=[stopwatch],
        verbose=2,
    )
    _, accuracy = model.evaluate(*splits["test"], batch_size=workload.batch_size, verbose=0)
    return Training([end - begin for begin, end in zip(begun, ended, strict=True)], float(accuracy))


def train_torch(workload: Workload, splits: Mapping[str, Examples], epochs: int, seed: int) -> Training:
    """Train with a loop as torch's tutorials write it, with tensors in memory, channels_last and the fused Adam."""
    import torch

    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    held = {
        name: (torch.from_numpy(split.images).permute(0, 3, 1, 2).to(device), torch.from_numpy(split.labels).to(device))
        for name, split in splits.items()
    }
    network = torch_network(workload).to(device)
    optimizer = torch_adam(network, fused=True)
    cross_entropy = torch.nn.functional.cross_entropy

    def train_epoch() -> tuple[float, float]:
        images, labels = held["training"]
        network.train()
        loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for index in torch.randperm(len(labels), device=device).split(workload.batch_size):
            logits, targets = network(images[index]), labels[index]
            loss = cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(index)
            correct += (logits.argmax(1) == targets).sum()
        return loss_sum.item() / len(labels), correct.item() / len(labels)

    def evaluate(name: str) -> tuple[float, float]:
        images, labels = held[name]
        network.eval()
        loss_sum, correct = 0.0, 0
        with torch.no_grad():
            for x, targets in zip(images.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True):
                logits = network(x)
                loss_sum += cross_entropy(logits, targets, reduction="sum").item()
                correct += int((logits.argmax(1) == targets).sum())
        return loss_sum / len(labels), correct / len(labels)

    seconds = []
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        trained = train_epoch()
        seconds.append(time.perf_counter() - started)
        print(f"{workload.name}  epoch {epoch}/{epochs}  training {trained}  validation {evaluate('validation')}")
    return Training(seconds, evaluate("test")[1])


TRAINERS: dict[str, Callable[[Workload, Mapping[str, Examples], int, int], Training]] = {
    "keras": train_keras,
    "torch": train_torch,
}


def save_arrays(folder: Path, splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the images, as bytes, and the labels of every split to where `read_arrays` looks for them."""
    for name, (images, labels) in splits.items():
        np.save(folder / f"{name}-images.npy", images)
        np.save(folder / f"{name}-labels.npy", labels)


def read_arrays(folder: Path) -> dict[str, Examples]:
    """Read what `save_arrays` wrote."""
    return {
        name: Examples(
            np.load(folder / f"{name}-images.npy") / np.float32(255),
            np.load(folder / f"{name}-labels.npy").astype(np.int64),
        )
        for name in SPLITS
    }


def main(arguments: Sequence[str]) -> None:
    """Train every network and write {network: training} as JSON."""
    who, folder, out, *numbers = arguments
    classes, epochs, seed = map(int, numbers)
    splits = read_arrays(Path(folder))
    height, width, channels = splits["training"].images.shape[1:]
    workloads = [workload.fitted_to((height, width, channels), classes) for workload in WORKLOADS]
    trained = {workload.name: TRAINERS[who](workload, splits, epochs, seed)._asdict() for workload in workloads}
    Path(out).write_text(json.dumps(trained))


if __name__ == "__main__":
    main(sys.argv[1:])
