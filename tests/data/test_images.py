from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from latens.data.image_output import write_image
from latens.data.images import IMAGE_ENDINGS, ImageLimits, read_image
from latens.errors import InputError, LimitExceeded, UnreadableInput

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLORS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
NOISE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width: int, height: int, depth: int, color: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file from its specification; `rows` are unfiltered, each after a zero byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(values: np.ndarray, color: int) -> bytes:
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return raw_png(width, height, 16, color, rows)


def gif(screen: int, frame: int) -> bytes:
    start = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0, 0, 0)
    return start + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\2\0;"


# ------------------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats(tmp_path: Path, kind: str) -> None:
    data = encoded(Image.fromarray(COLORS), kind)
    (tmp_path / "image").write_bytes(data)  # the ending does not matter
    for source in (data, tmp_path / "image", str(tmp_path / "image")):
        image = read_image(source)
        assert np.array_equal(image.pixels, COLORS)
        assert image.pixels.flags.c_contiguous
        assert (image.alpha, image.gray, image.notes) == (None, False, ())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_equal_their_decoder(kind: str) -> None:
    if kind == "AVIF":
        pytest.importorskip("PIL._avif")
    data = encoded(Image.fromarray(NOISE), kind)
    with Image.open(io.BytesIO(data)) as oracle:
        assert np.array_equal(read_image(data).pixels, np.asarray(oracle.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("white", "black", "white")]
    options = {"lossless": True} if kind == "WEBP" else {"loop": 0} if kind == "GIF" else {}
    image = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (image.pixels == 255).all()
    assert any(note.startswith("frame 1 of ") for note in image.notes)


# ------------------------------------------------------------------------------------------------------------ modes


def in_mode(mode: str) -> Image.Image:
    """The colors in this mode, with the ramp as alpha if the mode has alpha."""
    image = Image.fromarray(COLORS)
    if mode == "PA":
        image = image.quantize(16).convert("PA")
    if mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        image = image.convert("L") if mode in ("LA", "La") else image
        image.putalpha(Image.fromarray(RAMP))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_opaque_modes_equal_pillows_conversion(mode: str) -> None:
    image = in_mode(mode)
    loaded = read_image(image)
    assert np.array_equal(loaded.pixels, np.asarray(image.convert("RGB")))
    assert (loaded.alpha, loaded.gray) == (None, mode in ("1", "L"))


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_modes_with_alpha_equal_pillows_conversion(mode: str) -> None:
    image = in_mode(mode)
    oracle = np.asarray((image.convert("LA") if mode == "La" else image).convert("RGBA"))
    loaded = read_image(image)
    assert loaded.alpha is not None
    assert np.array_equal(np.dstack([loaded.pixels, loaded.alpha]), oracle)
    assert np.array_equal(loaded.alpha, RAMP)
    assert loaded.gray == (mode in ("LA", "La"))


@pytest.mark.parametrize(
    ("mode", "note"),
    [("1", "1-bit"), ("P", "palette expanded"), ("CMYK", "CMYK converted"), ("YCbCr", "YCbCr converted"), ("L", None)],
)
def test_conversions_are_noted(mode: str, note: str | None) -> None:
    notes = read_image(Image.fromarray(COLORS).convert(mode)).notes
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_transparency_of_palettes_and_color_keys() -> None:
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    image = read_image(encoded(palette, transparency=bytes([7, 255])))
    assert image.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert image.alpha is not None
    assert image.alpha.tolist() == [[7, 255]]
    key = read_image(encoded(Image.fromarray(np.array([[5, 6]], dtype=np.uint8)), transparency=6))
    assert (key.gray, key.alpha is not None and key.alpha.tolist()) == (True, [[255, 0]])
    color = read_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)))
    assert color.alpha is not None
    assert color.alpha.tolist() == [[0]]


def test_an_opaque_alpha_channel_is_dropped() -> None:
    image = Image.fromarray(COLORS)
    image.putalpha(255)
    loaded = read_image(encoded(image))
    assert loaded.alpha is None
    assert loaded.notes == ("fully opaque alpha channel dropped",)


# ----------------------------------------------------------------------------------------------------------- 16 bits


