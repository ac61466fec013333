"""Damaged files: every cut and every flipped bit is found, and `partial` decodes the intact bands."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latens.codes.stream import Section, pack, unpack
from latens.errors import Corrupt, DeviceMismatch, LimitExceeded, NotOurFile, StreamError, Truncated, UnsupportedVersion
from latens.systems.image_codec import format as image_format
from latens.systems.image_codec.config import STRIDE
from latens.systems.image_codec.predict import ImageCodec

TALL = (np.mgrid[0:1100, 0:96].sum(axis=0)[..., None] * np.array([1, 2, 3]) // 5 % 256).astype(np.uint8)


@pytest.fixture(scope="module")
def small(codec: ImageCodec) -> bytes:
    alpha = Image.fromarray(TALL[:90, :80]).convert("RGBA")
    alpha.putalpha(Image.fromarray(TALL[:90, :80, 0]))
    return codec.compress(alpha, quality=1)


@pytest.fixture(scope="module")
def tall(codec: ImageCodec) -> bytes:
    return codec.compress(TALL, quality=1)


def test_every_prefix_is_truncated(codec: ImageCodec, small: bytes) -> None:
    for length in range(len(small)):
        with pytest.raises((Truncated, NotOurFile) if length < 8 else Truncated):
            codec.decompress(small[:length])


def test_every_flipped_bit_is_found(codec: ImageCodec, small: bytes) -> None:
    step = 1 if len(small) < 400 else 3
    for place in range(0, 8 * len(small), step):
        damaged = bytearray(small)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises((StreamError, LimitExceeded)):
            codec.decompress(bytes(damaged))


def test_newer_versions_and_foreign_files_raise_different_errors(codec: ImageCodec, small: bytes) -> None:
    newer = bytearray(small)
    newer[8] = 2
    with pytest.raises(UnsupportedVersion, match=r"2\."):
        codec.decompress(bytes(newer))
    for other in (b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(60)):
        with pytest.raises(NotOurFile):
            codec.decompress(other)


def test_partial_keeps_the_intact_bands(codec: ImageCodec, tall: bytes) -> None:
    whole = np.asarray(codec.decompress(tall)).astype(int)
    damaged = bytearray(tall)
    damaged[-1] ^= 255  # in the last section, the second band: rows 1024 to 1099
    with pytest.raises(Corrupt):
        codec.decompress(bytes(damaged))
    for blob in (bytes(damaged), tall[:-3]):
        image = codec.decompress(blob, partial=True)
        assert image.info["latens_damaged"] == ["rows 1024-1099"]
        saved = np.asarray(image).astype(int)
        context = codec.synthesis_halo * STRIDE  # image rows above the border that depend on latent rows below it
        assert np.abs(saved[: 1024 - context] - whole[: 1024 - context]).max() <= 1
        assert np.abs(saved[1024:] - whole[1024:]).max() > 1


def test_inspection_counts_lost_bytes_as_unreadable(tall: bytes) -> None:
    whole = image_format.inspect_stream(tall).bits
    assert "unreadable" not in whole
    lost = image_format.read_coded_image(tall).bands[-1]
    assert lost is not None
    flipped = tall[:-1] + bytes([tall[-1] ^ 1])
    for blob, unreadable in ((tall[:-3], len(lost) - 3), (tall[: -len(lost)], 0), (flipped, len(lost)), (tall + b"x", 1)):
        found = image_format.inspect_stream(blob, partial=True).bits
        latent = whole["latent"] - (0 if blob.startswith(tall) else 8 * len(lost))
        assert found == {**whole, "latent": latent, "unreadable": 8 * unreadable}


def test_other_entropy_parameters_raise_device_mismatch(codec: ImageCodec, small: bytes) -> None:
    coded = image_format.read_coded_image(small)
    band = coded.bands[0]
    assert band is not None
    changed = coded._replace(bands=(bytes([band[0] ^ 1]) + band[1:],))
    with pytest.raises(DeviceMismatch):
        codec.decompress(image_format.write_image_file(changed))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"width": 0}, Corrupt),
        ({"width": 30_000, "height": 30_000}, LimitExceeded),
        ({"width": 4_000_000_000, "height": 4_000_000_000}, LimitExceeded),
        ({"height": 2000}, Corrupt),
        ({"height": 300}, Corrupt),
        ({"quality": 60_000}, Corrupt),
        ({"quality": 0}, Corrupt),
        ({"band_rows": 1}, Corrupt),
    ],
)
def test_impossible_headers_with_a_valid_checksum_are_refused(
    codec: ImageCodec, small: bytes, changes: dict[str, Any], error: type[Exception]
) -> None:
    coded = image_format.read_coded_image(small)
    forged = coded._replace(header=coded.header._replace(**changes))
    with pytest.raises(error):
        codec.decompress(image_format.write_image_file(forged))


def test_missing_and_repeated_sections(codec: ImageCodec, small: bytes) -> None:
    container = unpack(small).container
    sections = container.sections
    for changed in (sections[1:], sections[:1] + sections, (*sections, Section(9, b"", required=False)), sections[:-1]):
        forged = pack(container.__class__(container.profile, container.model_id, container.header, tuple(changed)))
        if changed[-1].kind == 9:
            assert codec.decompress(forged).size == (80, 90)  # an unknown optional section is ignored
        else:
            with pytest.raises(Corrupt):
                codec.decompress(forged)


def gray_png(width: int, height: int) -> bytes:
    """A complete gray PNG of black pixels, 1 bit each."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    parts = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("size", "error"), [((20_000, 20_000), LimitExceeded), ((9000, 7000), Corrupt), ((81, 90), Corrupt)])
@pytest.mark.parametrize("partial", [False, True])
def test_an_alpha_bomb_takes_no_memory(
    codec: ImageCodec, small: bytes, size: tuple[int, int], error: type[StreamError], partial: bool
) -> None:
    container = unpack(small).container
    *others, _ = container.sections
    bomb = pack(replace(container, sections=(*others, Section(image_format.ALPHA, gray_png(*size)))))
    codec.decompress(small)
    tracemalloc.start()
    try:
        with pytest.raises(error, match="alpha channel"):
            codec.decompress(bomb, partial=partial)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
