"""What a person is told in one message, without a stack trace."""

import difflib
from collections.abc import Iterable


class RunError(Exception):
    """A run cannot go on, for a reason that its message names; no mistake in how it was called."""


class UserError(ValueError):
    """What was given does not work; the message says what it was, what was expected, and what to do."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that nobody knows, with the nearest known ones, or all if none is near.

    Args:
        what: kind of thing, e.g. "model".
        name: what was given.
        known: every name that would do.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return UserError(f"unknown {what} {name!r}: {hint}")
