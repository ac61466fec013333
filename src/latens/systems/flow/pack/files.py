"""Image files as pixels and what else they hold, and back. Files that would lose something are no images here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.image_output import png_bytes, webp_bytes
from latens.data.images import Pixels, decoding
from latens.errors import Corrupt, LatensError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN_FORMATS = ("PNG", "BMP", "PPM")  # their places are stored in files: never change the order
GRAY, COLOR = 0, 2  # color types of PNG
ANIMATION, TRANSPARENCY = b"acTL", b"tRNS"
MAX_EXTRAS = 1 << 16  # bytes


class PlainImage(NamedTuple):
    """An 8-bit image in gray or color without transparency, and how to write its file again.

    pixels: (H, W, 3) uint8; three equal channels where `gray`. `before` and `behind`: chunks of a PNG around its pixels.
    """

    pixels: Pixels
    gray: bool
    format: str
    before: bytes = b""
    behind: bytes = b""

    def file(self) -> bytes:
        """The file: for PNG with the same chunks but pixels compressed anew, otherwise the same bytes."""
        stored = np.ascontiguousarray(self.pixels[..., 0]) if self.gray else self.pixels
        if self.format == "PNG":
            return _with_chunks(png_bytes(stored), self.before, self.behind)
        return _written(stored, self.format)


def plain_image(data: bytes) -> PlainImage | None:
    """The image of a file; None for palettes, alpha, 16 bits, animations, interlacing, other formats and damaged files."""
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
    pixels = np.repeat(stored[..., None], 3, axis=2) if gray else stored.copy()
    return PlainImage(np.ascontiguousarray(pixels), gray, name)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """Kind and bytes of every chunk of a PNG; None unless the file is made of whole chunks with right checksums."""
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


def webp_of(image: PlainImage) -> bytes:
    """The pixels as lossless WebP."""
    return webp_bytes(image.pixels)


def pixels_of_webp(data: bytes) -> Pixels:
    """Undoes `webp_of`. Raises Corrupt."""
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            return np.ascontiguousarray(np.asarray(image.convert("RGB")))
    except (OSError, ValueError) as error:
        raise Corrupt(f"the stored WebP is damaged: {error}") from None
