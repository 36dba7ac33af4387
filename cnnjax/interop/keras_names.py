"""The layer names of keras.applications, and the settings in which its networks differ from those here.

Its networks were ported from Caffe and TensorFlow, and compute what those do: strides in the first 1x1 convolution of
a bottleneck, an odd pixel of padding below and to the right ("same"), other constants beside variances.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import ops
from cnnjax.errors import UserError
from cnnjax.interop.names import Renames
from cnnjax.interop.slots import Setting
from cnnjax.models import mobilenet_v1
from cnnjax.models.googlenet import BasicConv
from cnnjax.nn import AvgPool, BatchNorm, Conv, MaxPool, Module, Sequential
from cnnjax.ops import arguments
from cnnjax.ops.arguments import Ints


class Family(NamedTuple):
    """How Keras has the networks of a class.

    Attributes:
        networks: their names here.
        renames: from layers here, "layer1.0.conv1/", to Keras's, "conv2_block1_1_conv/". Automatic names, which
            Keras numbers across models, count from 0 in each.
        preprocessing: how Keras's `preprocess_input` scales images, one of `keras_preprocess`'s.
        settings: static attributes of Keras's network.
        biased: whether convolutions have a bias before their batch normalisation.
        scaled: whether batch normalisations have a scale.
        classifier_is_conv: whether the classifier is a 1x1 convolution.
        normalizes: whether the network itself scales images, by a layer "normalization".
        known: whether a network of the class is one of these.
    """

    networks: str
    renames: Callable[[Any], Renames]
    preprocessing: str
    settings: tuple[Setting, ...] = ()
    biased: bool = False
    scaled: bool = True
    classifier_is_conv: bool = False
    normalizes: bool = False
    known: Callable[[Any], bool] = lambda model: True


def same_max_pool2d(x: jax.Array, window: Ints, *, stride: Ints, **_: Any) -> jax.Array:
    """`ops.max_pool2d` with Keras's padding "same": no value wins from outside, the odd pixel is below and right."""
    windows, strides = arguments.pair("window", window, 1), arguments.pair("stride", stride, 1)
    rows, columns = arguments.sides("SAME", arguments.spatial(x), windows, strides, (1, 1))
    outside = jnp.asarray(-jnp.inf, x.dtype)
    padded = lax.pad(x, outside, ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
    return ops.max_pool2d(padded, windows, stride=strides)


def automatic(name: str, number: int) -> str:
    """Return the name that Keras gives to the layer of that number of a kind: conv2d, conv2d_1, conv2d_2, ..."""
    return f"{name}_{number}" if number else name


def _xception_of_keras_1() -> dict[str, list[str]]:
    """Return today's names of Xception's layers by what Keras 1 called their kind, in the order of their creation."""
    blocks = {block: 3 if 5 <= block <= 12 else 2 for block in range(2, 15)}  # separable convolutions
    convolutions = ["block1_conv1", "block1_conv2"]
    normalizations = [f"{name}_bn" for name in convolutions]
    separable = []
    for block, depth in blocks.items():
        if block in (2, 3, 4, 13):  # the shortcut comes first
            normalizations.append(automatic("batch_normalization", len(convolutions) - 2))
            convolutions.append(automatic("conv2d", len(convolutions) - 2))
        separable += [f"block{block}_sepconv{number + 1}" for number in range(depth)]
        normalizations += [f"{name}_bn" for name in separable[-depth:]]
    return {
        "convolution2d": convolutions,
        "separableconvolution2d": separable,
        "batchnormalization": normalizations,
        "dense": ["predictions"],
    }


# Xception's published file is as Keras 1 wrote it, with automatic names alone.
KERAS_1 = _xception_of_keras_1()


def _eps(value: float) -> Setting:
    return Setting(BatchNorm, {"eps": value})


_SAME = Setting(Conv, {"padding": "SAME"})
_PREDICTIONS: Renames = ((r"^(fc|classifier|classifier\.\d)/", "predictions/"),)


def _vgg(model: Any) -> Renames:
    convolutions: dict[int, str] = {}
    block, number = 1, 0
    for index, layer in enumerate(model.features):
        if isinstance(layer, Conv):
            number += 1
            convolutions[index] = f"block{block}_conv{number}/"
        elif isinstance(layer, MaxPool):
            block, number = block + 1, 0
    return (
        (r"^features\.(\d+)/", lambda index: convolutions.get(index, f"features.{index}/")),
        (r"^classifier\.0/", "fc1/"),
        (r"^classifier\.3/", "fc2/"),
        (r"^classifier\.6/", "predictions/"),
    )


def _resnet(model: Any) -> Renames:
    return (
        (r"^(conv|bn)1/", r"conv1_\1/"),
        (r"^layer(\d)\.(\d+)\.(conv|bn)(\d)/", lambda s, b, kind, i: f"conv{s + 1}_block{b + 1}_{i}_{kind}/"),
        (
            r"^layer(\d)\.(\d+)\.downsample\.(\d)/",
            lambda s, b, i: f"conv{s + 1}_block{b + 1}_0_{('conv', 'bn')[i]}/",
        ),
        *_PREDICTIONS,
    )


def _densenet(model: Any) -> Renames:
    parts = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}
    return (
        (r"^features\.conv0/", "conv1_conv/"),
        (r"^features\.norm0/", "conv1_bn/"),
        (r"^features\.norm5/", "bn/"),
        (
            r"^features\.denseblock(\d)\.denselayer(\d+)\.(\w+)/",
            lambda b, layer, part: f"conv{b + 1}_block{layer}_{parts[part]}/",
        ),
        (r"^features\.transition(\d)\.norm/", lambda b: f"pool{b + 1}_bn/"),
        (r"^features\.transition(\d)\.conv/", lambda b: f"pool{b + 1}_conv/"),
        *_PREDICTIONS,
    )


