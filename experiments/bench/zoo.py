"""One network of the zoo, measured beside plain Flax and torch in a process of its own.

`python -m experiments.bench.zoo '["measure", [NAME, SIZE, SECONDS, SKIP_FLAX]]'` prints what the function returns as
JSON, on the last line; `bench models` calls it. In a process of its own nothing is compiled yet, and nothing that an
earlier network left in memory changes what this one seems to need.
"""

import contextlib
import copy
import fnmatch
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnnjax import interop, models
from cnnjax.models.registry import lookup
from cnnjax.runs.hardware import peak_memory
from experiments.bench import references
from experiments.bench.plain_flax import plain_flax
from experiments.bench.published_networks import read
from experiments.bench.timing import race, torch_device

BATCH, SMALL = 16, 96
# Smaller images than its own are too small for the auxiliary classifier; what it is called here, and in torchvision.
WITHOUT_AUXILIARY = {"inception_v3": ({"auxiliary": False}, {"aux_logits": False})}
BUILT_FOR_A_SIZE = ("lecture-cnn", "lecture-fcn", "conv_autoencoder", "denoising_autoencoder")
SEGMENTATION_GMACS = {"*_tiny": 0.5, "*mobilenet*": 2.0, "*": 30.0}  # of 224x224 pixels, roughly
OWN_PEERS = ("fcn8s_vgg16", "segnet_vgg16", "unet")  # what `torch_segmentation` has
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
OURS, FLAX, TORCH = "cnnjax", "plain Flax", "torch"
PARITY = 1e-4  # how far logits may be apart, of the largest
MEASURES = ("latency", "throughput", "training")  # milliseconds of an image, of a batch, of a step


class Network(NamedTuple):
    """What is measured of a network.

    Attributes:
        name: in `models.list_models()`.
        size: of its own images, in pixels.
        classes: of an image or a pixel.
        gmacs: about how many 10^9 multiply-adds it has.
        dense: whether every pixel has a class.
    """

    name: str
    size: int
    classes: int
    gmacs: float
    dense: bool = False


def networks() -> dict[str, Network]:
    """Return all networks; those for classes without numbers published for ImageNet are for CIFAR-10."""
    published, found = read(), {}
    for name in models.list_models():
        if lookup(name).task == "segmentation":
            gmacs = next(size for pattern, size in SEGMENTATION_GMACS.items() if fnmatch.fnmatch(name, pattern))
            found[name] = Network(name, 224, 21, gmacs, dense=True)
        elif lookup(name).task == "localization":
            continue  # a backbone that is measured by itself, and two small layers
        elif name in published:
            found[name] = Network(name, published[name].size, 1000, published[name].gmacs or 1.0)
        else:
            found[name] = Network(name, 32, 10, 0.3)
    return found


def has_peer(name: str) -> bool:
    """Return whether torchvision or timm has the network, or `torch_segmentation`."""
    return references.has_reference(name) or name in OWN_PEERS


def peer(name: str, options: Mapping[str, Any]) -> Any:
    """Return the network in torch, with random numbers."""
    if name not in OWN_PEERS:
        return references.build(name, **options)
    from experiments.bench import torch_segmentation

    return references.randomised(torch_segmentation.NETWORKS[name])


# ---------------------------------------------------------------- one network


class Contender(NamedTuple):
    """A network: calls that wait until they are done, what readies it for them, and bytes and seconds of the step."""

    logits: Callable[[], np.ndarray]  # of the batch, in `eval`, before any step
    calls: dict[str, Callable[[], Any]]  # by measure
    set_mode: Callable[[bool], Any] = lambda training: None  # before calls that train, or that do not
    memory: int = 0
    compilation: float = 0.0