def test_16_bits_are_rounded_to_the_nearest() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values.astype(np.float64) * 255 / 65535).astype(np.uint8)
    for source in (
        values,
        Image.fromarray(values),  # I;16
        deep_png(values, 0),
        encoded(Image.fromarray(values), "TIFF"),
        Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes()),
        values.astype(">u2"),
        Image.fromarray(values.astype(np.int32)),  # I, 32 bits
        b"P5 256 256 65535\n" + values.astype(">u2").tobytes(),
    ):
        image = read_image(source)
        assert np.array_equal(image.pixels[..., 0], expected)
        assert image.gray
        assert image.notes == ("16-bit reduced to 8-bit",)


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_deep_color_files_are_reduced_with_a_note(color: int, channels: int) -> None:
    values = (np.arange(256)[:, None] * np.ones(channels) * 257).astype(np.uint16).reshape(16, 16, channels)
    image = read_image(deep_png(values, color))
    assert np.array_equal(image.pixels[..., 0], RAMP)  # multiples of 257 are exact however it is done
    assert image.gray == (color == 4)
    assert (image.alpha is None) == (color == 2)
    assert image.notes == ("16-bit reduced to 8-bit",)


def test_deep_color_ppm_is_noted() -> None:
    image = read_image(b"P6 1 1 65535\n" + b"\x40\x40\x80\x80\xff\xff")
    assert image.pixels.tolist() == [[[0x40, 0x80, 0xFF]]]
    assert image.notes == ("16-bit reduced to 8-bit",)


def test_32_bit_values_out_of_range() -> None:
    for values in ([[0, 65536]], [[-1, 5]]):
        with pytest.raises(InputError, match="16 bits"):
            read_image(Image.fromarray(np.array(values, dtype=np.int32)))


# ------------------------------------------------------------------------------------------------------- orientation

STORED = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8) * 40
SEEN = {  # the EXIF standard: which stored row and column are the top and the left of the image
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SEEN)
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.repeat(STORED[:, :, None], 3, axis=2))
    image.putalpha(Image.fromarray(255 - STORED))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, exif=exif, **options)
    expected = np.array(SEEN[orientation]) * 40
    for source in (data, Image.open(io.BytesIO(data))):
        loaded = read_image(source)
        assert np.array_equal(loaded.pixels[..., 0], expected)
        assert loaded.alpha is not None
        assert np.array_equal(loaded.alpha, 255 - expected)
        assert loaded.pixels.flags.c_contiguous
        assert loaded.notes == ((f"EXIF orientation {orientation} applied",) if orientation > 1 else ())


def test_a_jpeg_is_rotated_like_in_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(NOISE), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        oracle = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(read_image(data).pixels, oracle)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_invalid_orientations_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_image(encoded(Image.fromarray(COLORS), exif=exif)).pixels.shape == (16, 16, 3)


