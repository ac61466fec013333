"""Colors of ICC profiles, of gAMA, cHRM and cICP, converted to sRGB on reading.

The value of a conversion is that of the definitions: (234, 51, 35) in Display P3 is pure red in sRGB.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from latens.data.images import read_image
from latens.errors import InputError

P3_D50 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))  # columns, from the profile of Apple
SRGB_D50 = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))  # IEC 61966-2-1
RED_IN_P3, RED = (234, 51, 35), (255, 0, 0)
P3_CHROMATICITIES = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def icc(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2 from its tags."""
    place = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", place + len(body), bytes(4), 0x02100000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def described(name: bytes) -> dict[bytes, bytes]:
    text = name + b"\0"
    return {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249),
    }


def curve() -> bytes:
    """The curve of sRGB as a table of 1,024 values."""
    values = np.linspace(0, 1, 1024)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return bytes(b"curv" + bytes(4) + struct.pack(">I", 1024) + np.rint(linear * 65535).astype(">u2").tobytes())


def rgb_profile(columns: tuple[tuple[float, ...], ...], name: bytes) -> bytes:
    tags = described(name)
    for letter, column in zip(b"rgb", columns, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*column)
        tags[bytes([letter]) + b"TRC"] = curve()
    return icc(b"RGB ", tags)


def gray_profile(gamma: float) -> bytes:
    tags = described(b"Gray of a power")
    tags[b"kTRC"] = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return icc(b"GRAY", tags)


def cmyk_profile() -> bytes:
    """L = 100 (1 - K) (1 - (C + M + Y) / 3), a = b = 0: inks without color."""
    identity = bytes(range(256))
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    grid = b"".join(bytes([round(255 * (1 - k) * (1 - (c + m + y) / 3)), 128, 128]) for c, m, y, k in corners)
    unit = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + identity * 4 + grid + identity * 3
    return icc(b"CMYK", described(b"Inks") | {b"A2B0": table}, pcs=b"Lab ", kind=b"prtr")


WIDE = rgb_profile(P3_D50, b"Camera space, like sRGB IEC61966-2.1")  # its name says sRGB
STANDARD = rgb_profile(SRGB_D50, b"Monitor")  # its name does not


def encoded(color: tuple[int, ...] | int, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (5, 70), color).save(buffer, kind, **options)
    return buffer.getvalue()


def with_chunks(png: bytes, **chunks: bytes) -> bytes:
    """A PNG file with chunks after its header."""
    more = b"".join(
        struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in chunks.items()
    )
    return png[:33] + more + png[33:]


def gama(value: float) -> bytes:
    return struct.pack(">I", round(value * 100000))


def chrm(values: tuple[float, ...]) -> bytes:
    return struct.pack(">8I", *(round(value * 100000) for value in values))


# ------------------------------------------------------------------------------------------------------ ICC profiles


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_wide_profile_is_converted_whatever_its_name(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    image = read_image(encoded(RED_IN_P3, kind, icc_profile=WIDE, **options))
    assert np.abs(image.pixels.astype(int) - RED).max() <= 3
    assert image.notes == ("colors converted from Camera space, like sRGB IEC61966-2.1 to sRGB",)
    gray = read_image(encoded((128, 128, 128), kind, icc_profile=WIDE, **options))
    assert np.abs(gray.pixels.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_profiles_of_lossy_formats_are_converted(kind: str) -> None:
    image = read_image(encoded(RED_IN_P3, kind, icc_profile=WIDE, quality=100))
    assert np.abs(image.pixels.astype(int) - RED).max() <= 8


@pytest.mark.parametrize(
    "profile", [STANDARD, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()], ids=["version 2", "version 4"]
)
def test_true_srgb_profiles_change_nothing(profile: bytes) -> None:
    image = read_image(encoded((200, 50, 20), icc_profile=profile))
    assert np.array_equal(image.pixels[0, 0], (200, 50, 20))
    assert image.notes == ()


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_gray_profile_is_converted(mode: str) -> None:
    values: Any = 128 if mode == "L" else (128, 77)
    image = read_image(encoded(values, mode=mode, icc_profile=gray_profile(1.0)))
    assert image.gray
    assert (image.pixels == image.pixels[0, 0, 0]).all()
    assert abs(int(image.pixels[0, 0, 0]) - 188) <= 1  # 255 (1.055 (128 / 255)^(1 / 2.4) - 0.055)
    assert image.alpha is None or (image.alpha == 77).all()
    assert image.notes == ("colors converted from Gray of a power to sRGB",)


def test_alpha_and_palettes_keep_their_alpha() -> None:
    image = read_image(encoded((*RED_IN_P3, 90), mode="RGBA", icc_profile=WIDE))
    assert image.alpha is not None
    assert (image.alpha == 90).all()
    assert np.abs(image.pixels.astype(int) - RED).max() <= 3
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), RED_IN_P3).quantize(2).save(buffer, "PNG", icc_profile=WIDE)
    assert np.abs(read_image(buffer.getvalue()).pixels.astype(int) - RED).max() <= 3


