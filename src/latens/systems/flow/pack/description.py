"""Header of an image payload in an archive: size, kind, and the PNG chunks around the pixels.

flags u8 (bit 0 gray, bit 1 chunks follow, bits 2 and 3 format), then width, height, and length and deflated bytes of the
chunks; numbers are base-128.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from latens.data.limits import current_limits
from latens.errors import Corrupt
from latens.systems.flow.pack.files import MAX_EXTRAS, PLAIN_FORMATS, PlainImage

_GRAY, _EXTRAS = 1, 2


class Description(NamedTuple):
    """Header of an image payload; `before` and `behind` are the PNG chunks before and after the pixels."""

    width: int
    height: int
    gray: bool
    format: str
    before: bytes
    behind: bytes


def describe(image: PlainImage) -> bytes:
    """Serialized header of an image payload. Raises LimitExceeded for an image that could not be read again."""
    current_limits().check(image.pixels.shape[1], image.pixels.shape[0])
    extras = image.before + image.behind
    flags = _GRAY * image.gray | _EXTRAS * bool(extras) | PLAIN_FORMATS.index(image.format) << 2
    parts = [bytes([flags]), number(image.pixels.shape[1]), number(image.pixels.shape[0])]
    if extras:
        small = zlib.compress(number(len(image.before)) + extras, 9)
        parts += [number(len(small)), small]
    return b"".join(parts)


def described(payload: bytes) -> tuple[Description, bytes]:
    """Header and remainder of a payload. Raises Corrupt, and LimitExceeded above the limits of images."""
    try:
        flags = payload[0]
        width, place = parsed(payload, 1)
        height, place = parsed(payload, place)
        before = behind = b""
        if flags & _EXTRAS:
            length, place = parsed(payload, place)
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(payload[place : place + length], MAX_EXTRAS + 8)
            first, start = parsed(plain, 0)
            before, behind, place = plain[start : start + first], plain[start + first :], place + length
        found = Description(width, height, bool(flags & _GRAY), PLAIN_FORMATS[flags >> 2], before, behind)
    except (IndexError, zlib.error) as error:
        raise Corrupt(f"the description of an image is damaged: {error}") from None
    if min(width, height) < 1:
        raise Corrupt(f"an image has {width} x {height} pixels")
    current_limits().check(width, height)
    return found, payload[place:]


def number(value: int) -> bytes:
    """Nonnegative number in base 128, least significant digit first."""
    digits = bytearray()
    while value >= 128:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def parsed(data: bytes, place: int) -> tuple[int, int]:
    """The number at an offset, and the offset after it. Raises IndexError at the end of the data."""
    value = shift = 0
    while data[place] & 128:
        value |= (data[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if shift > 35:
            raise IndexError("a base-128 number has more than six bytes")
    return value | data[place] << shift, place + 1
