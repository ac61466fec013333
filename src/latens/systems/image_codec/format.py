"""Contents of a latens image file, inside the container of `codes.stream`.

Profile "IMG1". Header, 12 bytes little-endian: width u32, height u32 (pixels), quality u16 (in 1/256), flags u8 (bit 0 gray,
bit 1 alpha), latent rows per band u8. Sections in this order; 1 to 3 are required:

    kind 1  the whole hyper-latent z
    kind 2  latent y, one section per band of rows: CRC32 u32 of the scale levels of the band, then the coded symbols; for a
            model with context, the band of `codes.context_coding`
    kind 3  alpha channel as a lossless 8-bit gray PNG, present if bit 1 is set
    kind 4  EXIF (a TIFF structure after "Exif", 0, 0), as a zlib stream of at most 60,000 bytes; optional
    kind 5  XMP (UTF-8), in the same way; optional

Version 1.1: decoded gray is the rounded mean of the three channels of the synthesis; in 1.0 it is the first channel.

The size of the image determines the sizes of the latents, which are not stored. The CRC of the scale levels separates a machine
that computes other entropy parameters (DeviceMismatch) from damaged bytes (Corrupt).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from latens.codes.stream import Container, Section, head_bytes, pack, unpack, wrong_kind
from latens.data.limits import current_limits
from latens.errors import Corrupt, UnsupportedFeature
from latens.systems.image_codec.config import HYPER_STRIDE, STRIDE

PROFILE = "IMG1"
VERSION = (1, 1)
HYPER, BAND, ALPHA, EXIF, XMP = 1, 2, 3, 4, 5
KINDS: Mapping[int, str] = MappingProxyType(
    {HYPER: "hyper-latent", BAND: "latent band", ALPHA: "alpha channel", EXIF: "EXIF", XMP: "XMP"}
)
BAND_ROWS = 64  # latent rows of one band, 1,024 image rows
QUALITY_STEPS = 256  # steps of a stored quality per unit
GRAY, WITH_ALPHA = 1, 2
_HEADER = struct.Struct("<IIHBB")


class ImageHeader(NamedTuple):
    """Size in pixels, quality in 1/256, color mode, latent rows per band."""

    width: int
    height: int
    quality: int
    gray: bool
    alpha: bool
    band_rows: int = BAND_ROWS

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of y: the sides of the image, rounded up to multiples of 64, divided by 16."""
        height, width = (-(-side // HYPER_STRIDE) * HYPER_STRIDE // STRIDE for side in (self.height, self.width))
        return height, width

    @property
    def bands(self) -> list[tuple[int, int]]:
        """First latent row and end (exclusive) of every band."""
        return bands_of(self.latent_size[0], self.band_rows)


def bands_of(rows: int, band_rows: int) -> list[tuple[int, int]]:
    """First latent row and end (exclusive) of every band of a latent."""
    return [(top, min(top + band_rows, rows)) for top in range(0, rows, band_rows)]


class CodedImage(NamedTuple):
    """The contents of a file. Damaged parts (read with `partial`) are None."""

    header: ImageHeader
    model_id: bytes
    hyper: bytes
    bands: tuple[bytes | None, ...]
    alpha: bytes | None
    version: tuple[int, int] = VERSION
    exif: bytes | None = b""  # packed; empty if absent, None if damaged
    xmp: bytes | None = b""
    extra: int = 0  # bytes after the end of the file, which `partial` permits

    @property
    def gray_is_mean(self) -> bool:
        return self.version >= (1, 1)


@dataclass(frozen=True)
class StreamInfo:
    """The result of `latens inspect`. `bits` counts the intact sections by name; "header" is the rest of the file.
    In a damaged file "header" is the head alone, and "unreadable" the rest of the bytes that are there.

    `damage` names damaged or missing sections, with the image rows of bands.
    """

    width: int
    height: int
    mode: str
    quality: float
    model_id: str
    format: str
    bytes: int
    bpp: float
    bits: dict[str, int]
    damage: tuple[str, ...] = ()
    intact_bands: int = 0
    bands: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_image_file(coded: CodedImage) -> bytes:
    """The bytes of a file; no band may be None. Raises LimitExceeded for an image that could not be read again."""
    header = coded.header
    current_limits().check(header.width, header.height)
    flags = GRAY * header.gray | WITH_ALPHA * header.alpha
    packed = _HEADER.pack(header.width, header.height, header.quality, flags, header.band_rows)
    sections = [Section(HYPER, coded.hyper)]
    sections += [Section(BAND, band) for band in coded.bands if band is not None]
    if coded.alpha is not None:
        sections.append(Section(ALPHA, coded.alpha))
    sections += [Section(kind, data, required=False) for kind, data in ((EXIF, coded.exif), (XMP, coded.xmp)) if data]
    return pack(Container(PROFILE, coded.model_id, packed, tuple(sections), coded.version))


def read_coded_image(data: bytes, *, partial: bool = False) -> CodedImage:
    """Parse a file. Raises the errors of `codes.stream.unpack`, and Corrupt for inconsistent sections.

    With `partial`, damaged bands are None and damaged alpha or metadata is left out; header and z must be intact.
    """
    unpacked = unpack(data, known_kinds=KINDS, partial=partial)
    container, damaged = unpacked.container, unpacked.damaged
    if container.profile != PROFILE:
        raise wrong_kind(container.profile)
    header = _read_header(container.header)
    kinds = [HYPER] + [BAND] * len(header.bands) + [ALPHA] * header.alpha
    lost = {damage.index: damage.kind for damage in damaged}
    present = iter(container.sections)
    count = len(container.sections) + len(lost)
    parts = [Section(lost[n], b"") if n in lost else next(present, Section(0, b"")) for n in range(count)]
    more = [part.kind for part in parts[len(kinds) :]]
    if [part.kind for part in parts[: len(kinds)]] != kinds or more not in ([], [EXIF], [XMP], [EXIF, XMP]):
        raise Corrupt("the sections do not match the size of the image", section="header")
    payloads = [None if n in lost else part.payload for n, part in enumerate(parts)]
    extra = dict(zip(more, payloads[len(kinds) :], strict=True))
    if payloads[0] is None:
        raise Corrupt("the hyper-latent is damaged; nothing can be decoded without it", section=KINDS[HYPER])
    return CodedImage(
        header,
        container.model_id,
        payloads[0],
        tuple(payloads[1 : 1 + len(header.bands)]),
        payloads[len(kinds) - 1] if header.alpha else None,
        container.version,
        extra.get(EXIF, b""),
        extra.get(XMP, b""),
        unpacked.extra,
    )


def _read_header(packed: bytes) -> ImageHeader:
    if len(packed) != _HEADER.size:
        raise Corrupt(f"the image header has {len(packed)} bytes instead of {_HEADER.size}", section="header")
    width, height, quality, flags, band_rows = _HEADER.unpack(packed)
    if flags & ~(GRAY | WITH_ALPHA):
        raise UnsupportedFeature("the image uses a feature that this version of latens does not know", hint="update latens")
    if min(width, height, band_rows) < 1:
        raise Corrupt(f"the image header has {width} x {height} pixels and {band_rows} rows per band", section="header")
    current_limits().check(width, height)
    return ImageHeader(width, height, quality, bool(flags & GRAY), bool(flags & WITH_ALPHA), band_rows)


def inspect_stream(data: bytes, *, partial: bool = False) -> StreamInfo:
    """Sizes of a file, and bits of its parts; needs no model. With `partial`, damaged parts are named instead of an error.

    Raises StreamError or LimitExceeded; with `partial`, only if nothing can be decoded.
    """
    coded = read_coded_image(data, partial=partial)
    header = coded.header
    bits = {
        "latent": 8 * sum(len(band) for band in coded.bands if band is not None),
        "hyper_latent": 8 * len(coded.hyper),
        "alpha": 8 * len(coded.alpha or b""),
        "metadata": 8 * (len(coded.exif or b"") + len(coded.xmp or b"")),
    }
    head, rest, damage = 8 * head_bytes(data), 8 * len(data) - sum(bits.values()), tuple(_damage(coded))
    bits |= {"header": head, "unreadable": rest - head} if damage else {"header": rest}
    mode = ("L" if header.gray else "RGB") + ("A" if header.alpha else "")
    return StreamInfo(
        width=header.width,
        height=header.height,
        mode=mode,
        quality=header.quality / QUALITY_STEPS,
        model_id=coded.model_id.hex(),
        format=f"image {coded.version[0]}.{coded.version[1]}",
        bytes=len(data),
        bpp=8 * len(data) / (header.width * header.height),
        bits=bits,
        damage=damage,
        intact_bands=sum(band is not None for band in coded.bands),
        bands=len(coded.bands),
    )


def _damage(coded: CodedImage) -> Iterator[str]:
    """Names of the damaged parts of a file that was read with `partial`."""
    header = coded.header
    for number, ((top, end), band) in enumerate(zip(header.bands, coded.bands, strict=True), start=1):
        if band is None:
            rows = f"rows {top * STRIDE} to {min(end * STRIDE, header.height) - 1}"
            yield f"{KINDS[BAND]} {number} of {len(coded.bands)} ({rows})"
    for kind, data in ((ALPHA, coded.alpha if header.alpha else b""), (EXIF, coded.exif), (XMP, coded.xmp)):
        if data is None:
            yield KINDS[kind]
    if coded.extra:
        yield f"{coded.extra:,} bytes follow the end of the file"
