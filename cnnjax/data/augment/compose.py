"""Chains of augmentations, and augmentations by name."""

import inspect
from collections.abc import Callable
from itertools import groupby
from typing import Any

import jax

from cnnjax.data.augment import geometry, mixing, objects, pixels
from cnnjax.data.augment.geometry import Geometric, in_a_row
from cnnjax.data.augment.policy import rand_augment
from cnnjax.data.augment.sample import Augmentation, Sample
from cnnjax.errors import UserError, unknown_name
from cnnjax.ops.cpu.fusion import stored_on_cpu

AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "translate": geometry.translate,
    "random-crop": geometry.random_crop,
    "resized-crop": geometry.resized_crop,
    "mirror": geometry.mirror,
    "flip-vertical": geometry.flip_vertical,
    "rotate": geometry.rotate,
    "rotate90": geometry.rotate90,
    "zoom": geometry.zoom,
    "zoom-out": objects.zoom_out,
    "object-crop": objects.object_crop,
    "rgb-intensity": pixels.rgb_intensity,
    "brightness": pixels.brightness,
    "contrast": pixels.contrast,
    "saturation": pixels.saturation,
    "hue": pixels.hue,
    "gaussian-noise": pixels.gaussian_noise,
    "salt-and-pepper": pixels.salt_and_pepper,
    "cutout": pixels.cutout,
    "mixup": mixing.mixup,
    "cutmix": mixing.cutmix,
    "rand-augment": rand_augment,
}

# What the options of each augmentation may be, for the help; the functions themselves refuse other values.
_SHARE = "0 to 1"
_COUNT = "1, 2, ..."
OPTIONS: dict[str, dict[str, str]] = {
    "translate": {"fraction": _SHARE, "fill": _SHARE},
    "random-crop": {"padding": "0, 1, ...", "size": _COUNT, "fill": _SHARE},
    "resized-crop": {"scale": "low..high above 0 and up to 1", "ratio": "low..high above 0", "size": _COUNT},
    "mirror": {"p": _SHARE},
    "flip-vertical": {"p": _SHARE},
    "rotate": {"degrees": "0 to 180", "fill": _SHARE},
    "rotate90": {},
    "zoom": {"scale": "low..high above 0", "fill": _SHARE},
    "zoom-out": {"scale": "low..high above 0 and up to 1", "p": _SHARE, "fill": _SHARE},
    "object-crop": {"scale": "low..high above 0 and up to 1", "ratio": "low..high above 0", "p": _SHARE},
    "rgb-intensity": {"std": "from 0"},
    "brightness": {"amount": _SHARE},
    "contrast": {"amount": _SHARE},
    "saturation": {"amount": _SHARE},
    "hue": {"amount": "0 to 0.5"},
    "gaussian-noise": {"std": "from 0"},
    "salt-and-pepper": {"share": _SHARE},
    "cutout": {"size": _COUNT, "fill": _SHARE},
    "mixup": {"alpha": "from 0.01"},
    "cutmix": {"alpha": "from 0.01"},
    "rand-augment": {"layers": _COUNT, "magnitude": "0 to 30", "fill": _SHARE},
}


def listing() -> str:
    """Return the name of every augmentation, with its options and what they may be."""
    options = {name: "; ".join(f"{option} {what}" for option, what in OPTIONS[name].items()) for name in AUGMENTATIONS}
    return ", ".join(f"{name} ({text})" if text else name for name, text in options.items())


def chain(*augmentations: Augmentation) -> Augmentation:
    """Return one augmentation that applies several in order; number k draws from the key folded with k.

    Neighbouring geometric augmentations with the same fill are multiplied into one map: an image is interpolated once,
    and pixels that one of them moves out of the image another may move back in.
    """

    def apply(key: jax.Array, sample: Sample) -> Sample:
        for fill, run in groupby(enumerate(augmentations), _fill):
            numbers, steps = zip(*run, strict=True)
            if fill is not None:
                sample = in_a_row(steps, numbers[0])(key, sample)
            else:
                for number, step in zip(numbers, steps, strict=True):
                    sample = step(jax.random.fold_in(key, number), sample)
        return sample

    return lambda key, sample: stored_on_cpu(apply, key, sample)


def _fill(numbered: tuple[int, Augmentation]) -> float | None:
    return numbered[1].fill if isinstance(numbered[1], Geometric) else None


def parse(text: str) -> Augmentation:
    """Return the chain that a line names, e.g. "random-crop:padding=4 zoom:scale=0.9..1.1 rand-augment:layers=1".

    Names are those of `AUGMENTATIONS`, separated by spaces; options follow a colon as option=value, with commas;
    a pair is written low..high. An empty line is the chain that changes nothing.

    Raises:
        UserError: an unknown name or option, a value of another kind, or one out of range.
    """
    return chain(*map(_parse_one, text.split()))


def _parse_one(word: str) -> Augmentation:
    name, _, rest = word.partition(":")
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    defaults = {key: parameter.default for key, parameter in inspect.signature(AUGMENTATIONS[name]).parameters.items()}
    given = {}
    for assignment in filter(None, rest.split(",")):
        option, _, value = assignment.partition("=")
        if not OPTIONS[name]:
            raise UserError(f"augmentation {name!r} has no options, got {rest!r}")
        if option not in OPTIONS[name]:
            raise unknown_name(f"option of {name}", option, OPTIONS[name])
        given[option] = _value(assignment, value, defaults[option])
    try:
        return AUGMENTATIONS[name](**given)
    except UserError as error:
        raise UserError(f"augmentation {word!r}: {error}") from None


def _value(assignment: str, text: str, default: Any) -> Any:
    """An option's value, of the type of its default; a default of None stands for an integer."""
    try:
        if isinstance(default, tuple):
            low, high = text.split("..")
            return float(low), float(high)
        return float(text) if isinstance(default, float) else int(text)
    except ValueError:
        kind = "low..high" if isinstance(default, tuple) else "a number" if isinstance(default, float) else "an integer"
        raise UserError(f"{assignment!r}: expected {kind} after the =") from None
