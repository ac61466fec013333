"""The part of a binary file that readers and writers of streams use."""

from __future__ import annotations

import io
from typing import Protocol, runtime_checkable

from latens.errors import UsageError


@runtime_checkable
class ByteStream(Protocol):
    """An open binary file, or a buffer such as io.BytesIO."""

    def read(self, size: int = -1, /) -> bytes: ...

    def write(self, data: bytes, /) -> int: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...


def check_readable(stream: object) -> None:
    """Raises UsageError for an object that is not an open file of bytes, which can be read at any position."""
    if not hasattr(stream, "read") or not hasattr(stream, "seek"):
        what = f"an object of the type {type(stream).__name__} is not a file"
    elif not isinstance(stream, io.IOBase):
        return
    elif stream.closed or isinstance(stream, io.TextIOBase) or not (stream.readable() and stream.seekable()):
        what = "this file is closed, has text, or cannot be read at any position"
    else:
        return
    raise UsageError(what, where="blob", hint="give its bytes, its path or a file opened with 'rb'")


def check_writable(stream: object) -> None:
    """Raises UsageError for an object that is not an open file to which bytes can be written."""
    if not hasattr(stream, "write"):
        what = f"an object of the type {type(stream).__name__} is not a file"
    elif isinstance(stream, io.IOBase) and (stream.closed or isinstance(stream, io.TextIOBase) or not stream.writable()):
        what = "this file is closed, has text, or cannot be written"
    else:
        return
    raise UsageError(what, where="out", hint="give open(path, 'wb'), or use compress for bytes")
