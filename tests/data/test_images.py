from __future__ import annotations

import errno
import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data import files
from latens.data.images import ImageLimits, check_ending, read_picture, to_pil, write_image
from latens.errors import InputError, LimitExceeded, StorageFull, UnreadableInput, UsageError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
NOISE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file by its specification; `rows` are unfiltered, each after a zero byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(values: np.ndarray, colour: int) -> bytes:
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return raw_png(width, height, 16, colour, rows)


# ------------------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_kinds(tmp_path: Path, kind: str):
    data = encoded(Image.fromarray(COLOURS), kind)
    (tmp_path / "picture").write_bytes(data)  # the ending does not matter
    for source in (data, tmp_path / "picture", str(tmp_path / "picture")):
        picture = read_picture(source)
        assert np.array_equal(picture.pixels, COLOURS)
        assert picture.pixels.flags.c_contiguous
        assert (picture.alpha, picture.grey, picture.notes) == (None, False, ())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_lossy_kinds_are_as_their_decoder_gives_them(kind: str):
    if kind == "AVIF":
        pytest.importorskip("PIL._avif")
    data = encoded(Image.fromarray(NOISE), kind)
    with Image.open(io.BytesIO(data)) as oracle:
        assert np.array_equal(read_picture(data).pixels, np.asarray(oracle.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken(kind: str):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "white")]
    options = {"lossless": True} if kind == "WEBP" else {"loop": 0} if kind == "GIF" else {}
    picture = read_picture(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (picture.pixels == 255).all()
    assert "one frame of several taken" in picture.notes


# ------------------------------------------------------------------------------------------------------------ modes


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX", "La", "RGBa", "PA"]
)
def test_modes_are_as_pillow_converts_them(mode: str):
    source = Image.fromarray(COLOURS)
    source.putalpha(Image.fromarray(RAMP))
    image = source.convert("RGB").convert(mode) if mode not in ("La", "RGBa", "LA", "RGBA", "PA") else source
    if mode == "PA":
        image = source.convert("RGB").quantize(16).convert("PA")
        image.putalpha(Image.fromarray(RAMP))
    elif image is source:
        image = source.convert("LA").convert(mode) if mode in ("LA", "La") else source.convert(mode)
    assert image.mode == mode
    oracle = (image.convert("LA") if mode == "La" else image).convert("RGBA")
    picture = read_picture(image)
    assert np.array_equal(picture.pixels, np.asarray(oracle)[..., :3])
    assert picture.grey == (mode in ("1", "L", "LA", "La"))
    if mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, RAMP)
    else:
        assert picture.alpha is None


@pytest.mark.parametrize(
    ("mode", "note"),
    [("1", "1-bit"), ("P", "palette expanded"), ("CMYK", "CMYK converted"), ("YCbCr", "YCbCr converted"), ("L", None)],
)
def test_what_was_done_is_said(mode: str, note: str | None):
    notes = read_picture(Image.fromarray(COLOURS).convert(mode)).notes
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_transparency_of_palettes_and_colour_keys():
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    picture = read_picture(encoded(palette, transparency=bytes([7, 255])))
    assert picture.pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[7, 255]]
    key = read_picture(encoded(Image.fromarray(np.array([[5, 6]], dtype=np.uint8)), transparency=6))
    assert (key.grey, key.alpha is not None and key.alpha.tolist()) == (True, [[255, 0]])
    colour = read_picture(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)))
    assert colour.alpha is not None
    assert colour.alpha.tolist() == [[0]]


def test_an_opaque_alpha_channel_is_dropped():
    image = Image.fromarray(COLOURS)
    image.putalpha(255)
    picture = read_picture(encoded(image))
    assert picture.alpha is None
    assert picture.notes == ("fully opaque alpha channel dropped",)


# ----------------------------------------------------------------------------------------------------------- 16 bits


def test_16_bits_are_rounded_to_the_nearest():
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
        picture = read_picture(source)
        assert np.array_equal(picture.pixels[..., 0], expected)
        assert picture.grey
        assert picture.notes == ("16-bit reduced to 8-bit",)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_deep_colour_files_are_reduced_by_pillow_and_that_is_said(colour: int, channels: int):
    values = (np.arange(256)[:, None] * np.ones(channels) * 257).astype(np.uint16).reshape(16, 16, channels)
    picture = read_picture(deep_png(values, colour))
    assert np.array_equal(picture.pixels[..., 0], RAMP)  # multiples of 257 are exact however it is done
    assert picture.grey == (colour == 4)
    assert (picture.alpha is None) == (colour == 2)
    assert picture.notes == ("16-bit reduced to 8-bit",)


