"""Small clips for tests, made directly with PyAV instead of the tested code, and a reading of them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from latens.data.clips.clip import Clip, ClipFrame
from latens.data.clips.reader import open_clip

WIDTH, HEIGHT = 96, 64


def image(number: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(H, W, 3): a red square at the top left of moving texture; blue is the number of the frame."""
    rows, columns = np.mgrid[0:height, 0:width]
    texture = (rows * 7 + (columns + 2 * number) * 5) % 90 + 60
    pixels = np.stack([texture, texture[::-1], np.full_like(texture, 10 * number % 250)], axis=-1).astype(np.uint8)
    pixels[: height // 3, : width // 4] = (200, 30, 40)
    return pixels


def make_clip(
    path: Path,
    *,
    times: Sequence[int] = range(8),
    base: Fraction = Fraction(1, 25),
    size: tuple[int, int] = (WIDTH, HEIGHT),
    library: str = "libx264",
    format: str = "yuv420p",
    rotation: int = 0,
    matrix: int | None = 1,
    transfer: int | None = None,
    sound: str | None = None,
    options: dict[str, str] | None = None,
    images: Sequence[np.ndarray] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A clip of `image`s at time stamps `times` of a time base; `matrix` 1 is BT.709, None untagged."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(library, rate=1 / base if base.denominator < 200 else 25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, format
        stream.thread_count = 1  # threads that convert frames would not survive a fork of the tests
        stream.time_base = stream.codec_context.time_base = base
        fine: dict[str, object] = {"crf": "6", "bf": "0"} if library == "libx264" else {}
        stream.options = fine | (options or {})
        if rotation:
            stream.set_display_rotation(rotation)
        voice = container.add_stream(sound, rate=48000) if sound else None
        assert voice is None or isinstance(voice, av.AudioStream)
        tags: dict[str, Any] = {
            "colorspace": matrix,
            "color_primaries": matrix,
            "color_trc": transfer or matrix,
            "color_range": 1,
        }
        if matrix is not None:
            for name, value in tags.items():
                setattr(stream.codec_context, name, value)
        for number, time in enumerate(times):
            pixels = image(number, *size) if images is None else images[number]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if format != "rgb24":
                frame = frame.reformat(format=format, dst_colorspace="ITU709", dst_color_range="MPEG", threads=1)
            frame.pts, frame.time_base = time, base
            if matrix is None:
                frame.colorspace, frame.color_range = 2, 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            for number in range(12):
                wave = np.sin(np.arange(1024 * voice.codec_context.channels) / 20).astype(np.float32)[None]
                tone = av.AudioFrame.from_ndarray(wave * 0.3, format="flt", layout=voice.codec_context.layout)
                tone.sample_rate, tone.pts, tone.time_base = 48000, 1024 * number, Fraction(1, 48000)
                container.mux(voice.encode(tone))
            container.mux(voice.encode(None))
    return path


def taken(path: Path, **options: float) -> tuple[Clip, list[ClipFrame]]:
    """The clip after reading, and all of its frames."""
    with open_clip(path, **options) as clip:
        return clip, list(clip.frames())
