"""Tables of patterns that turn a network's names here into torchvision's and timm's."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from cnnjax.interop.slots import Setting, Slot
from cnnjax.nn import BatchNorm, Module, without_normalization

# Patterns, and what to put in their place: a template of `re.sub`, or a function of the groups, digits as integers.
Renames = tuple[tuple[str, str | Callable[..., str]], ...]


class Naming(NamedTuple):
    """How a library calls the arrays of a network.

    Attributes:
        renames: from the names here.
        shapes: for keys that match, the shape that the library has, with the same elements in the same order.
        settings: static attributes in which its network differs.
    """

    renames: Renames = ()
    shapes: tuple[tuple[str, Callable[[Slot], tuple[int, ...]]], ...] = ()
    settings: tuple[Setting, ...] = ()


def rename(name: str, renames: Renames) -> str:
    """Apply replacements one after another."""
    for pattern, new in renames:
        name = re.sub(pattern, new if isinstance(new, str) else _of_groups(new), name)
    return name


def namings(model: Module) -> list[Naming]:
    """Return torchvision's names for a network, and timm's where they are others."""
    model = without_normalization(model)
    kind = type(model).__name__
    return [Naming(TORCHVISION.get(kind, ())), *([TIMM[kind](model)] if kind in TIMM else [])]


TORCHVISION: dict[str, Renames] = {
    "InceptionV3": (
        (r"^conv2d_", "Conv2d_"),
        (r"^mixed_", "Mixed_"),
        (r"^aux_logits\.", "AuxLogits."),
        (r"branch_pool\.1\.", "branch_pool."),
        (r"(branch\w+)\.(\d)(?:\.([ab]))?\.", r"\1_\2\3."),  # of several convolutions, "1", "2", "3.a", ...
    ),
    "Xception": ((r"\.depthwise\.", ".conv1."),),  # timm's; torchvision has none
    # A `Sequential` keeps its layers under "layers", which names leave out; torchvision's MNASNet says it itself.
    "MNASNet": ((r"^features", "layers"), (r"\.block\.", ".layers.")),
}

# From names that a library no longer uses to its own: torchvision's files of densenets of 2017 (densenet121-a639ec97).
OLDER: dict[str, Renames] = {"DenseNet": ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)}

# The layers of timm's blocks by their places in ours, where the channels are not expanded and where they are. Behind
# the depthwise convolution there may be an excitation; MobileNetV2's last two layers stand by themselves.
_EXCITATION = {"fc1": "se.conv_reduce", "fc2": "se.conv_expand"}
_PLAIN = {"0.0": "conv_dw", "0.1": "bn1"} | {f"1.{name}": timm for name, timm in _EXCITATION.items()}
_PLAIN |= {"1.0": "conv_pw", "1.1": "bn2", "2.0": "conv_pw", "2.1": "bn2", "1": "conv_pw", "2": "bn2"}
_EXPANDED = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"}
_EXPANDED |= {f"2.{name}": timm for name, timm in _EXCITATION.items()}
_EXPANDED |= {"2.0": "conv_pwl", "2.1": "bn3", "3.0": "conv_pwl", "3.1": "bn3", "2": "conv_pwl", "3": "bn3"}
# EfficientNetV2's early blocks, with one convolution in the place of the first two.
_FUSED_PLAIN = {"0.0": "conv", "0.1": "bn1"}
_FUSED = {"0.0": "conv_exp", "0.1": "bn1", "1.0": "conv_pwl", "1.1": "bn2"}

_STEM: Renames = ((r"^features\.0\.0\.", "conv_stem."), (r"^features\.0\.1\.", "bn1."))
_CLASSIFIER: Renames = ((r"^classifier\.\d\.", "classifier."),)
_TIMM_NORM = (Setting(BatchNorm, {"eps": 1e-5}),)


def _as_convolution(slot: Slot) -> tuple[int, ...]:
    """A fully connected layer as a convolution whose window is the whole image."""
    layer: Any = slot.layer
    height, width, channels = layer.image_shape or (1, 1, layer.in_features)
    return (layer.out_features, channels, height, width) if slot.name == "kernel" else slot.shape


def _timm_vgg(model: Any) -> Naming:
    hidden = ((r"^classifier\.0\.", "pre_logits.fc1."), (r"^classifier\.3\.", "pre_logits.fc2."))
    return Naming((*hidden, (r"^classifier\.6\.", "head.fc.")), shapes=(("^pre_logits", _as_convolution),))


def _timm_mobilenet_v2(model: Any) -> Naming:
    depths = (1, 2, 3, 4, 3, 3, 1)

    def block(index: int, part: int | str) -> str:
        return f"blocks.{_place(index - 1, depths)}.{(_EXPANDED if index > 1 else _PLAIN)[str(part)]}."

    head = ((r"^features\.18\.0\.", "conv_head."), (r"^features\.18\.1\.", "bn2."))
    return Naming((*_STEM, *head, (r"^features\.(\d+)\.conv\.(\d(?:\.\d)?)\.", block), *_CLASSIFIER))


def _timm_mobilenet_v3(model: Any) -> Naming:
    last = len(model.features) - 1
    depths = (1, 2, 3, 4, 2, 3) if last == 16 else (1, 2, 3, 2, 3)

    def block(index: int, part: str) -> str:
        return f"blocks.{_place(index - 1, depths)}.{(_EXPANDED if index > 1 else _PLAIN)[part]}."

    head = f"blocks.{len(depths)}.0."
    renames: Renames = (
        *_STEM,
        (rf"^features\.{last}\.0\.", f"{head}conv."),
        (rf"^features\.{last}\.1\.", f"{head}bn1."),
        (r"^features\.(\d+)\.block\.(\d\.\w+)\.", block),
        (r"^classifier\.0\.", "conv_head."),
        *_CLASSIFIER,
    )
    return Naming(renames, (("^conv_head", _as_convolution),), _TIMM_NORM)


def _timm_mnasnet(model: Any) -> Naming:
    ends = {0: "conv_stem", 1: "bn1", 14: "conv_head", 15: "bn2"}
    ends |= {3: "blocks.0.0.conv_dw", 4: "blocks.0.0.bn1", 6: "blocks.0.0.conv_pw", 7: "blocks.0.0.bn2"}
    parts = ("conv_pw", "bn1", "", "conv_dw", "bn2", "", "conv_pwl", "bn3")
    return Naming(
        (
            (r"^features\.(\d+)\.(?!\d)", lambda index: f"{ends[index]}."),
            (r"^features\.(\d+)\.(\d)\.block\.(\d)\.", lambda s, b, part: f"blocks.{s - 7}.{b}.{parts[part]}."),
            *_CLASSIFIER,
        )
    )


def _timm_efficientnet(model: Any) -> Naming:
    last = len(model.features) - 1
    second = last == 7  # EfficientNetV2
    special = {1: _FUSED_PLAIN, 2: _FUSED, 3: _FUSED} if second else {1: _PLAIN}

    def block(stage: int, index: int, part: str) -> str:
        return f"blocks.{stage - 1}.{index}.{special.get(stage, _EXPANDED)[part]}."

    head = ((rf"^features\.{last}\.0\.", "conv_head."), (rf"^features\.{last}\.1\.", "bn2."))
    blocks = ((r"^features\.(\d)\.(\d+)\.block\.(\d\.\w+)\.", block),)
    return Naming((*_STEM, *head, *blocks, *_CLASSIFIER), settings=_TIMM_NORM)


def _timm_convnext(model: Any) -> Naming:
    parts = {0: "conv_dw", 2: "norm", 3: "mlp.fc1", 5: "mlp.fc2"}
    renames: Renames = (
        (r"^features\.0\.", "stem."),
        (r"^features\.([1357])\.(\d)\.block\.(\d)", lambda s, b, part: f"stages.{s // 2}.blocks.{b}.{parts[part]}"),
        (r"^features\.([1357])\.(\d)\.layer_scale", lambda s, b: f"stages.{s // 2}.blocks.{b}.gamma"),
        (r"^features\.([246])\.", lambda s: f"stages.{s // 2}.downsample."),
        (r"^classifier\.0\.", "head.norm."),
        (r"^classifier\.2\.", "head.fc."),
    )
    return Naming(renames, shapes=(("gamma$", lambda slot: slot.shape[:1]),))


TIMM: dict[str, Callable[[Module], Naming]] = {
    "VGG": _timm_vgg,
    "MobileNetV2": _timm_mobilenet_v2,
    "MobileNetV3": _timm_mobilenet_v3,
    "MNASNet": _timm_mnasnet,
    "EfficientNet": _timm_efficientnet,
    "ConvNeXt": _timm_convnext,
}


def _place(index: int, depths: tuple[int, ...]) -> str:
    """Stage and block, "2.0", of a block that is counted through all stages of such depths."""
    for stage, depth in enumerate(depths):
        if index < depth:
            return f"{stage}.{index}"
        index -= depth
    raise ValueError(f"{depths} blocks have no further one")


def _of_groups(function: Callable[..., str]) -> Callable[[re.Match[str]], str]:
    return lambda match: function(*(int(group) if group.isdigit() else group for group in match.groups()))
