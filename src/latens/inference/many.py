"""Lazy results for many inputs: one at a time is read, computed and given to the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from latens.errors import LatensError, UsageError

T = TypeVar("T")
CHANNELS = (1, 3, 4)  # of an image

OnError = Callable[[Any, LatensError], None]  # takes an input that cannot be used, and why


def many(function: Callable[..., T], inputs: Iterable[Any], on_error: OnError | None, options: dict[str, Any]) -> Iterator[T]:
    """Yield `function(input, **options)` for every input.

    Without `on_error` the first input that cannot be used raises its error, which ends the iteration; with it, such inputs are
    given to it and left out. Raises UsageError for a single input, such as an array or a tensor of one image.
    """
    if isinstance(inputs, str | bytes | bytearray | memoryview) or not isinstance(inputs, Iterable) or _is_image(inputs):
        raise UsageError("this is one input, not several", where="inputs", hint="give a list, or use the method for one")
    return _each(function, inputs, on_error, options)


def _is_image(inputs: Any) -> bool:
    """True for an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), with at most four channels."""
    shape = tuple(getattr(inputs, "shape", ()))
    if len(shape) != 3:
        return 0 < len(shape) < 3
    return shape[0 if hasattr(inputs, "detach") else 2] in CHANNELS


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
