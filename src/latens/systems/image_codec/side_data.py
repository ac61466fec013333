"""Alpha channel and metadata of a coded image, whose sizes and data are not trusted."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

from latens.data.limits import current_limits
from latens.data.metadata import unpack_metadata
from latens.errors import Corrupt

PNG_SIZE = 16  # offset of width and height in a PNG file


def read_alpha(data: bytes | None, size: tuple[int, int], *, partial: bool) -> np.ndarray:
    opaque = np.full(size, 255, dtype=np.uint8)
    if data is None:
        return opaque
    try:
        found = struct.unpack_from(">II", data, PNG_SIZE)[::-1]
        if found != size:  # before Pillow takes memory for it
            current_limits().check(found[1], found[0], "the alpha channel")
            raise Corrupt("the alpha channel has another size than the image", section="alpha channel")
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if (image.height, image.width) != size or image.mode != "L":
                raise Corrupt("the alpha channel has another type than the image needs", section="alpha channel")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        if partial:
            return opaque
        raise Corrupt(f"the alpha channel is damaged ({error})", section="alpha channel") from None


def metadata_of(packed: bytes | None, name: str, *, partial: bool) -> bytes | None:
    """The data of a section; None if it is damaged, with `partial`."""
    try:
        return unpack_metadata(packed) if packed else packed
    except ValueError as error:
        if partial:
            return None
        raise Corrupt(f"the {name} data is damaged ({error})", section=name) from None