def measure(name: str, size: int, seconds: float, skip_flax: bool) -> dict[str, Any]:
    """Return the row of a network at an image size, all but torch's memory."""
    network = networks()[name]
    images, labels = _batch(network, size)
    options, options_there = _options(network, size)
    creation = _seconds_to_create(name, options)
    contenders, weights = {}, None
    if has_peer(name):
        reference = peer(name, options_there)
        weights = {key: value.numpy().copy() for key, value in reference.state_dict().items()}
        contenders[TORCH] = torch_contender(reference, images, labels)
    params, macs = 0, 0
    for who in (OURS, FLAX)[: 1 if skip_flax else 2]:
        model = models.create_model(name, **options)
        if weights:
            interop.load_torch(model, weights)
        if who == OURS:
            model.eval()
            params = models.count_params(model)
            macs = sum(row.macs for row in models.layer_rows(model, (size, size, 3)))
        contenders[who] = _jax(plain_flax(model) if who == FLAX else model, images, labels)
        if jax.default_backend() == "cpu":
            _check_memory(contenders[who].memory)
    logits = {who: contender.logits() for who, contender in contenders.items()}
    # A GPU's products of matrices are rounded otherwise from one form to another.
    if FLAX in logits and jax.default_backend() == "cpu" and not _parity_error(logits[OURS], logits[FLAX]) <= PARITY:
        sys.exit(f"the logits of plain Flax's {name} are not those of ours")
    milliseconds = {}
    for what in MEASURES:
        for contender in contenders.values():
            contender.set_mode(what == "training")
        milliseconds[what] = race({who: contender.calls[what] for who, contender in contenders.items()}, seconds)
    return {
        "name": name,
        "size": size,
        "own": size == network.size,
        "params": params,
        "macs": macs,
        "parity_error": _parity_error(logits[OURS], logits[TORCH]) if TORCH in logits else None,
        "memory": {who: contender.memory for who, contender in contenders.items() if who != TORCH},
        "compilation_seconds": {who: contender.compilation for who, contender in contenders.items() if who != TORCH},
        **creation,
        "milliseconds": milliseconds,
    }


def _batch(network: Network, size: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).standard_normal((BATCH, size, size, 3), np.float32)
    shape = (BATCH, size, size) if network.dense else (BATCH,)
    return images, np.arange(np.prod(shape)).reshape(shape) % network.classes


