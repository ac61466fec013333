"""SSIMULACRA2 of uint8 RGB images, by the package `ssimulacra2`, which is not installed with latens."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from latens.errors import UsageError
from latens.metrics.image import Pixels

SMALLEST_SIDE = 8  # pixels; the measure has no scale for smaller images


def check_installed() -> None:
    """Raise UsageError without the package, or if it cannot be imported."""
    try:
        import ssimulacra2  # noqa: F401
    except ImportError as error:
        what = f"SSIMULACRA2 needs the package ssimulacra2 ({error})"
        raise UsageError(what, hint="pip install 'latens[metrics]'") from None


def ssimulacra2(original: Pixels, decoded: Pixels) -> float | None:
    """SSIMULACRA2 (Sneyers 2023): 100 for identical images, about 70 for high and 50 for medium quality; may be negative.

    None if a side is below 8 pixels. Raises ImportError without the package, ValueError if the shapes differ.
    """
    from ssimulacra2 import compute_ssimulacra2

    if original.shape != decoded.shape:
        raise ValueError(f"images of shapes {original.shape} and {decoded.shape} cannot be compared")
    if min(original.shape[:2]) < SMALLEST_SIDE:
        return None
    return float(compute_ssimulacra2(_as_file(original), _as_file(decoded)))


def _as_file(pixels: Pixels) -> io.BytesIO:
    """A lossless file, the only input of the package."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=0)
    file.seek(0)
    return file
