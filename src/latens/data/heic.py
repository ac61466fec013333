"""HEIC images, which the package pi-heif reads (the extra `heic`). Standard library only, until an image is opened."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, BinaryIO

from latens.errors import UnreadableInput

if TYPE_CHECKING:
    from PIL import Image

HEIC_ENDINGS = (".heic", ".heif", ".hif")
BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"})


def is_heic(start: bytes) -> bool:
    """True for the first 12 bytes of a HEIC file."""
    return start[4:8] == b"ftyp" and start[8:12] in BRANDS


def is_installed() -> bool:
    """True if the reader is installed."""
    return importlib.util.find_spec("pi_heif") is not None


def with_heic(endings: frozenset[str]) -> frozenset[str]:
    """The endings of images, with those of HEIC if its reader is installed; other endings as they are."""
    return endings | set(HEIC_ENDINGS) if ".jpg" in endings and is_installed() else endings


def open_heic(stream: BinaryIO, where: str | None) -> Image.Image:
    """The image with only its header read. Raises UnreadableInput without the reader."""
    if not is_installed():
        raise UnreadableInput("HEIC is read by another package", where=where, hint="pip install 'latens[heic]'")
    from pi_heif.as_plugin import HeifImageFile  # not registered with Pillow: its registry belongs to the whole process

    stream.seek(0)
    image: Image.Image = HeifImageFile(stream)
    return image
