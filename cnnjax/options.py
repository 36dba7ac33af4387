"""What the options of a command may be: ranges of numbers, and options that only some choices have."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from numbers import Real
from typing import Any, NamedTuple

from cnnjax.errors import UserError


class Range(NamedTuple):
    """What an option may be, in words and as a test that NaN fails."""

    text: str
    holds: Callable[[Any], bool]


POSITIVE = Range("larger than 0 and finite", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Range("at least 0 and finite", lambda value: 0 <= value < math.inf)
BETWEEN_0_AND_1 = Range("between 0 and 1", lambda value: 0 < value < 1)
FROM_0_BELOW_1 = Range("at least 0 and less than 1", lambda value: 0 <= value < 1)
COUNT = Range("an integer of at least 1", lambda value: isinstance(value, int) and value >= 1)
COUNT_OR_0 = Range("an integer of at least 0", lambda value: isinstance(value, int) and value >= 0)
LAST_SEED = 2**31 - 1
SEED = Range(f"from 0 to {LAST_SEED}", lambda value: isinstance(value, int) and 0 <= value <= LAST_SEED)


def check_ranges(config: Any, ranges: Mapping[str, Range]) -> None:
    """Raise a UserError for the first field of a dataclass that is out of its range; None is fine as a default."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in ranges or (value is None and field.default is None):
            continue
        if not isinstance(value, Real) or not ranges[field.name].holds(value):
            raise UserError(f"{flag(field.name)} must be {ranges[field.name].text}, got {value!r}")


def check_applies(config: Any, options: Mapping[str, tuple[str, ...]], what: str, chosen: str) -> None:
    """Raise a UserError for an option that is given though the chosen thing does not have it.

    Args:
        config: a dataclass whose options are None unless given.
        options: for every name that could be chosen, its options.
        what: kind of thing, e.g. "loss".
        chosen: the name that is.
    """
    for option in sorted({option for names in options.values() for option in names} - set(options[chosen])):
        if getattr(config, option) is not None:
            having = " or ".join(name for name, names in options.items() if option in names)
            raise UserError(f"{flag(option)} is an option of the {what} {having}, not of {chosen}")


def flag(name: str) -> str:
    """Return a field's name as it is written on a command line."""
    return f"--{name.replace('_', '-')}"
