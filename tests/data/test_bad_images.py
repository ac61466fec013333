"""Image files that are damaged, too large, not images or cannot be read."""

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

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

sys.path.insert(0, str(Path(__file__).parent))
from image_maker import COLORS, NOISE, chunk, encoded, gif, raw_png

from latens.data.image_output import write_image
from latens.data.images import IMAGE_ENDINGS, ImageLimits, read_image
from latens.errors import LimitExceeded, UnreadableInput


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
    Image.init()  # the code of all formats takes memory once
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
        read_image(b"\x1aE\xdf\xa3" + bytes(60))  # Matroska
    with pytest.raises(UnreadableInput, match="this is a clip, not an image") as caught:
        read_image(b"\x00\x00\x00\x20ftypisom" + bytes(60))
    assert "latens video compress" in str(caught.value.hint)
    with pytest.raises(UnreadableInput, match="not an image"):
        read_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # no interpreter is ever started


def test_kinds_that_other_packages_read_name_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latens.data.heic.is_installed", lambda: False)
    heic = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100)
    with pytest.raises(UnreadableInput, match="HEIC") as caught:
        read_image(heic)
    assert "latens[heic]" in str(caught.value.hint)
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


@pytest.mark.parametrize(
    ("letter", "profile", "verb"),
    [(b"N", b"IMG1", "decompress"), (b"V", b"VID1", "video decompress"), (b"V", b"LTP2", "density unpack")],
)
def test_a_compressed_file_names_the_verb_that_decodes_it(letter: bytes, profile: bytes, verb: str) -> None:
    with pytest.raises(UnreadableInput, match=f"(?s)this latens file is an? .*`latens {verb}` reads it"):
        read_image(b"\x89LT" + letter + b"\r\n\x1a\n\x01\x00" + profile + bytes(40))


@pytest.mark.parametrize(("ending", "package"), [(".czi", "bioio"), (".dcm", "pydicom"), (".jxl", "pillow-jxl-plugin")])
def test_a_format_of_another_package_names_it(ending: str, package: str, tmp_path: Path) -> None:
    (tmp_path / f"a{ending}").write_bytes(b"ZISRAWFILE" + bytes(200))
    with pytest.raises(UnreadableInput) as caught:
        read_image(tmp_path / f"a{ending}")
    assert f"the package {package} reads {ending}" in str(caught.value.hint)
