"""Lossless conversion between image files and pixels with PNG chunks. Files that cannot be restored are not converted."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.image_output import png_bytes, webp_bytes
from latens.data.images import Pixels, decoding
from latens.data.limits import current_limits
from latens.errors import Corrupt, LatensError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN_FORMATS = ("PNG", "BMP", "PPM")  # archives store the index: never change the order
GRAY, COLOR = 0, 2  # PNG color types
ANIMATION, TRANSPARENCY = b"acTL", b"tRNS"
WEBP_SIDE = 16383  # pixels
MAX_EXTRAS = 1 << 16  # maximum size of the stored chunks in bytes


class PlainImage(NamedTuple):
    """An 8-bit gray or color image without transparency, with the data to restore its file.

    `pixels` are (H, W, 3) uint8, with three equal channels if `gray`. `before` and `behind` are PNG chunks around the pixels.
    """

    pixels: Pixels
    gray: bool
    format: str
    before: bytes = b""
    behind: bytes = b""

    def file(self) -> bytes:
        """Bytes of the file: identical to the original, except that the pixels of a PNG are compressed anew."""
        stored = np.ascontiguousarray(self.pixels[..., 0]) if self.gray else self.pixels
        if self.format == "PNG":
            return _with_chunks(png_bytes(stored), self.before, self.behind)
        return _written(stored, self.format)


def plain_image(data: bytes) -> PlainImage | None:
    """Image of a file. None for palettes, alpha, 16 bits, animation, interlacing, other formats, damaged files, and
    images above the limits, which an archive with coded pixels could not restore without raised limits.
    """
    try:
        if data.startswith(PNG_SIGNATURE):
            return _from_png(data)
        with decoding(None), Image.open(io.BytesIO(data), formats=["BMP", "PPM"]) as image:
            if image.mode not in ("L", "RGB"):
                return None
            stored, name = np.asarray(image), str(image.format)
        found = _image(stored, name)
        return found if name in PLAIN_FORMATS and found.file() == data else None
    except (LatensError, OSError, ValueError, struct.error, zlib.error):
        return None


def _from_png(data: bytes) -> PlainImage | None:
    chunks = _chunks(data)
    if chunks is None or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        return None
    depth, color, _, _, interlace = struct.unpack(">BBBBB", chunks[0][1][16:21])
    kinds = [kind for kind, _ in chunks]
    if depth != 8 or color not in (GRAY, COLOR) or interlace or ANIMATION in kinds or TRANSPARENCY in kinds:
        return None
    first = kinds.index(b"IDAT")
    before = b"".join(chunk for kind, chunk in chunks[1:first])
    behind = b"".join(chunk for kind, chunk in chunks[first:-1] if kind != b"IDAT")
    if len(before) + len(behind) > MAX_EXTRAS:
        return None
    with decoding(None), Image.open(io.BytesIO(data)) as image:
        stored = np.asarray(image)
    return _image(stored, "PNG")._replace(before=before, behind=behind)


def _image(stored: np.ndarray, name: str) -> PlainImage:
    gray = stored.ndim == 2
    current_limits().check(stored.shape[1], stored.shape[0])
    pixels = np.repeat(stored[..., None], 3, axis=2) if gray else stored.copy()
    return PlainImage(np.ascontiguousarray(pixels), gray, name)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """Kind and bytes of every chunk of a PNG; None for truncated chunks and wrong checksums."""
    found, place = [], len(PNG_SIGNATURE)
    while place < len(data):
        if place + 12 > len(data):
            return None
        length = int.from_bytes(data[place : place + 4], "big")
        chunk = data[place : place + 12 + length]
        if len(chunk) != 12 + length or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            return None
        found.append((chunk[4:8], chunk))
        place += len(chunk)
    return found or None


def _with_chunks(data: bytes, before: bytes, behind: bytes) -> bytes:
    chunks = _chunks(data)
    assert chunks is not None
    pixels = b"".join(chunk for kind, chunk in chunks if kind == b"IDAT")
    return b"".join([PNG_SIGNATURE, chunks[0][1], before, pixels, behind, chunks[-1][1]])


def _written(stored: np.ndarray, name: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, name)
    return buffer.getvalue()


def webp_of(image: PlainImage) -> bytes | None:
    """The pixels of an image, encoded as lossless WebP; None for sides that WebP cannot hold."""
    return webp_bytes(image.pixels) if max(image.pixels.shape[:2]) <= WEBP_SIDE else None


def pixels_of_webp(data: bytes) -> Pixels:
    """Inverse of `webp_of`. Raises Corrupt."""
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            return np.ascontiguousarray(np.asarray(image.convert("RGB")))
    except (OSError, ValueError) as error:
        raise Corrupt(f"the stored WebP is damaged: {error}") from None
