"""The layers of a classification network as the backbone of another: feature maps at strides 2, 4, 8, 16 and 32.

As torchvision's `IntermediateLayerGetter` and timm's `features_only`; late stages can be dilated instead of strided.
Chen et al., "Semantic image segmentation with deep convolutional nets and fully connected CRFs" (2014); Yu & Koltun,
"Multi-scale context aggregation by dilated convolutions" (2015).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.registry import lookup
from cnnjax.nn import Activation, AvgPool, BatchNorm, Conv, Identity, MaxPool, Module, replace_module, watch_calls
from cnnjax.ops.arguments import pair

STRIDES = (2, 4, 8, 16, 32)
OUTPUT_STRIDES = (8, 16, 32)
SIZE = 64  # height and width of the image for which shapes are traced

# A network's layers in the order of their calls, and the names of those that end each stride of STRIDES ("": none).
Trunk = tuple[dict[str, Module], Sequence[str]]
# The name of a network, or what `register` takes.
Builder = str | Callable[..., Module]


def _features(*ends: str) -> Callable[[Any], Trunk]:
    return lambda network: (dict(zip(network.features.names, network.features, strict=True)), ends)


def _resnet(network: Any) -> Trunk:
    stem = {"conv1": network.conv1, "bn1": network.bn1, "relu": Activation(nnx.relu), "maxpool": network.maxpool}
    stages = ("layer1", "layer2", "layer3", "layer4")
    return stem | {name: getattr(network, name) for name in stages}, ("relu", *stages)


def _vgg(network: Any) -> Trunk:
    layers, _ = _features()(network)
    return layers, [name for name, layer in layers.items() if isinstance(layer, MaxPool)]


def _mobilenet_v1(network: Any) -> Trunk:
    stages = {f"blocks.{number}": block for number, block in enumerate(network.blocks)}
    stem = {"conv_stem": network.conv_stem, "bn1": network.bn1, "relu6": Activation(nnx.relu6)}
    return stem | stages, tuple(stages)


def _mobilenet_v3(network: Any) -> Trunk:
    large = len(network.features) == 17
    # Stride 8 ends with its first block, as in torchvision's segmentation networks, whose weights need it.
    return _features(*(("1", "3", "4", "12", "16") if large else ("0", "1", "3", "8", "12")))(network)


def _efficientnet(network: Any) -> Trunk:
    return _features("1", "2", "3", "5", str(len(network.features) - 2))(network)


def _shufflenet_v2(network: Any) -> Trunk:
    names = ("conv1", "maxpool", "stage2", "stage3", "stage4")
    return {name: getattr(network, name) for name in names}, names


# By the names of the networks' classes. 1x1 convolutions behind the last stage belong to the classifier, except in
# MobileNetV3, where torchvision keeps it. An entry makes a network of your own a backbone.
TRUNKS: dict[str, Callable[[Any], Trunk]] = {
    "ConvNeXt": _features("", "1", "3", "5", "7"),
    "DenseNet": _features("relu0", "denseblock1", "denseblock2", "denseblock3", "norm5"),
    "EfficientNet": _efficientnet,
    "MNASNet": _features("7", "8", "9", "11", "13"),
    "MobileNetV1": _mobilenet_v1,
    "MobileNetV2": _features("1", "3", "6", "13", "17"),
    "MobileNetV3": _mobilenet_v3,
    "ResNet": _resnet,
    "ShuffleNetV2": _shufflenet_v2,
    "VGG": _vgg,
}
# Where a stage's stride is left out, torchvision dilates the strided convolution of MobileNetV3, too.
DILATES_STRIDED = ("MobileNetV3",)


class Backbone(Module):
    """The layers of a network up to the last feature maps that are wanted; it returns a tuple of these.

    Args:
        network: a name of `list_models`, or a class or function that builds a network; its class is in `TRUNKS`.
        strides: of the wanted feature maps in the network as it is, ascending, of 2, 4, 8, 16 and 32.
        output_stride: 8, 16 or 32, the largest stride that is left. Layers that would go beyond it keep the size, and
            the windows of those behind them are dilated, so that each sees the pixels it would have seen.
        in_channels: channels of the images.
        rngs: source of the initial parameters.

    Attributes:
        channels: of the wanted feature maps.
        kind: name of the network's class.

    Raises:
        UserError: the network is no backbone, has no maps of such a stride, or has layers that cannot be dilated.
    """

    def __init__(
        self, network: Builder, strides: Sequence[int], output_stride: int = 32, *, in_channels: int, rngs: nnx.Rngs
    ):
        if output_stride not in OUTPUT_STRIDES:
            raise UserError(f"output_stride must be one of 8, 16 and 32, got {output_stride!r}")
        whole = _build(network, in_channels, rngs)
        self.kind = type(whole).__name__
        layers, ends = layers_of(whole)
        named = dict(zip(STRIDES, ends, strict=True))
        if missing := [stride for stride in strides if not named[stride]]:
            raise UserError(f"{self.kind} has no feature maps of stride {missing[0]}")
        self.ends = tuple(named[stride] for stride in strides)
        self.names = tuple(layers)[: tuple(layers).index(self.ends[-1]) + 1]
        self.layers = nnx.Dict({name: layers[name] for name in self.names})
        shapes, calls = _traced(self, in_channels)
        found = tuple(SIZE // shape[1] for shape in shapes)
        if found != tuple(strides):
            raise UserError(
                f"{self.kind} has feature maps of strides {found} here, where {tuple(strides)} are expected"
            )
        self.channels = tuple(shape[3] for shape in shapes)
        if output_stride < strides[-1]:
            _dilate(self, calls, output_stride, self.kind in DILATES_STRIDED)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        found = []
        for name in self.names:
            x = self.layers[name](x)
            if name in self.ends:
                found.append(x)
        return tuple(found)


def layers_of(network: Module) -> Trunk:
    """Return a network's layers without its classifier, and the names of those that end each stride.

    Raises:
        UserError: the network is not in `TRUNKS`.
    """
    kind = type(network).__name__
    if kind not in TRUNKS:
        raise UserError(f"{kind} cannot be a backbone: choose a network of {', '.join(sorted(TRUNKS))}")
    return TRUNKS[kind](network)


def load_backbone(model: Any, network: Module) -> None:
    """Copy the parameters and statistics of a classification network into the backbone of a model.

    With weights of any origin, for example ImageNet's:

    ```
    network = models.create_model("mobilenet_v2")
    interop.load_torch(network, state_dict)
    models.load_backbone(model, network)
    ```
    A model that has VGG's fully connected layers as convolutions takes these over, too.

    Args:
        model: a network with a `backbone`, such as those for segmentation.
        network: a network of the backbone's architecture; its classifier may have any number of classes.

    Raises:
        UserError: the model has no backbone, or the network has another architecture or other shapes.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise UserError(f"{type(model).__name__} has no backbone that could take weights over")
    layers, _ = layers_of(network)
    pairs: list[tuple[nnx.Module, nnx.Module]] = []
    for name in backbone.names:
        pairs += _same(backbone.layers[name], layers.get(name))
    convolutions: list[Any] = [layer for layer in getattr(model, "fully_connected", ()) if isinstance(layer, Conv)]
    classifier: Any = getattr(network, "classifier", None) if type(network).__name__ == "VGG" else None
    linears = [classifier[0], classifier[3]] if classifier is not None else []
    for mine, other in pairs:
        nnx.update(mine, nnx.state(other, (nnx.Param, nnx.BatchStat)))
        if isinstance(mine, BatchNorm) and isinstance(other, BatchNorm):
            mine.eps = other.eps  # in which weights of different origin differ
    for conv, linear in zip(convolutions, linears, strict=False):
        if conv.kernel[...].size == linear.kernel[...].size:  # else of another width than the network's
            conv.kernel.set_value(linear.kernel[...].reshape(conv.kernel[...].shape))
            conv.bias.set_value(linear.bias[...])