def _inception_v3(model: Any) -> Renames:
    numbers = {path: number for number, path in enumerate(_convolutions(model))}
    return (
        (r"^(.+)\.conv/", lambda path: f"{automatic('conv2d', numbers[path])}/"),
        (r"^(.+)\.bn/", lambda path: f"{automatic('batch_normalization', numbers[path])}/"),
        *_PREDICTIONS,
    )


def _convolutions(model: Any) -> Iterator[str]:
    """Yield Inception-v3's normalised convolutions in the order in which Keras creates them."""

    def within(path: str, layer: Module) -> Iterator[str]:
        if isinstance(layer, BasicConv):
            yield path
        elif isinstance(layer, Sequential):
            for name, inner in zip(layer.names, layer, strict=True):
                yield from within(f"{path}.{name}", inner)

    for name in sorted(vars(model)):  # conv2d_1a_3x3, ..., mixed_7c; the auxiliary classifier is not Keras's
        yield from within(name, getattr(model, name))


def _xception(model: Any) -> Renames:
    return (
        (r"^(conv|bn)([12])/", lambda kind, i: f"block1_conv{i}{'_bn' if kind == 'bn' else ''}/"),
        (r"^conv([34])\.(depth|point)wise/", lambda i, kind: f"block14_sepconv{i - 2}/{kind}wise_"),
        (r"^bn([34])/", lambda i: f"block14_sepconv{i - 2}_bn/"),
        (
            r"^block(\d+)\.rep\.(\d+)\.(depth|point)wise/",
            lambda b, i, kind: f"block{b + 1}_sepconv{i // 3 + 1}/{kind}wise_",
        ),
        (r"^block(\d+)\.rep\.(\d+)/", lambda b, i: f"block{b + 1}_sepconv{i // 3 + 1}_bn/"),
        (r"^block(\d+)\.skip/", lambda b: f"{automatic('conv2d', min(b, 4) - 1)}/"),
        (r"^block(\d+)\.skipbn/", lambda b: f"{automatic('batch_normalization', min(b, 4) - 1)}/"),
        *_PREDICTIONS,
    )


def _mobilenet(model: Any) -> Renames:
    depths = [depth for _, depth, _ in mobilenet_v1.STAGES]
    parts = {"conv_dw": "conv_dw_{}", "bn1": "conv_dw_{}_bn", "conv_pw": "conv_pw_{}", "bn2": "conv_pw_{}_bn"}
    return (
        (r"^conv_stem/", "conv1/"),
        (r"^bn1/", "conv1_bn/"),
        (
            r"^blocks\.(\d)\.(\d)\.(\w+)/",
            lambda s, b, part: parts[part].format(sum(depths[:s]) + b + 1) + "/",
        ),
        (r"^classifier/", "conv_preds/"),
    )