def test_deep_colour_ppm_is_said():
    picture = read_picture(b"P6 1 1 65535\n" + b"\x40\x40\x80\x80\xff\xff")
    assert picture.pixels.tolist() == [[[0x40, 0x80, 0xFF]]]
    assert picture.notes == ("16-bit reduced to 8-bit",)


def test_32_bit_values_that_do_not_fit():
    for values in ([[0, 65536]], [[-1, 5]]):
        with pytest.raises(InputError, match="16 bits"):
            read_picture(Image.fromarray(np.array(values, dtype=np.int32)))


# ------------------------------------------------------------------------------------------------------- orientation

STORED = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8) * 40
SEEN = {  # the EXIF standard: which stored row and column are the top and the left of the picture
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
def test_exif_orientation_is_applied_once(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.repeat(STORED[:, :, None], 3, axis=2))
    image.putalpha(Image.fromarray(255 - STORED))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, exif=exif, **options)
    expected = np.array(SEEN[orientation]) * 40
    for source in (data, Image.open(io.BytesIO(data))):
        picture = read_picture(source)
        assert np.array_equal(picture.pixels[..., 0], expected)
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, 255 - expected)
        assert picture.pixels.flags.c_contiguous
        assert picture.notes == ((f"EXIF orientation {orientation} applied",) if orientation > 1 else ())


def test_a_jpeg_is_turned_as_pillow_turns_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(NOISE), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        oracle = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(read_picture(data).pixels, oracle)


