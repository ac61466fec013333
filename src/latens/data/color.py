"""Color management: pixels of any ICC profile, gamma and chromaticities (PNG), or H.273 code points (PNG, AVIF) as sRGB.

The order is that of the PNG specification (third edition): cICP, ICC profile, sRGB, gAMA and cHRM. Profiles are judged by the
colors that they give, not by their names.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from latens.data.image_arrays import Pixels
from latens.errors import InputError

AS_SRGB = 2  # of 255: a larger difference is a color space of its own
ROW_BLOCK = 64  # rows that are converted at once
AVIF_HEADER = 1 << 16  # bytes in which the color box of an AVIF file is searched

Chromaticities = tuple[float, float, float, float, float, float, float, float]  # x, y of white, red, green, blue

D65 = 0.3127, 0.3290
SRGB: Chromaticities = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PRIMARIES: dict[int, tuple[str, Chromaticities]] = {  # ITU-T H.273, table 2
    4: ("BT.470 M", (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: ("BT.601 (625 lines)", (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: ("BT.601 (525 lines)", (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    9: ("BT.2020", (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    11: ("DCI-P3", (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: ("Display P3", (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
}
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}  # transfer functions that are powers
HDR = {16: "PQ", 18: "HLG"}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Convert = Callable[[Pixels], Pixels]  # of a block (h, w, 3)


class Source(NamedTuple):
    """The color space of an image: its name for people, and the conversion to sRGB."""

    name: str
    convert: Convert
    gray: Convert | None = None  # of gray values (h, w) to sRGB (h, w, 3), for gray profiles


def color_source(image: Image.Image, notes: list[str]) -> Source | None:
    """The color space of an image that is not loaded yet; None for sRGB. CMYK images are left to `cmyk_to_srgb`.

    A damaged profile is noted and ignored. Raises InputError for HDR (PQ and HLG).
    """
    codes = _code_points(image)
    if codes is not None and codes[1] in HDR:
        what = f"the image is HDR ({HDR[codes[1]]}), which needs tone mapping to be shown in 8 bits"
        raise InputError(what, hint="export it as SDR (sRGB) first")
    if codes is not None and image.format == "PNG":
        return _by_code_points(*codes)
    if image.info.get("icc_profile"):
        return _by_profile(image.info["icc_profile"], image.mode, notes)
    if codes is not None:
        return _by_code_points(*codes)
    return None if "srgb" in image.info else _by_gamma(image.info)


def to_srgb(pixels: Pixels, source: Source, notes: list[str]) -> Pixels:
    """Pixels (H, W, 3) or gray (H, W) in sRGB, converted in blocks of rows."""
    result = np.empty_like(pixels)
    for top in range(0, len(pixels), ROW_BLOCK):
        block = pixels[top : top + ROW_BLOCK]
        if pixels.ndim == 3:
            result[top : top + ROW_BLOCK] = source.convert(block)
        else:  # three equal channels, up to rounding
            colors = source.gray(block) if source.gray else source.convert(np.repeat(block[:, :, None], 3, axis=2))
            result[top : top + ROW_BLOCK] = colors[..., 1]
    notes.append(f"colors converted from {source.name} to sRGB")
    return result


def cmyk_to_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """The image in RGB by its ICC profile; the image itself if it is not CMYK or has no usable profile of CMYK."""
    data = image.info.get("icc_profile")
    if image.mode != "CMYK" or not data:
        return image
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        changed: Any = ImageCms.profileToProfile(image, profile, _standard(), outputMode="RGB", **_intent())
    except (OSError, ImportError, ImageCms.PyCMSError):
        notes.append("damaged ICC profile ignored")
        return image
    notes.append(f"colors converted from {_name(profile)} to sRGB")
    return changed  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------------ ICC profiles


def _by_profile(data: bytes, mode: str, notes: list[str]) -> Source | None:
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        space = profile.profile.xcolor_space.strip()
        if mode == "CMYK" and space == "CMYK":
            return None
        if space not in ("RGB", "GRAY") or (space == "GRAY" and not _is_gray(mode)):
            notes.append(f"ICC profile of {space} colors ignored")
            return None
        transform = ImageCms.buildTransform(profile, _standard(), "L" if space == "GRAY" else "RGB", "RGB", **_intent())
    except (OSError, ImportError, ImageCms.PyCMSError):
        notes.append("damaged ICC profile ignored, colors taken as sRGB")
        return None

    def convert(block: Pixels) -> Pixels:
        changed = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(block)), transform)
        return np.asarray(changed)

    source = Source(_name(profile), convert, convert if space == "GRAY" else None)
    samples = _gray_samples() if space == "GRAY" else _color_samples()
    expected = np.repeat(samples[:, :, None], 3, axis=2) if space == "GRAY" else samples
    return None if np.abs(convert(samples).astype(int) - expected).max() <= AS_SRGB else source


def _standard() -> Any:
    from PIL import ImageCms

    return ImageCms.createProfile("sRGB")


def _intent() -> dict[str, Any]:
    from PIL import ImageCms

    return {"renderingIntent": ImageCms.Intent.RELATIVE_COLORIMETRIC, "flags": ImageCms.Flags.BLACKPOINTCOMPENSATION}


def _name(profile: Any) -> str:
    """The description in a profile, which is not trusted: one short printable line."""
    text = "".join(c for c in str(profile.profile.profile_description or "") if c.isprintable()).strip()
    return text[:60] or "an ICC profile without a name"


def _is_gray(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")


def _gray_samples() -> Pixels:
    return np.arange(256, dtype=np.uint8)[None]


def _color_samples() -> Pixels:
    """A cube of 9 levels per channel, (81, 9, 3)."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(81, 9, 3)


