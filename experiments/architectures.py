"""The architectures of the lectures: parameters and multiply-adds compared with the published numbers.

Lectures S1 (the eight groups of its assignment) and S2 ("CNN architectures", "Goldilocks zone of CNN models"), claims
H1, H3 and H4. Networks are traced at their published image size, without computing any value.

    python launch.py architectures
    python launch.py architectures --models "resnet*"

Takes two to four minutes on two cores. Expect every count to be the published one, and accuracy that grows much more
slowly than the multiply-adds: the picture of Canziani et al. (2016), with the published accuracies.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.progress import track

from cnnjax import models, runs, train, viz
from cnnjax.errors import UserError
from cnnjax.lab import markdown
from cnnjax.lab.claims import Claim, check, check_or_correct, not_run
from cnnjax.models.fractalnet import Fractal
from cnnjax.nn import Conv, GlobalAvgPool, Linear
from cnnjax.options import Checked
from experiments.bench.published_networks import Published, read

CONVOLUTIONS_ONLY = "shufflenet_v1"  # its paper counts no other layer
TORCHVISION_DROPOUT = 0.2  # of its GoogLeNet, where the paper has 0.4
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
    "ZFNet": ("zfnet",),
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
        *(_structure(title, names, counted) for title, names in GROUPS.items()),
        _first_layer_of_zfnet(),
        *_output_classifier(),
        *_fractals(),
    ]


def _structure(title: str, names: tuple[str, ...], counted: Mapping[str, Any]) -> Claim:
    statement = f"{title}: parameters and multiply-adds are the published ones"
    networks = [network for name, network in read().items() if name in names]
    theirs = "; ".join(_numbers(network.params, network.gmacs) for network in networks)
    if not all(name in counted for name in names):
        return not_run("H1", statement, "needs python launch.py architectures, published")
    ours = "; ".join(_numbers(counted[n.name]["params"], counted[n.name]["macs"] / 1e9) for n in networks)
    agree = all(_agrees(network, counted[network.name]) for network in networks)
    tolerance = "parameters exact, multiply-adds 1 % or the last published digit"
    return check("H1", statement, theirs, ours, agree, tolerance)


def _numbers(params: int | None, gmacs: float | None) -> str:
    return ", ".join([*([f"{params:,}"] if params else []), *([f"{gmacs:.3f}G"] if gmacs else [])])


def _agrees(network: Published, row: Mapping[str, Any]) -> bool:
    same_params = network.params in (None, row["params"])
    return same_params and (network.gmacs is None or abs(row["macs"] / 1e9 / network.gmacs - 1) <= network.tolerance)


def _abstract(name: str, **options: Any) -> Any:
    return nnx.eval_shape(lambda: models.create_model(name, **options))


def _first_layer_of_zfnet() -> Claim:
    conv = _abstract("zfnet").features[0]
    ours = f"[{conv.kernel_size[0]}x{conv.kernel_size[1]}/{conv.stride}, {conv.in_channels} to {conv.out_channels}]"
    lecture = "[7x7/2, 3 to 96]"
    return check("H1", "ZFNet's first layer", lecture, ours, ours == lecture)


def _output_classifier() -> list[Claim]:
    """H3, of GoogLeNet: 1,024 is the number of inputs of its linear layer, not of outputs as in the lecture."""
    net = _abstract("googlenet")
    vgg = _abstract("vgg16").classifier
    replaced = sum(models.count_params(vgg[index]) for index in (0, 3))
    classifier = models.count_params(net.fc)
    parts = [type(part) for part in (net.avgpool, net.fc)] == [GlobalAvgPool, Linear]
    right = parts and net.fc.in_features == 1024 and net.fc.out_features == 1000
    heads = [name for name in net.heads if name.startswith("aux")]
    return [
        check_or_correct(
            "H3",
            "Inception's output classifier: global average pooling, dropout, one fully connected layer",
            "a fully connected layer of 1,024 outputs",
            f"{net.fc.in_features:,} inputs, {net.fc.out_features:,} outputs",
            holds=False,
            confirmed=right,
            correction="1,024 are the layer's inputs, its outputs are the classes",
        ),
        check(
            "H3",
            "the published network leaves out 40 % before that layer (Szegedy et al., 2014, table 1)",
            "40 %",
            f"40 % with dropout=0.4; by default {net.dropout.rate:.0%} as in torchvision, for its weights",
            net.dropout.rate == TORCHVISION_DROPOUT,
            "the lecture's value is the paper's, the default is torchvision's",
        ),
        check(
            "H3",
            "it replaces a memory demanding classifier with two layers of 4,096 features",
            "less memory",
            f"{classifier:,} parameters, the two layers of VGG-16 have {replaced:,}",
            100 * classifier <= replaced,
            "at most a hundredth",
        ),
        check("H3", "auxiliary classifiers of GoogLeNet", "2", str(len(heads)), len(heads) == 2),
    ]


def _fractals() -> list[Claim]:
    """H4: the rule, evaluated on the units of a block of the network itself."""
    fractal = Fractal(3, 4, 0, 2, dropout=0.0, drop_path=0.0, rngs=nnx.Rngs(0))
    fractal.eval()
    z = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    f1 = {name: getattr(fractal, name).unit for name in ("first", "second")}
    by_the_rule = (np.asarray(f1["second"](f1["first"](z))) + np.asarray(fractal.unit(z))) / 2
    error = float(jnp.abs(jnp.mean(jnp.stack(fractal(z)), axis=0) - by_the_rule).max())
    depths = {columns: _longest_path(columns) for columns in range(1, 6)}
    return [
        check(
            "H4",
            "FractalNet: f1 = conv, f2 = the element-wise mean of (f1 o f1) and conv",
            "(f1(f1(z)) + conv(z)) / 2",
            f"at most {error:.0e} away from it",
            error <= 1e-6,
            "1e-6",
        ),
        check(
            "H4",
            "f(C+1) = the join of (fC o fC) and conv, the element-wise mean of all columns that meet: C columns have a "
            "longest path of 2^(C-1) convolutions",
            ", ".join(str(2 ** (columns - 1)) for columns in depths),
            ", ".join(map(str, depths.values())),
            all(depth == 2 ** (columns - 1) for columns, depth in depths.items()),
        ),
    ]


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
