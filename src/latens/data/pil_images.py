"""Images that Pillow has opened, as 8-bit RGB arrays with notes on every conversion."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from latens.data.channels import current_channel, pick
from latens.data.color import cmyk_to_srgb, color_source, to_srgb
from latens.data.image_arrays import LoadedImage, Pixels, check_size, finished, to_8_bits
from latens.data.limits import ImageLimits
from latens.data.metadata import read_metadata
from latens.data.tiff import RGB, PageKind, full_pages, kind_of, prepare_planes
from latens.errors import UnreadableInput

logger = logging.getLogger(__name__)

ORIENTATION_TAG = 0x0112
TRANSPARENT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"})
DEEP = frozenset(f"{mode};16{order}" for mode in ("RGB", "RGBA", "RGBX", "LA", "CMYK") for order in "BLN") | {"65535"}


def from_pil(image: Image.Image, where: str | None, limits: ImageLimits) -> LoadedImage:
    """The image as it is read from a file; `where` names the file in errors. Raises those of `read_image`, and of Pillow."""
    check_size(*image.size, where, limits)
    notes: list[str] = []
    tiff = kind_of(image)
    if tiff is not None:
        tiff.check(image.tell())
        prepare_planes(image)
    raw = _raw_modes(image)
    turned = _orientation(image, []) if image.format == "TIFF" else 1  # Pillow rotates a TIFF when it is loaded
    frames = note_on_frames(image)
    colors = color_source(image, notes)
    image.load()
    if frames is not None:
        notes.append(frames)
        logger.warning("%s: %s", where or "image", frames)
    if not DEEP.isdisjoint(raw):
        notes.append("16-bit reduced to 8-bit")
    orientation = _orientation(image, notes)
    image = cmyk_to_srgb(image, notes)
    if image.mode.startswith("I") or image.mode == "F":
        pixels, alpha, gray = _wide_values(image, tiff, where, notes), None, True
    else:
        pixels, alpha, gray = _to_arrays(image, where, notes)
    if colors is not None:
        pixels = to_srgb(pixels[..., 0] if gray and pixels.ndim == 3 else pixels, colors, notes)
    if tiff is not None and tiff.photometric == RGB and tiff.channels == 4 and 0 in tiff.extra:
        notes.append("fourth channel (neither color nor alpha) left out")
    if max(turned, orientation) > 1:
        notes.append(f"EXIF orientation {max(turned, orientation)} applied")
    pixels, alpha = _turn(pixels, orientation), None if alpha is None else _turn(alpha, orientation)
    if (channel := current_channel()) is not None:
        pixels, alpha, gray = pick(pixels[..., :1] if gray and pixels.ndim == 3 else pixels, channel), None, True
        notes.append(f"channel {channel} taken")
    metadata = read_metadata(image, notes)
    return finished(pixels, alpha, gray or "LA;16B" in raw, notes)._replace(metadata=metadata)  # Pillow reads LA;16B as RGBA


def note_on_frames(image: Image.Image) -> str | None:
    """Note on the frame of an animation or page of a TIFF that is read; None for a single one. Seeks: call before loading."""
    place = image.tell()
    try:
        count = getattr(image, "n_frames", 1)
        if count > 1 and image.format == "TIFF":
            pages = full_pages(image)
            image.seek(place)
            place, count = pages.index(place) if place in pages else place, len(pages)
    except Exception:  # a later frame is damaged; the pixels of this one may be intact
        image.seek(place)
        return f"frame {place + 1} of several taken"
    return f"frame {place + 1} of {count} taken" if count > 1 else None


def _raw_modes(image: Image.Image) -> frozenset[str]:
    """Pillow's raw modes of the stored pixels, and the maximum value of PPM; they show whether values have more than 8 bits."""
    tiles = getattr(image, "tile", None) or [(None, None, None, ())]
    arguments = tiles[0][3] if isinstance(tiles[0][3], tuple) else (tiles[0][3],)
    return frozenset(str(argument) for argument in arguments)


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # the EXIF parser raises many types; the pixels are still valid
        notes.append("damaged EXIF data ignored")
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turn(array: Pixels, orientation: int) -> Pixels:
    """The array rotated and mirrored according to an EXIF orientation, 1 (as stored) to 8."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _to_arrays(image: Image.Image, where: str | None, notes: list[str]) -> tuple[Pixels, Pixels | None, bool]:
    """Pixels (H, W, 3) or (H, W), alpha, and whether the source was gray."""
    mode = image.mode
    if mode == "1":
        notes.append("1-bit expanded to 8-bit")
    elif mode in ("P", "PA"):
        notes.append("palette expanded")
    elif mode not in ("L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX"):
        notes.append(f"{mode} converted to RGB without color management")
    gray = mode in ("1", "L", "LA", "La")
    try:
        if mode not in TRANSPARENT or not image.has_transparency_data:
            target = "L" if gray else "RGB"
            return np.asarray(image if mode == target else image.convert(target)), None, gray
        values = np.asarray((image.convert("LA") if mode == "La" else image).convert("RGBA"))
    except ValueError as error:
        raise UnreadableInput(f"{mode} colors cannot be converted to RGB", where=where) from error
    return values[..., :3], values[..., 3], gray  # gray has three equal channels


def _wide_values(image: Image.Image, tiff: PageKind | None, where: str | None, notes: list[str]) -> Pixels:
    """8-bit values (H, W) of gray with more than 8 bits."""
    if "transparency" in image.info:
        notes.append("transparent color ignored")
    values = np.asarray(image)
    return to_8_bits(values if tiff is None else tiff.black_is_zero(values), where, notes)