def _options(network: Network, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments that build a network here, and in torchvision or timm."""
    here, there = WITHOUT_AUXILIARY.get(network.name, ({}, {})) if size < network.size else ({}, {})
    fixed = {"image_size": size} if network.name in BUILT_FOR_A_SIZE else {}
    return {"num_classes": network.classes, **fixed, **here}, there


def _seconds_to_create(name: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Return how long a network takes to be traced without numbers, and to be built with all its numbers drawn."""
    jax.block_until_ready(jnp.zeros(1))  # JAX has looked for its devices
    started = time.perf_counter()
    nnx.eval_shape(lambda: models.create_model(name, **options))
    traced = time.perf_counter()
    jax.clear_caches()  # what was traced would make the other faster
    cleared = time.perf_counter()
    jax.block_until_ready(nnx.state(models.create_model(name, **options)))
    return {"tracing_seconds": traced - started, "creation_seconds": time.perf_counter() - cleared}


def _check_memory(needed: int) -> None:
    """End this process where a step needs more memory than the machine has: the system would end it, or another."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        sys.exit(f"a step of {BATCH} images needs {needed / 1e9:.0f} GB, and this machine has {there / 1e9:.0f}")


def _parity_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _jax(model: nnx.Module, images: np.ndarray, labels: np.ndarray) -> Contender:
    model.eval()
    graphdef, state = nnx.split(model)
    infer = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    batch, single = jnp.asarray(images), jnp.asarray(images[:1])

    model.train()
    training, params, *others = nnx.split(model, nnx.Param, ...)
    (rest,) = others
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)

    def loss_of_output(output: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        if output.shape == x.shape:  # of an autoencoder
            return jnp.square(output - x).mean()
        return optax.softmax_cross_entropy_with_integer_labels(output, y).mean()

    def step(params: Any, rest: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_of(params: Any) -> Any:
            model = nnx.merge(training, params, rest, copy=True)
            outputs = model(x)
            main, others, weight = outputs if isinstance(outputs, models.WithAuxiliary) else (outputs, (), 0.0)
            losses = [loss_of_output(z, x, y) for z in (main, *others)]
            return losses[0] + weight * sum(losses[1:]), nnx.state(model, nnx.Not(nnx.Param))

        (loss, new_rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), new_rest, opt_state, loss

    # The arrays of `state` live on in inference: the step must not take their buffers before it has its own.
    carried = [jax.tree.map(jnp.copy, (params, rest, optimizer.init(params)))]
    y = jnp.asarray(labels)
    started = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*carried[0], batch, y).compile()
    compilation = time.perf_counter() - started
    plan: Any = compiled.memory_analysis()

    def train_step() -> None:
        *new, loss = compiled(*carried[0], batch, y)
        carried[0] = tuple(new)
        loss.block_until_ready()

    return Contender(
        lambda: np.asarray(infer(state, batch)),
        {
            "latency": lambda: infer(state, single).block_until_ready(),
            "throughput": lambda: infer(state, batch).block_until_ready(),
            "training": train_step,
        },
        memory=plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes,
        compilation=compilation,
    )


# ---------------------------------------------------------------- torch


def torch_contender(reference: Any, images: np.ndarray, labels: np.ndarray) -> Contender:
    """Return torch's network in channels_last memory, on the device that stands for JAX's."""
    import torch

    device = torch_device()
    network = reference.to(device).to(memory_format=torch.channels_last)
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # NHWC numbers are channels_last
    y = torch.from_numpy(labels).to(device)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)
    cross_entropy = torch.nn.functional.cross_entropy

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def infer(x: Any) -> Any:
        with torch.no_grad():
            outputs = network(x)
        wait()
        return outputs

    def logits() -> np.ndarray:
        """In float64: rounding moves the switch of a pooling whose window holds two values that are almost equal."""
        exact = copy.deepcopy(network).double().eval()
        with torch.no_grad():
            found: np.ndarray = _all_logits(exact(x.double()))[0].cpu().numpy()
        return np.moveaxis(found, 1, -1)

    def step() -> None:
        optimizer.zero_grad()
        outputs = network(x)
        main, *others = _all_logits(outputs)
        weight = 0.5 if isinstance(outputs, dict) else 0.3 if len(others) == 2 else 0.4  # GoogLeNet's, Inception-v3's
        loss = cross_entropy(main, y) + weight * sum(cross_entropy(z, y) for z in others)
        loss.backward()
        optimizer.step()
        wait()

    calls = {"latency": lambda: infer(x[:1]), "throughput": lambda: infer(x), "training": step}
    return Contender(logits, calls, set_mode=network.train)


def _all_logits(outputs: Any) -> tuple[Any, ...]:
    """Return the main logits and the auxiliary ones, as torchvision's networks for segmentation and for classes do."""
    return (
        tuple(outputs.values()) if isinstance(outputs, dict) else outputs if isinstance(outputs, tuple) else (outputs,)
    )


def torch_memory(name: str, size: int) -> int | None:
    """Return the bytes that torch's network, its optimiser and a training step take; None where nobody counts.

    On a GPU what torch holds there; else by how much this process grows, which should have done nothing before.
    """
    import torch

    network = networks()[name]
    warm_up = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten())
    warm_up.append(torch.nn.Linear(8 * 6 * 6, network.classes))
    _two_steps(warm_up, *_batch(network._replace(dense=False), 8))  # the libraries themselves are read
    with _counted() as counted:
        reference = peer(name, _options(network, size)[1])
        _two_steps(reference, *_batch(network, size))
    return counted()


def _two_steps(reference: Any, images: np.ndarray, labels: np.ndarray) -> None:
    """Train; in the second step the momentum is there from the beginning."""
    contender = torch_contender(reference, images, labels)
    contender.set_mode(True)
    contender.calls["training"]()
    contender.calls["training"]()


@contextlib.contextmanager
def _counted() -> Iterator[Callable[[], int | None]]:
    """Yield a function that says how much memory torch has taken at most since the `with` block began."""
    import torch

    if torch_device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        yield lambda: torch.cuda.max_memory_allocated() - held
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        yield lambda: None
        return
    yield lambda: peak_memory() - before


FUNCTIONS: dict[str, Callable[..., Any]] = {"measure": measure, "torch_memory": torch_memory}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started this says that it was stopped
    jax.config.update("jax_enable_compilation_cache", False)  # a program from the disk would count as compiled
    function, arguments = json.loads(sys.argv[1])
    print(json.dumps(FUNCTIONS[function](*arguments)))
