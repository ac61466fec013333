"""Test that an encoder applies regions of interest; some versions and settings accept but ignore them."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import av
import numpy as np

from latens.data.clips.color import THREADS
from latens.errors import UsageError
from latens.video.blocks import RegionSideData

SIDE, FRAMES = 128, 3  # size of the test clip, noise with a region over half of the frame


def check_regions(library: str, options: dict[str, str], format: str, outside: float) -> None:
    """Encode a few frames with and without a region. Raises UsageError if the bytes are equal."""
    if not _differ(library, tuple(sorted(options.items())), format, outside):
        raise UsageError(
            f"{library} ignores regions with these settings",
            hint="adaptive quantization must be on: use the default preset, and a quality instead of a constant quantizer",
        )


@functools.cache
def _differ(library: str, options: tuple[tuple[str, str], ...], format: str, outside: float) -> bool:
    plain, with_region = (_encoded(library, dict(options), format, offset) for offset in (0.0, outside))
    return plain != with_region


def _encoded(library: str, options: dict[str, str], format: str, outside: float) -> bytes:
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 190, (SIDE, SIDE, 3), dtype=np.uint8)
    weights = np.zeros((SIDE, SIDE), dtype=np.uint8)
    weights[:, : SIDE // 2] = 255
    context: Any = av.CodecContext.create(library, "w")
    context.width, context.height, context.pix_fmt = SIDE, SIDE, format
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = options
    context.thread_count = 1
    side_data = RegionSideData(0.0, outside) if outside else None
    found = b""
    for number in range(FRAMES):
        frame = av.VideoFrame.from_ndarray(np.roll(pixels, number, axis=1), format="rgb24")
        frame = frame.reformat(format=format, threads=THREADS)
        frame = side_data(frame, weights) if side_data else frame
        frame.pts, frame.time_base = number, Fraction(1, 25)
        found += b"".join(bytes(packet) for packet in context.encode(frame))
    return found + b"".join(bytes(packet) for packet in context.encode(None))