def _build(network: Builder, in_channels: int, rngs: nnx.Rngs) -> Module:
    build = lookup(network).build if isinstance(network, str) else network
    # Of VGG, most parameters are those of the classifier, which is thrown away.
    narrow = {"hidden": 1} if getattr(build, "func", build).__name__ == "VGG" else {}
    return build(num_classes=1, in_channels=in_channels, rngs=rngs, **narrow)


def _traced(backbone: Backbone, in_channels: int) -> tuple[list[tuple[int, ...]], list[tuple[Any, int]]]:
    """Return the shapes of the feature maps, and the layers with windows, by path, with the strides of their inputs."""
    graphdef, state = nnx.split(backbone)
    calls: list[tuple[Any, int]] = []

    def trace(state: Any, x: jax.Array) -> Any:
        copy = nnx.merge(graphdef, state)  # whose batch statistics are those of the trace
        paths = {id(module): path for path, module in nnx.iter_modules(copy)}

        def watch(module: Module, x: Any, y: Any) -> None:
            if isinstance(module, Conv | MaxPool | AvgPool):
                calls.append((paths[id(module)], SIZE // x.shape[1]))

        with watch_calls(watch):
            return copy(x)

    maps = jax.eval_shape(trace, state, jax.ShapeDtypeStruct((1, SIZE, SIZE, in_channels), jnp.float32))
    return [each.shape for each in maps], calls


def _dilate(backbone: Backbone, calls: list[tuple[Any, int]], output_stride: int, strided_too: bool) -> None:
    """Leave out strides beyond `output_stride`, and dilate by what was left out before a layer, or in it."""
    modules: dict[Any, Any] = dict(nnx.iter_modules(backbone))
    for path, before in calls:
        layer = modules[path]
        window = pair("kernel_size", layer.kernel_size, 1)
        stride, _ = pair("stride", layer.stride or layer.kernel_size, 1)
        after = before * stride
        kept = min(after, output_stride) // min(before, output_stride)
        rate = max(1, (after if strided_too else before) // output_stride)
        if kept == stride and (rate == 1 or window == (1, 1)):
            continue
        if isinstance(layer, MaxPool | AvgPool) and max(window) <= stride:
            replace_module(backbone, path, Identity())
        elif isinstance(layer, Conv | MaxPool) and window[0] % 2:
            layer.stride, layer.dilation = kept, rate if max(window) > 1 else 1
            top, left = pair("padding", layer.padding, 0)
            layer.padding = (rate * top, rate * left)
        else:
            raise UserError(
                f"{backbone.kind} has a {type(layer).__name__} with windows {window} and stride {stride}, which cannot "
                f"be dilated to output_stride={output_stride}: use output_stride=32, or another backbone"
            )


def _same(mine: nnx.Module, other: Module | None) -> list[tuple[nnx.Module, nnx.Module]]:
    """Return the modules of two layers in pairs, after checking that their parameters have the same shapes."""

    def shapes(layer: nnx.Module) -> Any:
        state = nnx.to_flat_state(nnx.state(layer, (nnx.Param, nnx.BatchStat)))
        return {path: variable.get_value().shape for path, variable in state}

    if other is None or shapes(mine) != shapes(other):
        raise UserError("the network has another architecture than the backbone: create the one that it was made of")
    others = dict(nnx.iter_modules(other))
    return [(module, others[path]) for path, module in nnx.iter_modules(mine) if path in others]
