"""Options as dataclasses: types that say what a value may be, and the check of a dataclass against them."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from cnnjax.errors import UserError, unknown_name


class Range(NamedTuple):
    """What a value may be: in words after "must be", and as a test, which may raise a UserError of its own."""

    text: str
    holds: Callable[[Any], object]


def within(lowest: float, highest: float) -> Range:
    """Return the range from `lowest` to `highest`, both included."""
    return Range(f"from {lowest} to {highest}", lambda value: lowest <= value <= highest)


# NaN fails every one of these tests.
LAST_SEED = 2**31 - 1
Positive = Annotated[float, Range("larger than 0 and finite", lambda value: 0 < value < math.inf)]
NotNegative = Annotated[float, Range("at least 0 and finite", lambda value: 0 <= value < math.inf)]
Fraction = Annotated[float, Range("between 0 and 1", lambda value: 0 < value < 1)]
FractionOrZero = Annotated[float, Range("at least 0 and less than 1", lambda value: 0 <= value < 1)]
AnyInteger = Annotated[int, Range("an integer", lambda value: True)]
Count = Annotated[int, Range("an integer of at least 1", lambda value: value >= 1)]
CountOrZero = Annotated[int, Range("an integer of at least 0", lambda value: value >= 0)]
Seed = Annotated[int, within(0, LAST_SEED)]


EXPECTED = {bool: "True or False", str: "text", int: "an integer", float: "a number", Path: "a path"}


class Kind(NamedTuple):
    """What the annotation of a field says: its type, a range or choices if there are any, and whether None is taken.

    `words` says whether a name or several numbers are taken, which are words on a command line.
    """

    annotation: Any
    type: Any
    range: Range | None
    choices: tuple[str, ...]
    optional: bool
    words: bool = False


def kinds(options: type) -> dict[str, Kind]:
    """Return what each field of a dataclass may be, by its name."""
    hints = get_type_hints(options, include_extras=True)
    return {field.name: _kind(hints[field.name]) for field in fields(options)}


def _kind(hint: Any) -> Kind:
    whole = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    members = get_args(whole) if get_origin(whole) in (Union, UnionType) else (hint,)
    first, *_ = (member for member in members if member is not type(None))
    plain, *notes = get_args(first) if get_origin(first) is Annotated else (first,)
    ranges = [note for note in notes if isinstance(note, Range)]
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    words = str in members and any(get_origin(member) is tuple for member in members)
    return Kind(hint, plain, ranges[0] if ranges else None, choices, type(None) in members, words)


@dataclass(frozen=True)
class Checked:
    """Base of dataclasses of options: each field is checked against its annotation.

    Numbers of NumPy and JAX become Python's, and a path becomes text, or text a path, where that is the field's type.

    Raises:
        UserError: a value is of another type, a number is out of its range, or a name is none of the choices.
    """

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            given = getattr(self, name)
            value = _plain(given, kind.type)
            if value is not given:
                object.__setattr__(self, name, value)  # before others see it: a frozen dataclass
            if value is None and kind.optional:
                continue
            if kind.type in EXPECTED and not kind.range and _is_alone(kind.annotation) and not _is_a(value, kind.type):
                raise UserError(f"`{name}` must be {EXPECTED[kind.type]}, got {value!r}")
            if kind.choices and value not in kind.choices:
                raise unknown_name(f"`{name}`", value, kind.choices)
            if kind.range and not (_is_a(value, kind.type) and kind.range.holds(value)):
                raise UserError(f"`{name}` must be {kind.range.text}, got {value!r}")


def _is_alone(hint: Any) -> bool:
    """Return whether a field is of one type, besides None."""
    whole = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    members = get_args(whole) if get_origin(whole) in (Union, UnionType) else (whole,)
    return sum(member is not type(None) for member in members) == 1


def _plain(value: Any, kind: Any) -> Any:
    """Return a single number of NumPy or JAX as Python's, and a path or text as what the field has."""
    if getattr(value, "shape", None) == ():
        return value.item()
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return Path(value) if kind is Path and isinstance(value, str) else value


def _is_a(value: object, kind: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    return isinstance(value, Real if kind is float else get_origin(kind) or kind) and not isinstance(value, bool)


def check_applies(config: Any, options: Mapping[str, tuple[str, ...]], what: str, chosen: str) -> None:
    """Raise a UserError for an option that is given although the chosen thing does not have it.

    Args:
        config: a dataclass whose options are None unless given.
        options: for every name that could be chosen, its options.
        what: kind of thing, e.g. "loss".
        chosen: the name that is chosen.
    """
    for option in sorted({option for names in options.values() for option in names} - set(options[chosen])):
        if getattr(config, option) is not None:
            having = " or ".join(name for name, names in options.items() if option in names)
            raise UserError(f"`{option}` is an option of the {what} {having}, not of {chosen}")
