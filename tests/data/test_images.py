from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from image_maker import COLORS, NOISE, RAMP, deep_png, encoded

from latens.data.images import read_image
from latens.errors import InputError

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


def test_heic_is_read_upright_with_its_metadata() -> None:
    """A gradient of 64 x 48 pixels, stored with EXIF orientation 6: a quarter turn to the right."""
    pytest.importorskip("pi_heif")
    image = read_image(Path(__file__).with_name("gradient.heic"))
    assert image.pixels.shape == (64, 48, 3)
    rows, columns = np.mgrid[0:48, 0:64]
    stored = np.stack([rows * 5, columns * 3, (rows + columns) * 2], axis=-1)
    assert np.abs(np.rot90(stored, -1) - image.pixels).max() < 12
    assert b"latens" in image.metadata.exif