@pytest.mark.parametrize("orientation", [0, 9, "top"])
def test_orientations_that_are_none_are_passed_over(orientation: int | str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_picture(encoded(Image.fromarray(COLOURS), exif=exif)).pixels.shape == (16, 16, 3)


def test_a_colour_profile_is_dropped_and_said():
    wide, standard = b"Display P3" * 20, b"sRGB IEC61966-2.1" * 20
    assert read_picture(encoded(Image.fromarray(COLOURS), icc_profile=wide)).notes == (
        "ICC profile dropped, colours taken as sRGB",
    )
    assert read_picture(encoded(Image.fromarray(COLOURS), icc_profile=standard)).notes == ()


# ------------------------------------------------------------------------------------------------- arrays and tensors


def test_arrays():
    assert np.array_equal(read_picture(COLOURS).pixels, COLOURS)
    for grey in (RAMP, RAMP[..., None]):
        picture = read_picture(grey)
        assert picture.grey
        assert np.array_equal(picture.pixels, np.stack([RAMP] * 3, axis=-1))
    with_alpha = read_picture(np.dstack([COLOURS, RAMP]))
    assert with_alpha.alpha is not None
    assert np.array_equal(with_alpha.alpha, RAMP)
    assert read_picture(RAMP > 127).pixels[..., 0].tolist() == np.where(RAMP > 127, 255, 0).tolist()
    assert np.array_equal(read_picture(COLOURS[:, ::-1]).pixels, COLOURS[:, ::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_are_rounded(dtype: type[np.floating[Any]]):
    assert np.array_equal(read_picture((COLOURS / 255).astype(dtype)).pixels, COLOURS)
    slack = np.array([[-1e-6, 1 + 1e-6]], dtype=np.float64)
    assert read_picture(slack).pixels[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("array", "what", "fix"),
    [
        (np.full((2, 2), 2.0), "not in 0..1", "divide by 255"),
        (np.full((2, 2), -0.1), "not in 0..1", "np.clip"),
        (np.full((2, 2), np.nan), "not finite", "nan_to_num"),
        (np.full((2, 2), np.inf), "not finite", "nan_to_num"),
        (np.zeros((3, 8, 9), np.uint8), "not one picture", "transpose(1, 2, 0)"),
        (np.zeros((1, 8, 9, 3), np.uint8), "not one picture", "array[0]"),
        (np.zeros((8, 9, 2), np.uint8), "not one picture", "(H, W, 3)"),
        (np.zeros(5, np.uint8), "not one picture", "(H, W, 3)"),
        (np.zeros((2, 2), np.int64), "int64", "astype(np.uint8)"),
        (np.zeros((2, 2), np.complex64), "complex64", "astype(np.uint8)"),
        (np.zeros((2, 2), object), "object", "astype(np.uint8)"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, what: str, fix: str):
    with pytest.raises(InputError, match=what) as caught:
        read_picture(array)
    assert fix in str(caught.value.hint)


def test_empty_arrays_are_no_picture():
    with pytest.raises(InputError, match="empty"):
        read_picture(np.zeros((0, 5, 3), np.uint8))


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x[None],
        lambda x: x.float() / 255,
        lambda x: (x.double() / 255).requires_grad_(),
        lambda x: (x.float() / 255).to(memory_format=torch.preserve_format).flip(2).flip(2),
    ],
)
def test_tensors(convert: Callable[[torch.Tensor], torch.Tensor]):
    picture = read_picture(convert(torch.from_numpy(COLOURS).permute(2, 0, 1)))
    assert np.array_equal(picture.pixels, COLOURS)
    assert not picture.grey


def test_tensors_of_one_and_four_channels_and_half_precision():
    grey = read_picture(torch.from_numpy(RAMP)[None])
    assert grey.grey
    assert np.array_equal(grey.pixels, read_picture(torch.from_numpy(RAMP)).pixels)
    four = read_picture(torch.from_numpy(np.dstack([COLOURS, RAMP])).permute(2, 0, 1))
    assert four.alpha is not None
    assert np.array_equal(four.alpha, RAMP)
    assert read_picture(torch.ones(1, 2, 2, dtype=torch.bfloat16)).pixels.min() == 255


@pytest.mark.parametrize(
    ("shape", "fix"), [((8, 9, 3), "permute(2, 0, 1)"), ((2, 3, 8, 9), "(C, H, W)"), ((2, 8, 9), "(C, H, W)")]
)
def test_tensors_that_are_no_picture(shape: tuple[int, ...], fix: str):
    with pytest.raises(InputError, match="not one picture") as caught:
        read_picture(torch.zeros(shape))
    assert fix in str(caught.value.hint)


def test_other_objects_are_no_picture():
    with pytest.raises(InputError, match="list"):
        read_picture([[1, 2], [3, 4]])  # type: ignore[arg-type]


def test_reading_a_file_does_not_load_torch(tmp_path: Path):
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    script = (
        f"import sys; from latens.data.images import read_picture; read_picture({str(tmp_path / 'x.png')!r});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# -------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    "bomb",
    [
        raw_png(30000, 30000, 8, 2, bytes(100)),
        raw_png(2**31 - 1, 2**31 - 1, 8, 2, bytes(100)),
        b"P6 100000 100000 255\n" + bytes(100),
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 9, 9, 0)
        + b"\2\0;",
        b"GIF89a"
        + struct.pack("<HHBBB", 9, 9, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\2\0;",
    ],
)
def test_bombs_are_met_before_memory_is_taken(bomb: bytes):
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded) as caught:
            read_picture(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.exit_status == 5


def test_a_whole_bomb_takes_no_memory(tmp_path: Path):
    """A complete PNG of 13,000 x 13,000 in a process that may not use the memory for it."""
    packer = zlib.compressobj(1)
    rows = b"".join([packer.compress(bytes(13001 * 100)) for _ in range(130)]) + packer.flush()
    header = struct.pack(">IIBBBBB", 13000, 13000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    script = f"""
import resource
from latens.data.images import read_picture
from latens.errors import LimitExceeded
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_picture({str(tmp_path / "bomb.png")!r})
except LimitExceeded:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout
    assert int(grown) < 10_000  # kilobytes, of 169,000 for the pixels


def test_limits_by_name(tmp_path: Path):
    image = Image.new("RGB", (20, 10))
    with pytest.raises(LimitExceeded, match="limit of 199"):
        read_picture(image, limits=ImageLimits(pixels=199))
    with pytest.raises(LimitExceeded, match="limit of 19 per side"):
        read_picture(np.asarray(image), limits=ImageLimits(side=19))
    with pytest.raises(LimitExceeded):
        read_picture(torch.zeros(3, 10, 20), limits=ImageLimits(pixels=199))
    (tmp_path / "x.png").write_bytes(encoded(image))
    with pytest.raises(LimitExceeded, match="50 bytes"):
        read_picture(tmp_path / "x.png", limits=ImageLimits(file_bytes=50))
    wide = encoded(Image.new("1", (20000, 2)))
    with pytest.raises(LimitExceeded) as caught:
        read_picture(wide)
    assert "ImageLimits(side=20000)" in str(caught.value.hint)
    assert read_picture(wide, limits=ImageLimits(side=20000)).pixels.shape == (2, 20000, 3)


def test_limits_can_be_raised_beyond_those_of_pillow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # it raises above twice this
    assert read_picture(encoded(Image.fromarray(COLOURS))).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_files_cut_short(tmp_path: Path, kind: str, share: float):
    data = encoded(Image.fromarray(NOISE), kind)
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableInput) as caught:
        read_picture(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert len(str(caught.value).splitlines()) <= 3


def test_damaged_pngs_never_pass_unseen():
    """Every chunk of a PNG has a checksum: a flipped bit is met, or lies where it does not matter."""
    data = encoded(Image.fromarray(NOISE))
    whole = read_picture(data).pixels
    seen = 0
    for position in range(0, len(data), 29):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        try:
            assert np.array_equal(read_picture(bytes(damaged)).pixels, whole)
        except UnreadableInput:
            seen += 1
    assert seen > 100


def test_what_is_no_picture_at_all(tmp_path: Path):
    (tmp_path / "letter.jpg").write_text("Dear Sir or Madam,\n")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UnreadableInput, match="not a picture of a known kind") as caught:
        read_picture(tmp_path / "letter.jpg")
    assert "PNG, JPEG" in str(caught.value.hint)
    with pytest.raises(UnreadableInput, match="empty"):
        read_picture(tmp_path / "empty.png")
    with pytest.raises(UnreadableInput, match="no such file"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(UnreadableInput, match="folder"):
        read_picture(tmp_path)
    with pytest.raises(UnreadableInput, match="not a picture"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # no interpreter is ever started


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.png").write_bytes(encoded(Image.fromarray(COLOURS)))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("latens.data.images.open", refuse, raising=False)
    with pytest.raises(UnreadableInput, match="no permission"):
        read_picture(tmp_path / "x.png")


def test_a_pipe_can_be_read(tmp_path: Path):
    (tmp_path / "x.png").write_bytes(encoded(Image.fromarray(COLOURS)))
    with (tmp_path / "x.png").open("rb") as stream:
        reader, writer = os.pipe()
        os.write(writer, stream.read())
        os.close(writer)
    try:
        assert np.array_equal(read_picture(f"/dev/fd/{reader}").pixels, COLOURS)
    finally:
        os.close(reader)


def test_standard_input(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(encoded(Image.fromarray(COLOURS)))))
    assert np.array_equal(read_picture("-").pixels, COLOURS)


def test_a_lazy_pil_image_that_is_damaged():
    data = encoded(Image.fromarray(NOISE), "JPEG")
    with Image.open(io.BytesIO(data[: len(data) // 2])) as image, pytest.raises(UnreadableInput):
        read_picture(image)


# ---------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(("alpha", "grey", "mode"), [(0, 0, "RGB"), (1, 0, "RGBA"), (0, 1, "L"), (1, 1, "LA")])
def test_to_pil_and_back(alpha: int, grey: int, mode: str):
    pixels = np.stack([RAMP] * 3, axis=-1) if grey else COLOURS
    image = to_pil(pixels, RAMP.T if alpha else None, bool(grey))
    assert image.mode == mode
    picture = read_picture(image)
    assert np.array_equal(picture.pixels, pixels)
    assert (picture.alpha is not None, picture.grey) == (bool(alpha), bool(grey))


@pytest.mark.parametrize("ending", [".png", ".PNG", ".webp", ".tif", ".bmp", ".ppm"])
def test_writing_without_loss(tmp_path: Path, ending: str):
    write_image(tmp_path / f"x{ending}", to_pil(COLOURS))
    assert np.array_equal(read_picture(tmp_path / f"x{ending}").pixels, COLOURS)
    assert os.listdir(tmp_path) == [f"x{ending}"]


def test_writing_a_jpeg(tmp_path: Path):
    smooth = np.asarray(Image.fromarray(NOISE).resize((4, 3)).resize((64, 48)))
    write_image(tmp_path / "x.jpg", to_pil(smooth))
    assert (tmp_path / "x.jpg").read_bytes()[:2] == b"\xff\xd8"
    error = read_picture(tmp_path / "x.jpg").pixels.astype(int) - smooth
    assert np.abs(error).mean() < 2


@pytest.mark.parametrize(("name", "mode"), [("x.jpg", "RGBA"), ("x.jpg", "LA"), ("x.bmp", "LA"), ("x.ppm", "LA")])
def test_formats_that_cannot_hold_the_picture(tmp_path: Path, name: str, mode: str):
    with pytest.raises(UsageError, match="cannot hold") as caught:
        write_image(tmp_path / name, Image.new(mode, (4, 4)))
    assert ".png" in str(caught.value.hint)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x", "x.txt", "x.pdf", "x.eps"])
def test_endings_that_are_unknown(name: str):
    with pytest.raises(UsageError, match=re.escape("cannot be written as")):
        check_ending(Path(name))


def test_a_full_disk_while_writing_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "write", full)
        with pytest.raises(StorageFull):
            write_image(tmp_path / "x.png", to_pil(COLOURS))
    assert os.listdir(tmp_path) == []