# -------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    "bomb",
    [
        raw_png(30000, 30000, 8, 2, bytes(100)),
        raw_png(2**31 - 1, 2**31 - 1, 8, 2, bytes(100)),
        b"P6 100000 100000 255\n" + bytes(100),
        gif(screen=65535, frame=9),
        gif(screen=9, frame=65535),
    ],
)
def test_decompression_bombs_are_refused_before_allocation(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded) as caught:
            read_image(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.exit_status == 5


def test_a_complete_decompression_bomb_needs_no_memory(tmp_path: Path) -> None:
    """A complete PNG of 9,000 x 9,000 pixels, read in a separate process."""
    packer = zlib.compressobj(1)
    rows = b"".join([packer.compress(bytes(9001 * 100)) for _ in range(90)]) + packer.flush()
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    script = f"""
import resource
from latens.data.images import read_image
from latens.errors import LimitExceeded
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_image({str(tmp_path / "bomb.png")!r})
except LimitExceeded:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout
    assert int(grown) < 10_000  # kilobytes, of 81,000 for the pixels


def test_a_text_bomb_is_refused() -> None:
    data = raw_png(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50 << 20))))
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match="texts"):
            read_image(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_limits_by_name(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10))
    with pytest.raises(LimitExceeded, match="limit of 199"):
        read_image(image, limits=ImageLimits(pixels=199))
    with pytest.raises(LimitExceeded, match="limit of 19 per side"):
        read_image(np.asarray(image), limits=ImageLimits(side=19))
    with pytest.raises(LimitExceeded):
        read_image(torch.zeros(3, 10, 20), limits=ImageLimits(pixels=199))
    (tmp_path / "x.png").write_bytes(encoded(image))
    with pytest.raises(LimitExceeded, match="50 bytes"):
        read_image(tmp_path / "x.png", limits=ImageLimits(file_bytes=50))
    wide = encoded(Image.new("1", (20000, 2)))
    with pytest.raises(LimitExceeded) as caught:
        read_image(wide)
    assert "ImageLimits(side=20000)" in str(caught.value.hint)
    assert read_image(wide, limits=ImageLimits(side=20000)).pixels.shape == (2, 20000, 3)


def test_limits_can_be_raised_beyond_those_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # it raises above twice this
    assert read_image(encoded(Image.fromarray(COLORS))).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(Image.fromarray(NOISE), kind)
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableInput) as caught:
        read_image(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert len(str(caught.value).splitlines()) <= 3


def test_damage_to_a_png_is_always_detected() -> None:
    """Every chunk of a PNG has a checksum: a flipped bit is detected or does not change the pixels."""
    data = encoded(Image.fromarray(NOISE))
    whole = read_image(data).pixels
    seen = 0
    for position in range(0, len(data), 29):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        try:
            assert np.array_equal(read_image(bytes(damaged)).pixels, whole)
        except UnreadableInput:
            seen += 1
    assert seen > 100


def test_files_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "letter.jpg").write_text("Dear Sir or Madam,\n")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UnreadableInput, match="not an image of a known format") as caught:
        read_image(tmp_path / "letter.jpg")
    assert "PNG, JPEG" in str(caught.value.hint)
    with pytest.raises(UnreadableInput, match="empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(UnreadableInput, match="no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(UnreadableInput, match="folder"):
        read_image(tmp_path)
    with pytest.raises(UnreadableInput, match="not an image"):
        read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # no interpreter is ever started


def test_kinds_that_other_packages_read_name_their_package(tmp_path: Path) -> None:
    heic = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)
    with pytest.raises(UnreadableInput, match="HEIC") as caught:
        read_image(heic)
    assert "pillow-heif" in str(caught.value.hint)
    thumbnail = TiffImagePlugin.ImageFileDirectory_v2()
    thumbnail[50706] = b"\1\4\0\0"  # DNGVersion
    Image.fromarray(COLORS).save(tmp_path / "x.dng", "TIFF", tiffinfo=thumbnail)
    with pytest.raises(UnreadableInput, match="raw file") as caught:
        read_image(tmp_path / "x.dng")
    assert "rawpy" in str(caught.value.hint)
    assert caught.value.where == str(tmp_path / "x.dng")


@pytest.mark.parametrize("ending", [".jfif", ".jpe"])
def test_other_endings_of_jpeg(tmp_path: Path, ending: str) -> None:
    assert ending in IMAGE_ENDINGS
    write_image(tmp_path / f"x{ending}", Image.fromarray(NOISE))
    assert (tmp_path / f"x{ending}").read_bytes()[:2] == b"\xff\xd8"
    assert read_image(tmp_path / f"x{ending}").pixels.shape == NOISE.shape


def test_a_file_without_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(encoded(Image.fromarray(COLORS)))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("latens.data.images.open", refuse, raising=False)
    with pytest.raises(UnreadableInput, match="no permission"):
        read_image(tmp_path / "x.png")


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(Image.fromarray(COLORS)))
    with (tmp_path / "x.png").open("rb") as stream:
        reader, writer = os.pipe()
        os.write(writer, stream.read())
        os.close(writer)
    try:
        assert np.array_equal(read_image(f"/dev/fd/{reader}").pixels, COLORS)
    finally:
        os.close(reader)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded(Image.fromarray(COLORS)))))
    assert np.array_equal(read_image("-").pixels, COLORS)


def test_a_damaged_lazy_pil_image() -> None:
    data = encoded(Image.fromarray(NOISE), "JPEG")
    with Image.open(io.BytesIO(data[: len(data) // 2])) as image, pytest.raises(UnreadableInput):
        read_image(image)