def _mobilenet_v2(model: Any) -> Renames:
    first = {"0.0": "depthwise", "0.1": "depthwise_BN", "1": "project", "2": "project_BN"}
    others = {"0.0": "expand", "0.1": "expand_BN", "1.0": "depthwise", "1.1": "depthwise_BN"}
    others |= {"2": "project", "3": "project_BN"}

    def block(index: int, part: int | str) -> str:
        part = str(part)
        return f"expanded_conv_{first[part]}/" if index == 1 else f"block_{index - 1}_{others[part]}/"

    return (
        (r"^features\.0\.0/", "Conv1/"),
        (r"^features\.0\.1/", "bn_Conv1/"),
        (r"^features\.18\.0/", "Conv_1/"),
        (r"^features\.18\.1/", "Conv_1_bn/"),
        (r"^features\.(\d+)\.conv\.(\d(?:\.\d)?)/", block),
        *_PREDICTIONS,
    )


def _efficientnet(model: Any) -> Renames:
    plain = {"0.0": "dwconv", "0.1": "bn", "1.fc1": "se_reduce", "1.fc2": "se_expand"}
    plain |= {"2.0": "project_conv", "2.1": "project_bn"}
    expanded = {"0.0": "expand_conv", "0.1": "expand_bn", "1.0": "dwconv", "1.1": "bn"}
    expanded |= {"2.fc1": "se_reduce", "2.fc2": "se_expand", "3.0": "project_conv", "3.1": "project_bn"}

    def block(stage: int, index: int, part: str) -> str:
        return f"block{stage}{chr(ord('a') + index)}_{(plain if stage == 1 else expanded).get(part, part)}/"

    return (
        (r"^features\.0\.0/", "stem_conv/"),
        (r"^features\.0\.1/", "stem_bn/"),
        (r"^features\.8\.0/", "top_conv/"),
        (r"^features\.8\.1/", "top_bn/"),
        (r"^features\.(\d)\.(\d+)\.block\.(\d\.\w+)/", block),
        *_PREDICTIONS,
    )


def _is_bottleneck_resnet(model: Any) -> bool:
    """Whether a ResNet is neither of two convolutions a block, nor wide or in groups."""
    block = model.layer1[0]
    return hasattr(block, "conv3") and block.conv2.out_channels == 64


FAMILIES = {
    "VGG": Family("vgg16, vgg19", _vgg, "caffe", known=lambda model: len(model.features) in (31, 37)),
    "ResNet": Family(
        "resnet50, resnet101, resnet152",
        _resnet,
        "caffe",
        (
            _eps(1.001e-5),
            Setting(Conv, {"stride": 2}, r"^layer[234]\.0\.conv1$"),
            Setting(Conv, {"stride": 1}, r"^layer[234]\.0\.conv2$"),
        ),
        biased=True,
        known=_is_bottleneck_resnet,
    ),
    "DenseNet": Family(
        "densenet121, densenet169, densenet201",
        _densenet,
        "torch",
        (_eps(1.001e-5),),
        known=lambda model: model.features[0].out_channels == 64,
    ),
    "InceptionV3": Family(
        "inception_v3",
        _inception_v3,
        "tf",
        (_eps(1e-3), Setting(AvgPool, {"count_include_pad": False})),
        scaled=False,
    ),
    "Xception": Family("xception", _xception, "tf", (_eps(1e-3), Setting(MaxPool, {"pool": same_max_pool2d}))),
    "MobileNetV1": Family(
        "mobilenet_v1",
        _mobilenet,
        "tf",
        (_eps(1e-3), _SAME, Setting(Conv, {"padding": ((0, 1), (0, 1))}, r"^blocks\.[1-4]\.0\.conv_dw$")),
        classifier_is_conv=True,
    ),
    "MobileNetV2": Family("mobilenet_v2", _mobilenet_v2, "tf", (_eps(1e-3), _SAME)),
    "EfficientNet": Family(
        "efficientnet_b0 to _b7",
        _efficientnet,
        "none",
        (_eps(1e-3), _SAME),
        normalizes=True,
        known=lambda model: len(set(model.features.names) - {"normalization"}) == 9,  # EfficientNetV2 has 8
    ),
}


def family_of(model: Module) -> Family:
    """Return how Keras has a network.

    Raises:
        UserError: Keras has no such network.
    """
    name = type(model).__name__
    if name not in FAMILIES or not FAMILIES[name].known(model):
        networks = ", ".join(family.networks for family in FAMILIES.values())
        raise UserError(f"keras.applications has no such {name}: its networks here are {networks}")
    return FAMILIES[name]
