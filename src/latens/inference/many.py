"""Lazy results for many inputs: one at a time is read, computed and given to the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from latens.errors import LatensError, UsageError

T = TypeVar("T")

OnError = Callable[[Any, LatensError], None]  # takes an input that cannot be used, and why


def many(function: Callable[..., T], inputs: Iterable[Any], on_error: OnError | None, options: dict[str, Any]) -> Iterator[T]:
    """Yield `function(input, **options)` for every input.

    Without `on_error` the first input that cannot be used raises its error, which ends the iteration; with it, such inputs are
    given to it and left out. Raises UsageError for a single input.
    """
    if isinstance(inputs, str | bytes | bytearray | memoryview) or not isinstance(inputs, Iterable):
        raise UsageError("this is one input, not several", where="inputs", hint="give a list, or use the method for one")
    return _each(function, inputs, on_error, options)


def _each(function: Callable[..., T], inputs: Iterable[Any], on_error: OnError | None, options: dict[str, Any]) -> Iterator[T]:
    for one in inputs:
        try:
            result = function(one, **options)
        except LatensError as error:
            if on_error is None or isinstance(error, UsageError):
                raise
            on_error(one, error)
            continue
        yield result
