"""Errors that a person sees as one message, without a stack trace."""

import difflib
from collections.abc import Collection

LONGEST = 1000  # letters of a list of names that a person would still look through


class RunError(Exception):
    """A run cannot continue, for a reason that its message gives; it was called correctly."""


class UserError(ValueError):
    """What was given does not work; the message says what it was, what was expected, and what to do."""


def unknown_name(what: str, name: str, known: Collection[str]) -> UserError:
    """Return the error for a name that nobody knows, with the nearest known ones, or all if none is near.

    Args:
        what: kind of thing, e.g. "model".
        name: what was given.
        known: every name that would do; of paths, as "layer1.0.conv1", only the first parts are listed.
    """
    near = difflib.get_close_matches(str(name), sorted(known), n=3, cutoff=0.5)
    all_names = ", ".join(sorted({path.partition(".")[0] for path in known} - {""}))
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {all_names}"
    if len(hint) > LONGEST:
        hint = f"none of the {len(known)} known names is near it"
    return UserError(f"unknown {what} {name!r}: {hint}")
