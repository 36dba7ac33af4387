"""The base of all layers and models: an NNX module whose calls carry a name in profiles and can be watched."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from flax import nnx

Watcher = Callable[["Module", Any, Any], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class Module(nnx.Module):
    """`nnx.Module` whose `__call__` runs in a named scope and reports to `watch_calls`.

    `models.summary` lists any model's layers this way, without code in the model.

    Attributes:
        heads: names of the layers that compute a network's logits, the main one first.
    """

    heads: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls):
            cls.__call__ = _watched(cls.__call__)  # type: ignore[method-assign]


def replace_module(model: nnx.Module, path: tuple[Any, ...], module: nnx.Module) -> None:
    """Replace the module at a path, as `nnx.iter_modules` returns it, by another."""
    *parents, key = path
    parent: Any = model
    for name in parents:
        parent = parent[name] if isinstance(parent, nnx.Dict | nnx.List) else getattr(parent, name)
    if isinstance(parent, nnx.Dict | nnx.List):
        parent[key] = module
    else:
        setattr(parent, key, module)


@contextmanager
def watch_calls(watcher: Watcher) -> Iterator[None]:
    """Call `watcher(module, first argument, output)` after every call of a `Module` inside the `with` block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def _watched(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(self: Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        with jax.named_scope(type(self).__name__):
            y = call(self, x, *args, **kwargs)
        watcher = _watcher.get()
        if watcher is not None:
            watcher(self, x, y)
        return y

    return wrapper
