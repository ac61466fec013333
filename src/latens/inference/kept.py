"""Models that a long-lived process loads once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_kept: dict[Any, Any] | None = None


def keepable(load: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a function that loads a model: inside `keeping_models` equal calls return the same object."""

    @functools.wraps(load)
    def loaded(*args: P.args, **kwargs: P.kwargs) -> T:
        if _kept is None:
            return load(*args, **kwargs)
        key = (load.__module__, *map(str, args), *(f"{name}={value}" for name, value in sorted(kwargs.items())))
        if key not in _kept:
            _kept[key] = load(*args, **kwargs)
        found: T = _kept[key]
        return found

    return loaded


@contextmanager
def keeping_models() -> Iterator[None]:
    """Context in which every model is loaded once. For callers that change no model that they get."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before
