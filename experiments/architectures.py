"""The architectures of the lectures: parameters and multiply-adds compared with the published numbers.

Lectures S1 (the eight groups of its assignment) and S2 ("CNN architectures", "Goldilocks zone of CNN models"), claims
H1, H3 and H4. Networks are traced at their published image size, without computing any value.

    python launch.py architectures
    python launch.py architectures --models "resnet*"

Takes two to four minutes on two cores. Expect every count to be the published one, and accuracy that grows much more
slowly than the multiply-adds: the picture of Canziani et al. (2016), with the published accuracies.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.progress import track

from cnnjax import models, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import ROUNDING, Claim, check, check_or_correct, not_run, stored
from cnnjax.models.fractalnet import Block, Fractal
from cnnjax.nn import Conv, Linear
from cnnjax.options import Checked
from experiments.bench.published_networks import Published, read

CONVOLUTIONS_ONLY = "shufflenet_v1"  # its paper counts no other layer
PAPER_DROPOUT, TORCHVISION_DROPOUT = 0.4, 0.2  # of GoogLeNet's classifier
SHARES = 0.03  # how far a measured share of some 4,000 inputs may be off: four standard errors
VGG_LAYERS = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096  # parameters of VGG-16's two layers of 4,096
FIGURE_3 = (  # of Zeiler & Fergus (2013): kernels of ZFNet's layers
    (7, 7, 3, 96),
    (5, 5, 96, 256),
    (3, 3, 256, 384),
    (3, 3, 384, 384),
    (3, 3, 384, 256),
    (6 * 6 * 256, 4096),
    (4096, 4096),
    (4096, 1000),
)
NO_AUXILIARY = ("googlenet",)  # counted without its auxiliary heads, which only training uses
# The networks that are counted for each name of the lectures: the groups of S1 first, then what S2 adds.
GROUPS = {
    "VGG-16 and VGG-19": ("vgg16", "vgg19"),
    "MobileNet": ("mobilenet_v1",),
    "ResNet-50 and ResNet-152": ("resnet50", "resnet152"),
    "ShuffleNet": tuple(f"{CONVOLUTIONS_ONLY}_g{groups}" for groups in (1, 2, 3, 4, 8)),
    "GoogLeNet and Inception-v3": ("googlenet", "inception_v3"),
    "Xception": ("xception",),
    "ResNeXt-50": ("resnext50_32x4d",),
    "EfficientNet": tuple(f"efficientnet_b{number}" for number in range(8)),
    "AlexNet": ("alexnet",),
    "DenseNet": ("densenet121", "densenet161", "densenet169", "densenet201"),
}


@dataclass(frozen=True)
class Config(Checked):
    """Count networks."""

    models: str = "*"
    """Shell pattern of the networks to count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not fnmatch.filter(read(), self.models):
            raise UserError(f"`models={self.models!r}` matches none of {', '.join(read())}")


def load(config: Config) -> list[Published]:
    """Return the published numbers of the networks to count."""
    published = read()
    return [published[name] for name in fnmatch.filter(published, config.models)]


def run(config: Config, networks: list[Published], run: runs.Run, parallel: train.Parallel) -> dict[str, Any]:
    """Count every network, and draw accuracy against multiply-adds."""
    rows = {network.name: count(network) for network in track(networks, "counting", console=Console(stderr=True))}
    points = {
        network.name: (rows[network.name]["macs"] / 1e9, network.top1, rows[network.name]["params"] / 1e6)
        for network in networks
    }
    viz.save(viz.bubbles(points), run.figures / "accuracy-against-operations.png")
    return {"networks": rows}


def count(network: Published) -> dict[str, Any]:
    """Return the parameters and multiply-adds of a network at its published image size by tracing it."""
    found: dict[str, Any] = {}

    def trace() -> None:
        options = {"auxiliary": False} if network.name in NO_AUXILIARY else {}
        model = models.create_model(network.name, **options)
        model.eval()
        rows = models.layer_rows(model, (network.size, network.size, 3))
        if network.name.startswith(CONVOLUTIONS_ONLY):
            rows = [row for row in rows if row.kind == Conv.__name__]
        found.update(params=models.count_params(model), macs=sum(row.macs for row in rows))

    nnx.eval_shape(trace)
    return found


