"""The network that a training starts from: new, of an earlier run, or with weights that others have trained."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cnnjax import interop, models, runs, train
from cnnjax.errors import UserError, unknown_name
from cnnjax.interop.hub import WEIGHTS
from cnnjax.interop.preprocess import MEAN, STD
from cnnjax.options import Range

log = logging.getLogger(__name__)

PUBLISHED_CLASSES = 1000  # of ImageNet
PRETRAINED = Range(
    "a file of weights, .safetensors or torch's; a run of train; or the network's own name, for its published weights",
    lambda value: True,
)
Pretrained = Annotated[str, PRETRAINED]


class Start(NamedTuple):
    """A network, and the normalisation of the images that it takes; None: they are in [0, 1]."""

    model: models.Module
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def started_from(config: Any, arguments: Mapping[str, Any]) -> Start:
    """Return the network with trained weights, and a new last layer where these are for other classes.

    Where the arguments name a backbone, weights of that network do as well: all other layers start anew.

    The normalisation is that of the config, or else what the weights were trained with. What is only likely is said.

    Args:
        config: has `model`, `pretrained`, `seed`, `mean` and `std`.
        arguments: of `models.create_model`.

    Raises:
        UserError: there are no such weights, they are of another network, or they cannot be fetched.
    """
    given, path = config.pretrained, Path(config.pretrained)
    named = not path.exists() and not path.suffix and path.name == given
    try:
        found = _published(config, arguments) if named else _of_file(config, arguments)
    except UserError:
        if not arguments.get("backbone"):
            raise
        found = _of_backbone(config, arguments)
    if config.mean is not None:
        return found._replace(mean=config.mean, std=config.std)
    return found


def _published(config: Any, arguments: Mapping[str, Any]) -> Start:
    name, channels = config.pretrained, arguments["in_channels"]
    if name not in WEIGHTS:
        raise unknown_name("`pretrained`, as there is no such file or run:", name, WEIGHTS)
    if name != config.model:
        raise UserError(f"`pretrained={name}` are weights of {name}, but `model={config.model}`: name the same network")
    if channels != 3:
        raise UserError(f"the published weights of {name} (`pretrained`) are for images of 3 channels, not {channels}")
    others = {key: value for key, value in arguments.items() if key != "num_classes"}
    try:
        found = interop.from_pretrained(name, **others, seed=config.seed)
    except UserError as error:
        if error.__cause__ is None:  # huggingface_hub is missing
            raise
        reason = str(error.__cause__).partition("\n")[0]
        raise UserError(
            f"the published weights of {name} (`pretrained`) cannot be fetched from {WEIGHTS[name].repository} on the "
            f"Hugging Face hub ({type(error.__cause__).__name__}: {reason}): see whether there is a network, or give a "
            "file of weights instead of a name"
        ) from error
    found.model.train()
    return Start(
        _for_classes(found.model, config, arguments, PUBLISHED_CLASSES), found.preprocess.mean, found.preprocess.std
    )


def _of_file(config: Any, arguments: Mapping[str, Any]) -> Start:
    path, classes = Path(config.pretrained), arguments["num_classes"]
    folder = path if path.is_dir() else path.parent
    file = path / train.trained.WEIGHTS if path.is_dir() else path
    about = runs.read_json(folder / train.trained.MODEL)
    known = (about or {}).get("arguments", {}).get("num_classes", PUBLISHED_CLASSES)
    read = interop.load_safetensors if file.suffix == ".safetensors" else interop.load_pth
    errors = []
    for count in dict.fromkeys((classes, known)):
        model = models.create_model(config.model, **{**arguments, "num_classes": count}, seed=config.seed)
        try:
            read(model, file)
        except ValueError as error:  # of the file, or of keys and shapes
            errors.append(str(error))
            continue
        model = _for_classes(model, config, arguments, count)
        if about is not None:
            return Start(model, *(about.get(name) and tuple(about[name]) for name in ("mean", "std")))
        return _likely(model, config, count, arguments["in_channels"])
    raise UserError(f"`pretrained` has no weights of {config.model} ({errors[-1]})")


def _of_backbone(config: Any, arguments: Mapping[str, Any]) -> Start:
    """A new network on a trained backbone, whose classes do not matter."""
    others = {name: arguments[name] for name in ("num_classes", "in_channels")}
    found = started_from(replace(config, model=arguments["backbone"]), others)
    model = models.create_model(config.model, **arguments, seed=config.seed)
    models.load_backbone(model, found.model)
    return found._replace(model=model)


def _for_classes(model: models.Module, config: Any, arguments: Mapping[str, Any], count: int) -> models.Module:
    if count != arguments["num_classes"]:
        models.replace_head(model, arguments["num_classes"], seed=config.seed)
    return model


def _likely(model: models.Module, config: Any, classes: int, channels: int) -> Start:
    """Return a start from weights of unknown origin: ImageNet's normalisation where they are for its classes."""
    if config.mean is not None:
        return Start(model)
    if classes != PUBLISHED_CLASSES or channels != len(MEAN):
        log.warning(
            "it is not known on which images %s was trained: the network gets images in [0, 1]; give --mean and --std "
            "if its own were normalised",
            config.pretrained,
        )
        return Start(model)
    own = WEIGHTS[config.model].preprocess if config.model in WEIGHTS else None
    mean, std = (own.mean, own.std) if own else (MEAN, STD)
    log.warning(
        "%s has ImageNet's %s classes: images are normalised as its weights expect, with mean %s and standard "
        "deviation %s; give --mean and --std if these weights expect others (--mean 0 --std 1: images in [0, 1])",
        config.pretrained,
        f"{PUBLISHED_CLASSES:,}",
        " ".join(map(str, mean)),
        " ".join(map(str, std)),
    )
    return Start(model, mean, std)