def test_cmyk_is_converted_by_its_profile() -> None:
    data = encoded((255, 0, 0, 0), "TIFF", "CMYK", icc_profile=cmyk_profile())
    image = read_image(data)
    assert image.notes == ("colors converted from Inks to sRGB",)
    assert np.abs(image.pixels.astype(int) - 162).max() <= 3  # L* = 66.7
    naive = read_image(encoded((255, 0, 0, 0), "TIFF", "CMYK"))
    assert naive.notes == ("CMYK converted to RGB without color management",)


@pytest.mark.parametrize(
    ("profile", "note"),
    [
        (b"Display P3" * 20, "damaged ICC profile ignored, colors taken as sRGB"),
        (WIDE[:300], "damaged ICC profile ignored, colors taken as sRGB"),
        (cmyk_profile(), "ICC profile of CMYK colors ignored"),
        (gray_profile(1.0), "ICC profile of GRAY colors ignored"),
    ],
    ids=["text", "cut", "CMYK", "gray"],
)
def test_an_unusable_profile_is_noted_and_the_pixels_stay(profile: bytes, note: str) -> None:
    image = read_image(encoded((200, 50, 20), icc_profile=profile))
    assert np.array_equal(image.pixels[0, 0], (200, 50, 20))
    assert image.notes == (note,)


# -------------------------------------------------------------------------------------------- chunks and code points


def test_gamma_of_png() -> None:
    linear = read_image(with_chunks(encoded((128, 128, 0)), gAMA=gama(1.0)))
    assert linear.pixels[0, 0].tolist() == [188, 188, 0]
    assert linear.notes == ("colors converted from gamma 1 to sRGB",)
    gray = read_image(with_chunks(encoded(128, mode="L"), gAMA=gama(1.0)))
    assert (gray.gray, gray.pixels[0, 0].tolist()) == (True, [188, 188, 188])


def test_chromaticities_of_png() -> None:
    wide = read_image(with_chunks(encoded(RED_IN_P3), gAMA=gama(1 / 2.2), cHRM=chrm(P3_CHROMATICITIES)))
    assert np.abs(wide.pixels.astype(int) - RED).max() <= 1
    assert wide.notes == ("colors converted from the chromaticities of the file to sRGB",)


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": gama(0.45455)},
        {"gAMA": gama(0.45455), "cHRM": chrm((0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06))},
        {"sRGB": b"\0", "gAMA": gama(1.0)},  # sRGB comes before gAMA
        {"cHRM": chrm(P3_CHROMATICITIES)},  # without gAMA
        {"gAMA": gama(0.45455), "cHRM": bytes(32)},  # no colors
        {"gAMA": gama(0)},
        {"cICP": bytes([1, 13, 0, 1]), "gAMA": gama(1.0)},
        {"cICP": bytes([1, 1, 0, 1])},
    ],
)
def test_srgb_in_other_words_changes_nothing(chunks: dict[str, bytes]) -> None:
    image = read_image(with_chunks(encoded((200, 50, 20)), **chunks))
    assert (image.pixels[0, 0].tolist(), image.notes) == ([200, 50, 20], ())


def test_code_points_come_before_a_profile() -> None:
    data = with_chunks(encoded(RED_IN_P3, icc_profile=STANDARD), cICP=bytes([12, 13, 0, 1]))
    image = read_image(data)
    assert np.abs(image.pixels.astype(int) - RED).max() <= 1
    assert image.notes == ("colors converted from Display P3 to sRGB",)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(read_image(opened).pixels, image.pixels)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(transfer: int, name: str) -> None:
    with pytest.raises(InputError, match=rf"HDR \({name}\)"):
        read_image(with_chunks(encoded((200, 50, 20)), cICP=bytes([9, transfer, 0, 1])))
    avif = encoded((200, 50, 20), "AVIF", quality=100)
    place = avif.index(b"colrnclx") + 8
    changed = avif[:place] + struct.pack(">HH", 9, transfer) + avif[place + 4 :]
    with pytest.raises(InputError, match=name):
        read_image(changed)


def test_a_sdr_avif_of_display_p3_is_converted() -> None:
    avif = encoded(RED_IN_P3, "AVIF", quality=100)
    place = avif.index(b"colrnclx") + 8
    image = read_image(avif[:place] + struct.pack(">HH", 12, 13) + avif[place + 4 :])
    assert np.abs(image.pixels.astype(int) - RED).max() <= 8
    assert image.notes == ("colors converted from Display P3 to sRGB",)