# ------------------------------------------------------------------------------------------- gamma and chromaticities


def _by_gamma(info: dict[Any, Any]) -> Source | None:
    """The color space of the chunks gAMA and cHRM of PNG; without gAMA, cHRM has no meaning."""
    exponent, places = info.get("gamma"), info.get("chromaticity")
    if not exponent:
        return None
    standard = abs(exponent - 1 / 2.2) < 0.01
    same = places is None or np.abs(np.subtract(places, SRGB)).max() < 0.003
    if standard and same:
        return None
    name = "the chromaticities of the file" if standard else f"gamma {1 / exponent:.3g}"
    curve = _srgb_curve() if standard else np.linspace(0, 1, 256) ** (1 / exponent)
    return _computed(name, curve, None if same else places)


def _by_code_points(primaries: int, transfer: int) -> Source | None:
    """The color space of H.273 code points; unknown ones are taken as sRGB."""
    name, places = PRIMARIES.get(primaries, ("", None))
    if places is None and transfer not in GAMMAS:
        return None
    curve = np.linspace(0, 1, 256) ** GAMMAS[transfer] if transfer in GAMMAS else _srgb_curve()
    return _computed(name or f"gamma {GAMMAS[transfer]:g}", curve, places)


def _computed(name: str, curve: np.ndarray, places: Chromaticities | None) -> Source | None:
    """Conversion by a curve of 256 linear values and chromaticities (None: those of sRGB)."""
    try:
        matrix = np.eye(3) if places is None else np.linalg.inv(_to_xyz(SRGB)) @ _to_xyz(places)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None  # chromaticities on one line
    encode = np.rint(255 * _encoded(np.linspace(0, 1, 1 << 16))).astype(np.uint8)

    def convert(block: Pixels) -> Pixels:
        linear = curve.astype(np.float32)[block] @ matrix.T.astype(np.float32)
        converted: Pixels = encode[np.rint(linear.clip(0, 1) * 65535).astype(np.uint16)]
        return converted

    return Source(name, convert)


def _srgb_curve() -> np.ndarray:
    """Linear light of the 256 values of sRGB (IEC 61966-2-1)."""
    values = np.linspace(0, 1, 256)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _encoded(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _to_xyz(places: Chromaticities) -> np.ndarray:
    """Matrix from linear RGB of these chromaticities to XYZ, adapted to D65 (Bradford)."""
    white, *colors = ((x / y, 1.0, (1 - x - y) / y) for x, y in zip(places[::2], places[1::2], strict=True))
    columns = np.array(colors).T
    scaled = columns * np.linalg.solve(columns, np.array(white))
    target = np.array([D65[0] / D65[1], 1.0, (1 - sum(D65)) / D65[1]])
    gain = (BRADFORD @ target) / (BRADFORD @ np.array(white))
    adapted: np.ndarray = np.linalg.inv(BRADFORD) @ (gain[:, None] * BRADFORD) @ scaled
    return adapted


# ----------------------------------------------------------------------------------------------------- code points


def _code_points(image: Image.Image) -> tuple[int, int] | None:
    """Primaries and transfer function (H.273) of a PNG or AVIF file; None if it states none. Pillow does not read them."""
    stream = getattr(image, "fp", None)
    if image.format not in ("PNG", "AVIF") or stream is None or stream.closed:
        return None
    place = stream.tell()
    try:
        return _png_code_points(stream) if image.format == "PNG" else _avif_code_points(stream)
    finally:
        stream.seek(place)


def _png_code_points(stream: BinaryIO) -> tuple[int, int] | None:
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        (length,) = struct.unpack(">I", head[:4])
        if head[4:] == b"cICP" and length == 4:
            codes = stream.read(4)
            return (codes[0], codes[1]) if len(codes) == 4 else None
        stream.seek(length + 4, io.SEEK_CUR)
    return None


def _avif_code_points(stream: BinaryIO) -> tuple[int, int] | None:
    stream.seek(0)
    _, found, rest = stream.read(AVIF_HEADER).partition(b"colrnclx")
    if not found or len(rest) < 4:
        return None
    primaries, transfer = struct.unpack_from(">HH", rest)
    return primaries, transfer
