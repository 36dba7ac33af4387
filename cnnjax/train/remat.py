"""Gradient checkpointing: a function's intermediate results computed again in the backward pass, block by block.

A training step otherwise stores what every layer has computed until the backward pass has used it. Here the forward
pass is a list of operations (its jaxpr), which is cut into blocks, each a `jax.checkpoint`: only what crosses a cut is
stored, and a block's operations run a second time just before its gradient is computed. That works for any network,
whatever its layers are called: the cuts lie where little crosses them, such as between residual blocks.

Source: Chen et al., "Training deep nets with sublinear memory cost" (2016).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

# How many parts of equal memory the operations are tried to be cut into.
PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def rematerialized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function, whose intermediate results are computed again, in blocks, where it is differentiated.

    Args:
        function: of pytrees of arrays, to one.
    """

    def blockwise(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        outputs = _run(closed, cuts_of(closed.jaxpr), jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return blockwise


def _run(closed: ClosedJaxpr, cuts: Sequence[int], arguments: Sequence[Any]) -> list[Any]:
    """Run the operations between cuts as blocks; the last one's gradient comes at once, so it stores what it has."""
    jaxpr = closed.jaxpr
    values: dict[Var, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))
    bounds = [0, *cuts, len(jaxpr.eqns)]
    needed = _needed_after(jaxpr, bounds[1:])
    for start, stop, later in zip(bounds, bounds[1:], needed, strict=False):
        equations = jaxpr.eqns[start:stop]
        inputs, outputs = _ends(equations, later)
        block: Any = jaxpr_as_fun(
            ClosedJaxpr(jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=equations), [])
        )
        block = block if stop == bounds[-1] else jax.checkpoint(block)
        values |= zip(outputs, block(*(values[one] for one in inputs)), strict=True)
    return [one.val if isinstance(one, Literal) else values[one] for one in jaxpr.outvars]


def _needed_after(jaxpr: Jaxpr, bounds: Sequence[int]) -> list[set[Var]]:
    """Return for each place among the operations the variables that those behind it, or the outputs, read."""
    needed, reads = list[set[Var]](), _variables(jaxpr.outvars)
    place = len(jaxpr.eqns)
    for bound in reversed(bounds):
        while place > bound:
            place -= 1
            reads = reads | _variables(jaxpr.eqns[place].invars)
        needed.append(set(reads))
    return needed[::-1]


def _ends(equations: Sequence[JaxprEqn], later: set[Var]) -> tuple[list[Var], list[Var]]:
    """Return what operations read from before them, and which of their results are needed later."""
    defined = dict.fromkeys(one for equation in equations for one in equation.outvars)
    read = dict.fromkeys(one for equation in equations for one in equation.invars if not isinstance(one, Literal))
    return [one for one in read if one not in defined], [one for one in defined if one in later]


def _variables(atoms: Sequence[Any]) -> set[Var]:
    return {one for one in atoms if not isinstance(one, Literal)}


# ---------------------------------------------------------------- where to cut


def cuts_of(jaxpr: Jaxpr) -> list[int]:
    """Return before which operations a function is cut, so that what is stored is small, by bytes of its arrays.

    That is what crosses the cuts, and twice the results of the largest block: those, and their gradients.
    """
    produced, crossing = _bytes(jaxpr)
    if len(produced) < 2 or not produced.sum():
        return []
    plans = [_cheapest(produced, crossing, produced.sum() / parts) for parts in PARTS]
    until = np.concatenate([[0], np.cumsum(produced)])
    everything = 2 * until[-1]

    def stored(cuts: list[int]) -> float:
        largest = np.diff(until[[0, *cuts, len(produced)]]).max()
        return float(crossing[cuts].sum() + 2 * largest)

    best = min(plans, key=stored)
    return best if stored(best) < everything else []


def _bytes(jaxpr: Jaxpr) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes that each operation produces, and those of earlier results that are needed from it on."""
    count = len(jaxpr.eqns)
    produced, changes = np.zeros(count), np.zeros(count + 1)
    last = {one: place for place, equation in enumerate(jaxpr.eqns) for one in _variables(equation.invars)}
    last |= dict.fromkeys(_variables(jaxpr.outvars), -1)  # outputs are there in the end, wherever the cuts are
    for place, equation in enumerate(jaxpr.eqns):
        for one in equation.outvars:
            aval: Any = one.aval
            size = aval.size * aval.dtype.itemsize if hasattr(aval, "dtype") else 0
            produced[place] += size
            if last.get(one, -1) > place:
                changes[place + 1] += size
                changes[last[one] + 1] -= size
    return produced, np.cumsum(changes)[:count]


def _cheapest(produced: np.ndarray, crossing: np.ndarray, most: float) -> list[int]:
    """Return the cuts that the least bytes cross, if no block produces more than `most`, or is a single operation."""
    count = len(produced)
    until = np.concatenate([[0], np.cumsum(produced)])
    best, before = np.zeros(count + 1), np.zeros(count + 1, int)
    first = np.minimum(np.searchsorted(until, until - most), np.maximum(np.arange(count + 1) - 1, 0))
    price = np.append(crossing, 0.0)
    for stop in range(1, count + 1):
        starts = slice(first[stop], stop)
        totals = best[starts] + price[starts]
        chosen = int(totals.argmin())
        best[stop], before[stop] = totals[chosen], first[stop] + chosen
    cuts, place = list[int](), count
    while before[place] > 0:
        place = int(before[place])
        cuts.append(place)
    return cuts[::-1]
