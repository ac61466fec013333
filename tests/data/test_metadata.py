"""EXIF and XMP of images: what is read, carried, packed and written again."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latens.cli.main import main
from latens.data.image_output import carry_metadata, to_pil, write_image
from latens.data.images import read_image
from latens.data.metadata import MAX_BYTES, pack_metadata, unpack_metadata

NOISE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/>é</x:xmpmeta>'.encode()
MAKE, ORIENTATION, DATE, EXIF_PART, GPS_PART = 0x010F, 0x0112, 0x9003, 0x8769, 0x8825
MAKER_NOTE, COLOR_SPACE = 0x927C, 0xA001


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE], exif[ORIENTATION] = "Camera", 6
    exif[EXIF_PART] = {DATE: "2026:11:28 12:00:00", MAKER_NOTE: bytes(5000), COLOR_SPACE: 65535}
    exif[GPS_PART] = {1: "N", 2: (48.0, 8.0, 15.5)}
    return exif


def photo(kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, kind, exif=camera_exif().tobytes(), **more)
    return buffer.getvalue()


def check(exif: Image.Exif) -> None:
    assert exif[MAKE] == "Camera"
    assert ORIENTATION not in exif or exif[ORIENTATION] == 1  # it has been applied
    inner = exif.get_ifd(EXIF_PART)
    assert inner[DATE] == "2026:11:28 12:00:00"
    assert inner[COLOR_SPACE] == 1
    assert MAKER_NOTE not in inner
    assert [float(part) for part in exif.get_ifd(GPS_PART)[2]] == [48, 8, 15.5]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_is_read_without_what_does_not_move(kind: str) -> None:
    loaded = read_image(photo(kind))
    assert loaded.pixels.shape == (48, 32, 3)
    assert 0 < len(loaded.metadata.exif) < 400
    exif = Image.Exif()
    exif.load(loaded.metadata.exif)
    check(exif)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_xmp_is_read(kind: str) -> None:
    assert read_image(photo(kind, xmp=XMP)).metadata.xmp == XMP
    assert read_image(NOISE).metadata == (b"", b"")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif", ".bmp", ".ppm"])
def test_metadata_is_written_in_every_format_that_holds_it(tmp_path: Path, ending: str) -> None:
    loaded = read_image(photo("JPEG", xmp=XMP))
    image = to_pil(loaded.pixels)
    image.info.update(loaded.metadata._asdict())
    write_image(tmp_path / f"x{ending}", image)
    again = read_image(tmp_path / f"x{ending}")
    assert again.pixels.shape == (48, 32, 3)  # not rotated twice
    if ending in (".bmp", ".ppm"):
        assert again.metadata == (b"", b"")
        return
    assert again.metadata.xmp.rstrip(b"\0") == XMP
    with Image.open(tmp_path / f"x{ending}") as found:
        check(found.getexif())


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_xmp_is_written_without_exif(tmp_path: Path, ending: str) -> None:
    image = to_pil(NOISE)
    image.info["xmp"] = XMP
    write_image(tmp_path / f"x{ending}", image)
    assert read_image(tmp_path / f"x{ending}").metadata.xmp.rstrip(b"\0") == XMP


def test_metadata_that_cannot_be_carried_is_noted() -> None:
    large = read_image(photo("WEBP", xmp=b"x" * (MAX_BYTES + 1), lossless=True))
    assert large.metadata.xmp == b""
    assert "XMP of 60,001 bytes left out" in large.notes
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff damaged")
    assert read_image(buffer.getvalue()).metadata.exif == b""


def test_packing_is_lossless_and_bounded() -> None:
    for data in (b"x", XMP, bytes(MAX_BYTES)):
        assert unpack_metadata(pack_metadata(data)) == data
    for packed in (b"", b"damaged", pack_metadata(XMP)[:-3], pack_metadata(XMP) + b"x", zlib.compress(bytes(10**8))):
        with pytest.raises(ValueError, match=r"Error|bytes"):
            unpack_metadata(packed)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp"])
def test_the_resolution_is_carried(tmp_path: Path, kind: str, ending: str) -> None:
    """300 dpi of a scan stay 300 dpi, in the field of each format and in EXIF."""
    source, target = tmp_path / "scan", tmp_path / f"made{ending}"
    Image.fromarray(NOISE).save(source, kind, dpi=(300, 600))
    loaded = read_image(source)
    image = to_pil(loaded.pixels, None, loaded.gray)
    write_image(target, carry_metadata(loaded, image))
    with Image.open(target) as made:
        exif = made.getexif()
        assert (exif[0x011A], exif[0x011B], exif[0x0128]) == (300, 600, 2)
        if ending != ".webp":
            assert made.info["dpi"] == pytest.approx((300, 600), abs=0.1)


@pytest.mark.parametrize("dpi", [(72, 72), (96, 96), (1, 1), (1e6, 1e6)])
def test_a_resolution_that_says_nothing_is_not_carried(tmp_path: Path, dpi: tuple[float, float]) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png", dpi=dpi)
    assert not read_image(tmp_path / "a.png").metadata.exif


def test_other_metadata_are_named(tmp_path: Path) -> None:
    """Texts of PNG, comments, IPTC, gain maps and clips have no place in other files, and no note was made of their loss."""
    info = PngInfo()
    info.add_text("Description", "a flower")
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, "PNG", pnginfo=info)
    assert read_image(buffer.getvalue()).notes == ("text field Description left out",)
    assert "comment left out" in read_image(photo("JPEG", comment=b"by me")).notes
    mark = b'<rdf:Description hdrgm:Version="1.0"/>'
    assert "HDR gain map left out" in read_image(photo("JPEG", xmp=XMP.replace(b"<rdf:RDF/>", mark))).notes
    record = b"\x1c\x02\x78\x00\x05hello"  # caption
    block = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + len(record).to_bytes(4, "big") + record
    plain = photo("JPEG")
    with_iptc = plain[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]
    assert "IPTC left out" in read_image(with_iptc).notes
    assert not any("left out" in note for note in read_image(plain).notes)


def test_formats_without_metadata_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(photo("JPEG"))
    assert main(["compress", f"{tmp_path}/a.jpg", "-o", f"{tmp_path}/a.ltn"]) == 0
    for words in (["decompress", f"{tmp_path}/a.ltn"], ["dehaze", f"{tmp_path}/a.jpg"], ["haze", f"{tmp_path}/a.jpg"]):
        for ending, name in (("bmp", "BMP"), ("ppm", "PPM"), ("png", "")):
            capsys.readouterr()
            assert main([*words, "-o", f"{tmp_path}/{words[0]}.{ending}", "--format", "json"]) == 0
            found = [note for note in json.loads(capsys.readouterr().out)["notes"] if "EXIF and XMP" in note]
            assert found == ([f"EXIF and XMP left out, which {name} cannot hold"] if name else [])
