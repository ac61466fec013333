"""Files of soft maps: values in [0, 1] for every pixel, such as probabilities, as pages of a TIFF with 16 bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from latens.data.files import writing
from latens.data.origins import SOFT_MAPS
from latens.data.stack_writer import StackWriter
from latens.shapes import Float

ENDING = f"{SOFT_MAPS}.tif"  # of the names of the files
UNITS = 65_535  # stored value of 1
BIG = 2**32 - 2**28  # bytes of pixels above which a file has 64-bit offsets

Maps = Mapping[str, Float[np.ndarray, "H W"]]  # names and values in [0, 1]


class SoftMaps:
    """Soft maps of an open file: a page for every map of every frame, described by its name."""

    def __init__(self, target: BinaryIO, count: int) -> None:
        self._target, self._count, self._frames = target, count, 0
        self._writer: StackWriter | None = None

    def add(self, maps: Maps, pixel_um: tuple[float, float] | None = None) -> None:
        """Append the maps of the next frame, at least one."""
        self._frames += 1
        for name, values in maps.items():
            if self._writer is None:
                big = 2 * values.size * len(maps) * self._count > BIG
                self._writer = StackWriter(self._target, big=big, pixel_um=pixel_um)
            title = name if self._count == 1 else f"frame {self._frames}: {name}"
            self._writer.write(np.rint(values * UNITS).astype(np.uint16), title)


@contextmanager
def writing_maps(path: Path | None, count: int = 1) -> Iterator[SoftMaps | None]:
    """Yield a file of soft maps for `count` frames, which is renamed to `path` at the end of the block; None without a path.

    Raises as `latens.data.files.writing`.
    """
    if path is None:
        yield None
        return
    with writing(path) as target:
        yield SoftMaps(target, count)


def write_maps(path: Path, maps: Maps) -> None:
    """Write the soft maps of one image."""
    with writing(path) as target:
        SoftMaps(target, 1).add(maps)
