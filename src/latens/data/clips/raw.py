"""Raw frames in a pipe, as ffmpeg writes and reads them: `-f rawvideo -pix_fmt rgb24`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from latens.data.images import Pixels
from latens.data.limits import current_limits
from latens.errors import UnreadableInput, UsageError

GEOMETRY = re.compile(r"([1-9]\d*)x([1-9]\d*)")


def parse_geometry(text: str) -> tuple[int, int]:
    """Width and height of "1280x720". Raises UsageError, or LimitExceeded for frames that are too large."""
    found = GEOMETRY.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"'{text}' is not a size of frames", where="--raw", hint="write WIDTHxHEIGHT, such as 1280x720")
    width, height = int(found[1]), int(found[2])
    current_limits().check(width, height, "a frame of --raw")
    return width, height


class RawFrames:
    """Iterates over the frames (H, W, 3) uint8 of a stream without headers.

    Bytes of an incomplete last frame are not a frame; `rest` is their number, and `check` raises UnreadableInput for them.
    """

    def __init__(self, stream: BinaryIO, width: int, height: int) -> None:
        self.stream, self.width, self.height = stream, width, height
        self.count = self.rest = 0

    def __iter__(self) -> Iterator[Pixels]:
        size = self.width * self.height * 3
        while len(data := self.stream.read(size)) == size:
            self.count += 1
            yield np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3)
        self.rest = len(data)

    def stored(self) -> np.ndarray:
        """All frames (T, H, W, 3) uint8 as a temporary file, for readers that need them several times. Raises as `check`."""
        file = tempfile.TemporaryFile()
        for frame in self:
            file.write(frame.data)
        if not self.count:
            self.check()
        file.flush()
        shape = (self.count, self.height, self.width, 3)
        return np.memmap(file, np.uint8, "r", shape=shape)

    def check(self) -> None:
        """Raise UnreadableInput if the stream held no frame, or ended within one."""
        if self.rest:
            size = self.width * self.height * 3
            what = f"frame {self.count + 1} is incomplete: {self.rest:,} of {size:,} bytes"
        elif not self.count:
            what = "there are no frames"
        else:
            return
        raise UnreadableInput(what, where="standard input", hint="check the width and height of --raw; pixels are rgb24")
