"""Baselines: JPEG, WebP and AVIF, through Pillow.

The options give small files at up to about one second per megapixel. The baselines compress the same pixels as the codec under
test, and their files have no metadata (EXIF, color profile).
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features

from latens.data.image_output import to_pil
from latens.data.images import LoadedImage, Pixels
from latens.errors import UsageError

AVIF_SPEED = 6  # the default of Pillow


def decode(data: bytes) -> Pixels:
    """The image in the bytes of a file, uint8 (H, W, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


class Encoder(NamedTuple):
    """An image encoder. `version` names the library and its options."""

    name: str
    encode: Callable[[LoadedImage, int], bytes]  # at a quality on the scale of the encoder
    qualities: tuple[int, ...]  # increasing qualities of a rate-distortion curve
    scale: tuple[int, int]  # lowest and highest quality
    version: str
    decode: Callable[[bytes], Pixels] = decode
    clock: Callable[[], float] = time.process_time  # seconds of the processor, of the process that encodes and decodes


def available(names: tuple[str, ...] = ("JPEG", "WebP", "AVIF")) -> tuple[Encoder, ...]:
    """The encoders with these names that this Pillow supports. Raises UsageError for an unknown name."""
    unknown = [name for name in names if name not in _MAKERS]
    if unknown:
        raise UsageError(f"no baseline is named {unknown[0]!r}", hint=f"baselines: {', '.join(_MAKERS)}")
    return tuple(_MAKERS[name]() for name in names if features.check(_FEATURES[name.split()[0]]))


class Match(NamedTuple):
    """A baseline file of about the size of another file."""

    quality: int
    data: bytes


def match_size(encoder: Encoder, image: LoadedImage, size: int) -> Match:
    """The lowest quality whose file has at least `size` bytes, or the highest quality; by bisection."""
    low, high = encoder.scale
    files: dict[int, bytes] = {}
    while low < high:
        middle = (low + high) // 2
        files[middle] = encoder.encode(image, middle)
        if len(files[middle]) >= size:
            high = middle
        else:
            low = middle + 1
    return Match(high, files[high] if high in files else encoder.encode(image, high))


def _jpeg() -> Encoder:
    def encode(image: LoadedImage, quality: int) -> bytes:
        return _save(image, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")

    qualities = (5, 10, 18, 28, 40, 55, 70, 82, 90, 95)
    turbo = features.version("libjpeg_turbo")
    name = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}"
    return Encoder("JPEG", encode, qualities, (1, 95), f"{name}, 4:2:0, optimized Huffman tables")


def _webp() -> Encoder:
    def encode(image: LoadedImage, quality: int) -> bytes:
        return _save(image, "WEBP", quality=quality, method=6)

    qualities = (0, 6, 16, 30, 48, 65, 80, 90)
    return Encoder("WebP", encode, qualities, (0, 100), f"libwebp {features.version('webp')}, 4:2:0, method 6")


def avif(
    subsampling: str = "4:2:0",
    tune: str = "",
    *,
    speed: int = AVIF_SPEED,
    qualities: tuple[int, ...] = (4, 16, 28, 40, 52, 64, 76, 88),
) -> Encoder:
    """AVIF with a tune of libaom ("": that of libavif) at a speed from 0, the slowest, to 10. Only for a Pillow with AVIF."""
    from PIL import _avif  # exists only with AVIF; no public function of Pillow has the version of libaom

    advanced = {"advanced": {"tune": tune}} if tune else {}

    def encode(image: LoadedImage, quality: int) -> bytes:
        # With several threads the bytes may depend on how the work is divided.
        return _save(image, "AVIF", quality=quality, speed=speed, subsampling=subsampling, max_threads=1, **advanced)

    name = " ".join(["AVIF", *([subsampling, tune] if tune else []), *([] if speed == AVIF_SPEED else [f"speed {speed}"])])
    library = f"libavif {features.version('avif')} ({_avif.codec_versions()})"
    version = f"{library}, {subsampling}, speed {speed}, {f'tune={tune}' if tune else 'default tune'}"
    return Encoder(name, encode, qualities, (0, 100), version)


_MAKERS: dict[str, Callable[[], Encoder]] = {
    "JPEG": _jpeg,
    "WebP": _webp,
    "AVIF": avif,
    "AVIF 4:2:0 psnr": partial(avif, "4:2:0", "psnr"),
    "AVIF 4:4:4 psnr": partial(avif, "4:4:4", "psnr"),
}
_FEATURES = {"JPEG": "jpg", "WebP": "webp", "AVIF": "avif"}


def _save(image: LoadedImage, kind: str, *, quality: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    # WebP has no gray images; Pillow converts them to RGB.
    to_pil(image.pixels, gray=image.gray).save(buffer, format=kind, quality=quality, **options)
    return buffer.getvalue()