# ---------------------------------------------------------------- results


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of the counts beside the published ones."""
    published, rows = read(), []
    for name, row in summary["networks"].items():
        network = published[name]
        params = f"{network.params:,}" if network.params else ""
        gmacs = f"{network.gmacs:g}" if network.gmacs else ""
        counted = (f"{row['params']:,}", params, f"{row['macs'] / 1e9:.3f}", gmacs)
        rows.append((name, network.size, *counted, f"{network.top1:.1f} %"))
    head = ("network", "image", "parameters", "published", "multiply-adds (G)", "published", "top-1, published")
    return markdown.table(head, rows)


def claims(summary: dict[str, Any] | None) -> list[Claim]:
    """Return claims H1, whose counts are read from a finished run, and H3 and H4, computed here."""
    counted = (summary or {}).get("networks", {})
    return [
        *stored("architectures", *(_structure(title, names, counted) for title, names in GROUPS.items())),
        *_zfnet(),
        *_output_classifier(),
        *_fractals(),
    ]


def _structure(title: str, names: tuple[str, ...], counted: Mapping[str, Any]) -> Claim:
    networks = [network for name, network in read().items() if name in names]
    statement = f"{title}: parameters and multiply-adds are the published ones ({_sources(networks)})"
    theirs = "; ".join(_numbers(network.params, network.gmacs) for network in networks)
    if not all(name in counted for name in names):
        return not_run("H1", statement, "needs python launch.py architectures, published")
    ours = "; ".join(
        _numbers(n.params and counted[n.name]["params"], n.gmacs and counted[n.name]["macs"] / 1e9) for n in networks
    )
    agree = all(_agrees(network, counted[network.name]) for network in networks)
    tolerance = "parameters exact, multiply-adds 1 % or the last published digit"
    return check("H1", statement, f"names them; published: {theirs}", ours, agree, tolerance)


def _sources(networks: Sequence[Published]) -> str:
    return "; ".join(dict.fromkeys(network.source for network in networks))


def _numbers(params: int | None, gmacs: float | None) -> str:
    return ", ".join([*([f"{params:,}"] if params else []), *([f"{gmacs:.3f}G"] if gmacs else [])])


def _agrees(network: Published, row: Mapping[str, Any]) -> bool:
    same_params = network.params in (None, row["params"])
    return same_params and (network.gmacs is None or abs(row["macs"] / 1e9 / network.gmacs - 1) <= network.tolerance)


def _abstract(name: str, **options: Any) -> Any:
    return nnx.eval_shape(lambda: models.create_model(name, **options))


def _zfnet() -> list[Claim]:
    """H1 for ZFNet, whose paper prints no counts: the layers of its figure 3, with the counts that follow from them."""
    layers = [module for _, module in nnx.iter_modules(_abstract("zfnet")) if isinstance(module, Conv | Linear)]
    shapes = sorted(layer.kernel.get_value().shape for layer in layers)
    params = sum(models.count_params(layer) for layer in layers)
    expected = sum(math.prod(shape) + shape[-1] for shape in FIGURE_3)
    conv = _abstract("zfnet").features[0]
    ours = f"[{conv.kernel_size[0]}x{conv.kernel_size[1]}/{conv.stride}, {conv.in_channels} to {conv.out_channels}]"
    lecture = "[7x7/2, 3 to 96]"
    return [
        check(
            "H1",
            "ZFNet: kernels of the layers in figure 3 of Zeiler & Fergus (2013), which prints no counts; parameters by "
            "hand from them",
            f"names it; 5 convolutions and 3 fully connected layers, {expected:,}",
            f"{sum(isinstance(layer, Conv) for layer in layers)} and "
            f"{sum(isinstance(layer, Linear) for layer in layers)}, {params:,}",
            shapes == sorted(FIGURE_3) and params == expected,
        ),
        check("H1", "ZFNet's first layer", lecture, ours, ours == lecture),
    ]


def _output_classifier() -> list[Claim]:
    """H3, of GoogLeNet, measured on the network: its classifier is made the identity, so that logits are its inputs."""
    vgg, net = _abstract("vgg16").classifier, _abstract("googlenet")
    replaced, classifier = sum(models.count_params(vgg[index]) for index in (0, 3)), models.count_params(net.fc)
    pooled, dropped, auxiliary = _head(PAPER_DROPOUT)
    default = _head(None).dropped
    return [
        check_or_correct(
            "H3",
            "S2: Inception's classifier is global average pooling, dropout and one fully connected layer of as many "
            "outputs as classes",
            "a fully connected layer of 1,024 neurons before the softmax",
            f"{net.fc.in_features:,} inputs, means of the last maps to {pooled:.0e}; {net.fc.out_features:,} outputs",
            f"exact; means {ROUNDING:g}",
            holds=net.fc.out_features == 1024,
            confirmed=(net.fc.in_features, net.fc.out_features) == (1024, 1000) and pooled <= ROUNDING,
            correction="1,024 are the layer's inputs, its outputs are the 1,000 classes",
        ),
        check(
            "H3",
            "40 % dropout before that layer (as in table 1 of Szegedy et al., 2014): inputs left out in training of "
            f"create_model('googlenet', dropout={PAPER_DROPOUT}); by default as many as torchvision, for its weights",
            f"{PAPER_DROPOUT:.0%}",
            f"{dropped:.1%}; by default {default:.1%}",
            abs(dropped - PAPER_DROPOUT) <= SHARES and abs(default - TORCHVISION_DROPOUT) <= SHARES,
            f"{PAPER_DROPOUT:.0%} and torchvision's {TORCHVISION_DROPOUT:.0%}, to {100 * SHARES:g} points",
        ),
        check(
            "H3",
            "it replaces a memory demanding classifier with two layers of 4,096 features",
            "less memory",
            f"{classifier:,} parameters, the two layers of VGG-16 have {replaced:,}",
            replaced == VGG_LAYERS and 100 * classifier <= replaced,
            f"at most a hundredth of {VGG_LAYERS:,}",
        ),
        check(
            "H3",
            "two auxiliary classifiers of GoogLeNet, for two additional gradient flows: auxiliary logits in training "
            "whose gradients reach the first layer",
            "2",
            str(auxiliary),
            auxiliary == 2,
        ),
    ]


class Head(NamedTuple):
    """What was measured of GoogLeNet's output."""

    pooled: float  # distance of the classifier's inputs from the means of the last maps
    dropped: float  # share of its inputs that are left out in training
    auxiliary: int  # number of further logits in training with a gradient in the first layer


