"""Type of the callbacks that report progress; the library itself draws and prints nothing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class OnProgress(Protocol):
    """Takes the finished amount of work, in units of the caller, and a note for a person."""

    def __call__(self, done: int, note: str = "", /) -> None: ...
