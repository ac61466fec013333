"""EXIF and XMP of images: what is carried into other files, and how it is packed.

Of EXIF, thumbnails and maker notes are left out: they are often larger than a compressed image, and the offsets in maker notes
break when they move. The orientation is left out because it has been applied.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

from PIL import Image

MAX_BYTES = 60_000  # of each of the two, which JPEG files can hold
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, INCHES = 0x011A, 0x011B, 0x0128, 2
DEFAULT_DPI = (72, 96)  # what programs write where nobody has set a resolution
MAX_DPI = 100_000
EXIF_PART, GPS_PART = 0x8769, 0x8825
COLOR_SPACE, SRGB = 0xA001, 1
LEFT_OUT = frozenset({0x0112, 0x014A, 0x0201, 0x0202, 0x02BC, 0x83BB, 0x8649, 0x8773})  # orientation, sub-pages, XMP, IPTC, ICC
LEFT_OUT_OF_EXIF = frozenset({0x927C, 0xA002, 0xA003, 0xA005})  # maker note, stored size, interoperability
IPTC_OF_JPEG, IPTC_OF_TIFF = 0x0404, 0x83BB
TEXTS_OF_EXIF_AND_XMP = ("XML:com.adobe.xmp", "Raw profile type")  # beginnings of keys of texts in PNG
PARTS_OF_XMP = {b"hdrgm:Version": "HDR gain map", b"MotionPhoto": "clip of the motion photo", b"MicroVideo": "clip"}
KEPT_OF_TIFF = frozenset({0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298})


class Metadata(NamedTuple):
    """EXIF as a TIFF structure after "Exif" and two zero bytes, XMP as UTF-8; empty where there is none."""

    exif: bytes = b""
    xmp: bytes = b""


def read_metadata(image: Image.Image, notes: list[str]) -> Metadata:
    """The metadata of an image that is loaded. What cannot be carried is noted: texts, comments, IPTC, gain maps, clips."""
    try:
        exif = _exif(image)
    except Exception:  # Pillow's parser and writer raise many types for damaged or unusual values
        notes.append("EXIF data that cannot be carried left out")
        exif = b""
    xmp = image.info.get("xmp") or b""
    found = Metadata(exif, xmp.encode() if isinstance(xmp, str) else bytes(xmp))
    for name, data in found._asdict().items():
        if len(data) > MAX_BYTES:
            notes.append(f"{name.upper()} of {len(data):,} bytes left out")
            found = found._replace(**{name: b""})
    others = _others(image) + [part for mark, part in PARTS_OF_XMP.items() if mark in found.xmp]
    if others:
        notes.append(f"{', '.join(dict.fromkeys(others))} left out")
    return found


def _others(image: Image.Image) -> list[str]:
    """Names of the metadata besides EXIF and XMP, which have no place in other files."""
    texts = [str(key) for key in getattr(image, "text", None) or {} if not str(key).startswith(TEXTS_OF_EXIF_AND_XMP)]
    kind = "text field" if len(texts) == 1 else "text fields"
    found = [f"{kind} {', '.join(texts[:3])}{' ...' if len(texts) > 3 else ''}"] if texts else []
    if image.info.get("comment"):
        found.append("comment")
    tags, resources = getattr(image, "tag_v2", None) or {}, image.info.get("photoshop")
    if IPTC_OF_TIFF in tags or (isinstance(resources, dict) and IPTC_OF_JPEG in resources):
        found.append("IPTC")
    return found


def _exif(image: Image.Image) -> bytes:
    source, kept = image.getexif(), Image.Exif()
    for tag, value in source.items():
        if tag not in (EXIF_PART, GPS_PART) and (tag in KEPT_OF_TIFF if image.format == "TIFF" else tag not in LEFT_OUT):
            kept[tag] = value
    for part in (EXIF_PART, GPS_PART):
        values: dict[int, Any] = {
            k: v for k, v in source.get_ifd(part).items() if part == GPS_PART or k not in LEFT_OUT_OF_EXIF
        }
        if part == EXIF_PART and COLOR_SPACE in values:
            values[COLOR_SPACE] = SRGB
        if values:
            kept[part] = values
    dpi = image.info.get("dpi")
    if dpi and X_RESOLUTION not in kept and all(_chosen(float(value)) for value in dpi):
        kept[X_RESOLUTION], kept[Y_RESOLUTION], kept[RESOLUTION_UNIT] = *(round(float(value), 1) for value in dpi), INCHES
    return kept.tobytes() if len(kept) else b""


def _chosen(dpi: float) -> bool:
    return math.isfinite(dpi) and 1 < dpi < MAX_DPI and round(dpi) not in DEFAULT_DPI


def dpi_of(exif: bytes) -> tuple[float, float] | None:
    """Horizontal and vertical pixels per inch of EXIF; None if it has none."""
    found = Image.Exif()
    try:
        found.load(exif)
        x, y = float(found[X_RESOLUTION]), float(found[Y_RESOLUTION])
    except Exception:  # Pillow's parser raises many types for damaged values
        return None
    good = found.get(RESOLUTION_UNIT, INCHES) == INCHES and all(map(_chosen, (x, y)))
    return (x, y) if good else None


def pack_metadata(data: bytes) -> bytes:
    return zlib.compress(data, 9)


def unpack_metadata(packed: bytes) -> bytes:
    """The data of `pack_metadata`. Raises ValueError for damaged data and for more than MAX_BYTES, before memory is taken."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, MAX_BYTES + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(data) > MAX_BYTES or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"more than {MAX_BYTES:,} bytes, or an end that is missing")
    return data