def _head(dropout: float | None) -> Head:
    """Measure the output of the network itself, whose layers before it are replaced: they take a minute to compile."""
    net = _abstract("googlenet", num_classes=1024, **({} if dropout is None else {"dropout": dropout}))
    for name in [name for name in vars(net) if name.startswith(("conv", "maxpool", "inception"))]:
        setattr(net, name, partial(_widened, channels=WIDTHS.get(name, 0)))
    nnx.update(net, jax.tree.map(_filled, nnx.state(net, nnx.Variable)))
    net.fc.kernel[...], net.fc.bias[...] = jnp.eye(1024), jnp.zeros(1024)
    x = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3), minval=0.1)

    def of_auxiliary(net: Any, x: jax.Array, number: int) -> jax.Array:
        return jnp.square(net(x).auxiliary[number]).sum()

    net.eval()
    means = _widened(x, 1024).mean((1, 2))
    pooled = float(jnp.abs(net(x) - means).max() / means.max())
    net.train()
    logits, auxiliary, _ = net(x)
    slopes = [nnx.grad(partial(of_auxiliary, number=number), argnums=1)(net, x) for number in range(len(auxiliary))]
    return Head(pooled, float((logits == 0).mean()), sum(bool(jnp.abs(slope).max() > 0) for slope in slopes))


