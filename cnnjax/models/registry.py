"""Networks by name: each registers itself where it is defined, in a family's file here or in a person's own file."""

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from flax import nnx

from cnnjax.errors import UserError, unknown_name
from cnnjax.nn import Module
from cnnjax.ops.arguments import integer

Builder = TypeVar("Builder", bound=Callable[..., Module])

CLASSES = {"localization": 1000, "segmentation": 21}  # by task, ImageNet's and PASCAL VOC's; else ImageNet's


class Registration(NamedTuple):
    """A network that `create_model` can build.

    Attributes:
        build: the class or function; it takes `num_classes`, `in_channels` and `rngs` by name.
        task: what the network learns.
        reference: the same network in another library, "torchvision/NAME" or "timm/NAME", if there is one.
        place: the file of the registration.
    """

    build: Callable[..., Module]
    task: str
    reference: str | None
    place: str


_REGISTRATIONS: dict[str, Registration] = {}


def register(name: str, *, task: str = "classification", reference: str | None = None) -> Callable[[Builder], Builder]:
    """Return a decorator that makes `create_model` know a class, or a function that builds a network, by a name.

    ```
    @register("small_net")
    class SmallNet(Module):
        def __init__(self, *, num_classes: int, in_channels: int, rngs: nnx.Rngs): ...
    ```
    Variants of a family are registered as data: `register("vgg11")(partial(VGG, (1, 1, 2, 2, 2)))`.

    Args:
        name: what `create_model` takes and `list_models` returns.
        task: what the network learns: "classification", "reconstruction", "segmentation", or a task of your own.
        reference: the library that has the same network, "torchvision" or "timm"; "timm/legacy_xception" where it has
            another name there.

    Raises:
        UserError: the name is registered elsewhere; the message says both places. A file that is executed again
            replaces its own networks.
    """
    caller = inspect.currentframe()
    caller = caller and caller.f_back
    place = caller.f_code.co_filename if caller else "an unknown place"
    reference = f"{reference}/{name}" if reference and "/" not in reference else reference

    def add(build: Builder) -> Builder:
        if name in _REGISTRATIONS and _REGISTRATIONS[name].place != place:
            raise UserError(
                f"two networks are registered as {name!r}, in {_REGISTRATIONS[name].place} and in {place}: rename one"
            )
        _REGISTRATIONS[name] = Registration(build, task, reference, place)
        return build

    return add


def lookup(name: str) -> Registration:
    """Return what was registered under a name.

    Raises:
        UserError: unknown name (the nearest one is suggested).
    """
    if name not in _REGISTRATIONS:
        raise unknown_name("model", name, list_models())
    return _REGISTRATIONS[name]


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Return the sorted names that `create_model` knows.

    Args:
        pattern: which names, with the wildcards of a shell: "resnet*".
        task: only networks that learn this task.
    """
    names = (name for name, network in _REGISTRATIONS.items() if task in (None, network.task))
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def create_model(
    name: str, *, num_classes: int | None = None, in_channels: int = 3, seed: int = 0, **overrides: Any
) -> Module:
    """Build a network with freshly initialised parameters, in training mode.

    Args:
        name: one of `list_models()`.
        num_classes: number of logits; default: 1000, and 21 for segmentation, as published networks have them.
        in_channels: channels of the images.
        seed: seed of the initial parameters and of dropout.
        **overrides: further arguments of the architecture, e.g. `image_size=64`, or `backbone="mobilenet_v2"` of a
            network for segmentation.

    Returns:
        A module that maps images (batch, height, width, in_channels), normalised as its reference does, to raw logits
        (batch, num_classes), or for segmentation (batch, height, width, num_classes); autoencoders map images to
        images. `model.eval()` and `model.train()` switch dropout and batch statistics. In training, networks with
        auxiliary classifiers return `WithAuxiliary`.

    Raises:
        ValueError: unknown name (the nearest one is suggested), or an argument out of range.
        TypeError: the architecture has no such override.
    """
    network = lookup(name)
    num_classes = CLASSES.get(network.task, 1000) if num_classes is None else num_classes
    num_classes, in_channels = integer("num_classes", num_classes, 1), integer("in_channels", in_channels, 1)
    return network.build(num_classes=num_classes, in_channels=in_channels, rngs=nnx.Rngs(seed), **overrides)
