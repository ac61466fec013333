"""Atomic writing of image files; the ending determines the format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latens.data.files import write_atomic
from latens.data.images import IMAGE_ENDINGS, LoadedImage, Pixels
from latens.data.metadata import dpi_of
from latens.errors import UsageError
from latens.shapes import UInt8

WITH_METADATA = frozenset({"PNG", "JPEG", "WEBP", "TIFF", "AVIF"})
XMP_TAG = 700  # of TIFF
WITH_ALPHA = frozenset({"PNG", "WEBP", "TIFF", "AVIF"})
TOO_FEW = {".gif": "GIF has at most 256 colors", ".pbm": "PBM has black and white only"}  # by ending
WRITTEN = IMAGE_ENDINGS - TOO_FEW.keys()
GRAY_ONLY = ".pgm"
HINT = "choose the ending .png; in pipes, --to png"


def to_pil(pixels: Pixels, alpha: Pixels | None = None, gray: bool = False) -> Image.Image:
    """PIL image (L, LA, RGB or RGBA) of uint8 pixels (H, W, 3) and alpha (H, W); with `gray`, of the mean of the channels."""
    colors = Image.fromarray(mean_of_channels(pixels) if gray else np.ascontiguousarray(pixels))
    if alpha is not None:
        colors.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return colors


def carry_metadata(source: LoadedImage, image: Image.Image) -> Image.Image:
    """The image with EXIF and XMP of its source in `.info`, from where `image_bytes` writes them. Colors are sRGB already."""
    for name, data in source.metadata._asdict().items():
        if data:
            image.info[name] = data
    return image


def mean_of_channels(pixels: Pixels) -> Pixels:
    """The rounded mean (H, W) of three channels (H, W, 3); of decoded gray, it averages the errors of the channels."""
    mean: Pixels = ((pixels.sum(2, dtype=np.uint16) + 1) // 3).astype(np.uint8)
    return mean


def check_ending(path: Path) -> str:
    """Pillow's name of the format for the ending of `path`.

    Raises UsageError for an unknown ending, and for that of a format that cannot hold gray images or colors.
    """
    Image.init()
    ending = path.suffix.lower()
    name = Image.EXTENSION.get(ending, "")
    if ending not in WRITTEN or name not in Image.SAVE:
        why = f": {TOO_FEW[ending]}" if ending in TOO_FEW else ""
        what = f"images cannot be written as {path.suffix or 'a file without an ending'}{why}"
        raise UsageError(what, where=str(path), hint=f"use one of {', '.join(sorted(WRITTEN))}")
    return name


def write_image(path: Path, image: Image.Image) -> None:
    """Write the image atomically in the format of the ending, lossless if the format allows it.

    Raises UsageError for an unknown ending or a format that cannot hold the image, such as one without alpha channel or colors.
    """
    name = check_ending(path)
    if path.suffix.lower() == GRAY_ONLY and image.mode not in ("1", "L", "LA"):
        raise UsageError("PGM cannot hold this image (it has colors)", where=str(path), hint=HINT)
    write_atomic(path, checked_bytes(image, name, str(path)))


def checked_bytes(image: Image.Image, name: str, where: str) -> bytes:
    """`image_bytes` for the output `where`. Raises UsageError if the format cannot hold the image."""
    if image.has_transparency_data and name not in WITH_ALPHA:
        raise UsageError(f"{name} cannot hold this image (it has an alpha channel)", where=where, hint=HINT)
    if image.has_transparency_data and name != "PNG" and image.mode not in ("RGBA", "LA"):
        image = image.convert("RGBA")  # Pillow drops transparent colors of palettes
    try:
        return image_bytes(image, name)
    except (OSError, ValueError, KeyError) as error:
        what = f"{name} cannot hold this image ({' '.join(str(error).split()) or type(error).__name__})"
        raise UsageError(what, where=where, hint=HINT) from error


def lost_metadata(image: Image.Image, name: str) -> list[str]:
    """A note on the metadata of an image that the format which Pillow calls `name` cannot hold; empty without any."""
    lost = name not in WITH_METADATA and (image.info.get("exif") or image.info.get("xmp"))
    return [f"EXIF and XMP left out, which {name} cannot hold"] if lost else []


def image_bytes(image: Image.Image, name: str) -> bytes:
    """The file of an image in the format that Pillow calls `name`, with `exif` and `xmp` of `image.info` if it holds them."""
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if name == "JPEG" else {}
    if name == "WEBP":
        options = {"lossless": True, "exact": True}  # exact: also the colors under alpha 0
    elif name == "AVIF":  # Pillow offers no lossless AVIF
        options = {"quality": 95} | ({} if image.mode in ("L", "LA") else {"subsampling": "4:4:4"})
    exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    if exif and name in WITH_METADATA:
        options["exif"] = exif
        dpi = dpi_of(exif)
        if dpi is not None and name in ("PNG", "JPEG"):  # which have their own field, the one that most programs read
            options["dpi"] = dpi
    if xmp and name == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
    elif xmp and name == "TIFF":
        options["exif"] = Image.Exif()  # Pillow takes either EXIF or other tags
        options["exif"].load(exif)
        options["exif"][XMP_TAG] = xmp
    elif xmp and name in WITH_METADATA:
        options["xmp"] = xmp
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def png_bytes(pixels: UInt8[np.ndarray, "H W *C"], *, optimize: bool = False) -> bytes:
    """PNG file of gray (H, W), color (H, W, 3) or RGBA pixels; `optimize` is slower and gives smaller files."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()


def webp_bytes(pixels: UInt8[np.ndarray, "H W *C"], *, quality: int | None = None) -> bytes:
    """WebP file, lossless or with a quality from 0 to 100."""
    buffer = io.BytesIO()
    if quality is None:
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=1, quality=30)
    else:
        Image.fromarray(pixels).save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def avif_bytes(pixels: UInt8[np.ndarray, "H W *C"], *, quality: int = 80) -> bytes:
    """AVIF file with a quality from 0 to 100 and colors at full resolution, for overlays and galleries in pages."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "AVIF", quality=quality, subsampling="4:4:4", speed=8)
    return buffer.getvalue()


def changed_pixels(before: Pixels, after: Pixels) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA layer that turns one image into another of the same size: transparent where both are equal."""
    alpha = 255 * (before != after).any(axis=2, keepdims=True).astype(np.uint8)
    layer: np.ndarray = np.concatenate([after * (alpha > 0), alpha], axis=2)
    return layer