def _filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Return a value for a variable that has none: a key, or small positive numbers."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.full(leaf.shape, 0.01, leaf.dtype)


WIDTHS = {"inception4a": 512, "inception4d": 528, "inception5b": 1024}  # channels that the classifiers take


def _widened(x: jax.Array, channels: int) -> jax.Array:
    """Return x, or as many channels of positive numbers made of it."""
    return x[..., :1] * jnp.linspace(1, 2, channels) if channels else x


def _fractals() -> list[Claim]:
    """H4: the network's own blocks, beside the rule evaluated in NumPy."""
    errors = {columns: _distance_from_the_rule(columns) for columns in (1, 2, 3, 4)}
    depths = {columns: _longest_path(columns) for columns in range(1, 6)}
    return [
        check(
            "H4",
            "FractalNet: f1 = conv, f2 = the element-wise mean of (f1 o f1) and conv: a block of two columns",
            "(f1(f1(z)) + conv(z)) / 2",
            f"{errors[2]:.0e} away from it in NumPy",
            max(errors[1], errors[2]) <= ROUNDING,
            f"{ROUNDING:g}",
        ),
        check(
            "H4",
            "f(C+1) = the join of (fC o fC) and conv, where means that follow each other are one over all columns that "
            "meet, as in figure 1 of Larsson et al. (2016): blocks of 3 and 4 columns; the longest path of C columns "
            "has 2^(C-1) convolutions",
            ", ".join(str(2 ** (columns - 1)) for columns in depths),
            f"{', '.join(map(str, depths.values()))}; {errors[3]:.0e} and {errors[4]:.0e} away from it in NumPy",
            all(depth == 2 ** (columns - 1) for columns, depth in depths.items()) and max(errors.values()) <= ROUNDING,
            f"exact; {ROUNDING:g}",
        ),
    ]


def _distance_from_the_rule(columns: int) -> float:
    """Return how far a block's output is from the rule in NumPy, over the largest value."""
    block = Block(3, 4, columns, dropout=0.0, drop_path=0.0, rngs=nnx.Rngs(0))
    block.eval()
    z = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    joined = np.mean(_columns(block.fractal, z.astype(float)), axis=0)
    expected = joined.reshape(4, 2, 4, 2, -1).max((1, 3))  # of the 2x2 pooling
    ours = np.asarray(nnx.jit(lambda block, z: block(z))(block, z[None]))[0]
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def _columns(fractal: Fractal, z: np.ndarray) -> list[np.ndarray]:
    """Return f's columns in float64: a convolution with ReLU, and the columns of f o f of one column less."""
    kernel = np.asarray(fractal.unit.conv.kernel[...], float)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(z, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
    scale = 1 / np.sqrt(1 + fractal.unit.bn.eps)  # of a batch normalisation that has seen nothing
    conv = np.maximum(scale * np.einsum("hwcab,abco->hwo", windows, kernel), 0)
    if not fractal.deeper:
        return [conv]
    return [conv, *_columns(fractal.second, np.mean(_columns(fractal.first, z), axis=0))]


def _longest_path(columns: int) -> int:
    """Return the number of convolutions on a fractal's longest path, measured by its receptive field."""
    # With one channel and kernels of ones, the field grows by two pixels with every 3x3 convolution on the path.
    size = 2 * 2**columns + 1
    fractal = Fractal(1, 1, 0, columns, dropout=0.0, drop_path=0.0, rngs=nnx.Rngs(0))
    fractal.eval()
    for _, module in nnx.iter_modules(fractal):
        if isinstance(module, Conv):
            module.kernel[...] = jnp.ones_like(module.kernel[...])
    impulse = jnp.zeros((1, size, size, 1)).at[0, size // 2, size // 2, 0].set(1.0)
    reached = jnp.stack(fractal(impulse)).any(axis=0)[0, size // 2, :, 0]
    return (int(reached.sum()) - 1) // 2
