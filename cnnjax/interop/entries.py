"""The weights among what training scripts save, under the names that the network itself gives them.

A checkpoint may hold them beside an optimiser's state and an epoch ("state_dict", "model_state_dict", "model_ema"), and
wrappers put words of their own into the names ("module." of DataParallel, "_orig_mod." of torch.compile, "model." of
Lightning).
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from cnnjax.errors import UserError
from cnnjax.interop.names import Renames, rename
from cnnjax.interop.slots import some

# Of torch.nn.parallel and AveragedModel, torch.compile, FSDP, and activation checkpointing: anywhere in a name.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_COUNTERS = re.compile(r"(^|\.)num_batches_tracked$|^n_averaged$")  # torch's, which decide nothing
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|hyper|hparams|args|config|callback|loop|rng|metric|histor|loss|criterion")
_DEEPEST = 3  # entries within entries


def weights_in(saved: Any, entry: str | None = None) -> Mapping[str, Any]:
    """Return the weights by name of what a training script has saved.

    Args:
        saved: a state dict, or a mapping with one in it.
        entry: where they are, "model_ema", or "ema.state_dict" within an entry; needed where there are several.

    Raises:
        UserError: it is no mapping from names, there is no such entry, or there are weights in several.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(key, str) for key in saved):
        raise UserError(
            f"a state dict maps names to arrays, got {type(saved).__name__}: of a torch module take .state_dict(), of "
            "a checkpoint with more in it the entry that has the weights"
        )
    found = dict(_entries(saved))
    if entry is not None:
        if entry not in found:
            known = some(sorted(found)) if any(found) else "none: it is a state dict itself"
            raise UserError(f"there are no weights in the entry {entry!r}; entries with weights are {known}")
        return found[entry]
    found = {name: state for name, state in found.items() if not _NO_WEIGHTS.search(name.lower())} or found
    if len(found) > 1:
        names = sorted(found)
        raise UserError(
            f"there are weights in several entries, {some(names)}: choose one of them, as with `entry={names[-1]!r}`"
        )
    return next(iter(found.values()), saved)


def _entries(saved: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping of names to arrays with its path; one that holds others is none itself."""
    inner = False
    if depth < _DEEPEST:
        for key, value in saved.items():
            if isinstance(value, Mapping) and "param_groups" not in value and all(isinstance(k, str) for k in value):
                for path, state in _entries(value, depth + 1):
                    inner = True
                    yield f"{key}.{path}".rstrip("."), state
    if not inner and any(getattr(value, "ndim", 0) for value in saved.values()):
        yield "", saved


def under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the arrays whose names begin with a prefix, "model" or "model.", without it.

    Raises:
        UserError: none does.
    """
    start = prefix.rstrip(".") + "."
    found = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if not found:
        raise UserError(f"no name begins with `prefix={prefix!r}`: there are {some(list(state))}")
    return found


def unwrapped(state: Mapping[str, Any], known: Sequence[Collection[str]], older: Renames = ()) -> dict[str, Any]:
    """Return arrays under the names that the network itself gives them: without words of wrappers and torch's counters.

    Of the words that all names begin with, as many are removed as it takes until most names are the network's.

    Args:
        state: arrays by name.
        known: the network's names, under each naming.
        older: from names that a library no longer uses.

    Raises:
        ValueError: two names become one.
    """
    kept = {rename(key, older): key for key in state if not _COUNTERS.search(key)}
    words = {word for names in known for name in names for word in name.split(".")}
    names = [tuple(word for word in key.split(".") if word in words or word not in _WRAPPERS) for key in kept]
    shared = len(list(takewhile(lambda words: len(set(words)) == 1, zip(*(name[:-1] for name in names), strict=False))))
    each = [[".".join(name[depth:]) for name in names] for depth in range(shared + 1)]
    plain = max(each, key=lambda found: max(len(names & set(found)) for names in map(set, known)))
    if len(set(plain)) < sum(not _COUNTERS.search(key) for key in state):
        twice = some(sorted({name for name in plain if plain.count(name) > 1}) or sorted(kept))
        raise ValueError(f"two names stand for one array: {twice}; leave out one of them, or choose with `prefix`")
    return {name: state[key] for name, key in zip(plain, kept.values(), strict=True)}


def fitting_prefix(state: Mapping[str, Any], known: Sequence[Collection[str]]) -> str | None:
    """Return a prefix under which all names of a network are, beside others, if there is one.

    Args:
        state: arrays by name.
        known: the network's names, under each naming.
    """
    prefixes = {".".join(key.split(".")[:depth]) for key in state for depth in range(1, _DEEPEST + 1)}
    for prefix in sorted(prefixes, key=len):
        inner = {key.removeprefix(f"{prefix}."): None for key in state if key.startswith(f"{prefix}.")}
        if len(inner) == len(state):
            continue
        try:
            found = unwrapped(inner, known).keys()
        except ValueError:
            continue
        if any(names and set(names) <= found for names in known):
            return prefix
    return None
