"""Benchmark of the video codec: with and without a region, beside standard encoders on the same frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from latens.experiments.bench import Case
from latens.systems.video_codec.measure import RATE, ClipRow, RegionClip, as_folder, bench_clip, measure_encoder
from latens.systems.video_codec.predict import VideoCodec
from latens.video.codecs import CodecName

PEERS: dict[CodecName, str] = {"h264": "H.264", "h265": "H.265", "av1": "AV1"}
QUALITY = 3.0  # of the standard encoders


def cases(codec: VideoCodec) -> Sequence[Case]:
    """Compression and decompression of a clip, with and without a region; standard encoders, both ways together."""
    clip = bench_clip()
    blob = codec.compress(clip.frames, fps=RATE)
    with_region = codec.compress(clip.frames, roi=clip.masks, fps=RATE)
    count, pixels = float(len(clip.frames)), clip.masks.size

    def decompress(data: bytes) -> int:
        return sum(1 for _ in codec.frames(data))

    plain, region = 8 * len(blob) / pixels, 8 * len(with_region) / pixels
    return [
        Case("compress", lambda: codec.compress(clip.frames, fps=RATE), count, "frames", plain),
        Case("compress with a region", lambda: codec.compress(clip.frames, roi=clip.masks, fps=RATE), count, "frames", region),
        Case("decompress", lambda: decompress(blob), count, "frames"),
        Case("decompress with a region", lambda: decompress(with_region), count, "frames"),
        *(_peer(clip, name, title) for name, title in PEERS.items()),
    ]


def _peer(clip: RegionClip, name: CodecName, title: str) -> Case:
    act = partial(_both_ways, clip, name)
    bits = 8 * act().bytes / clip.masks.size
    return Case(f"{title} and back, with a region", act, float(len(clip.frames)), "frames", bits, True)


def _both_ways(clip: RegionClip, name: CodecName) -> ClipRow:
    with tempfile.TemporaryDirectory() as place:
        return measure_encoder(name, clip, as_folder(clip, Path(place)), QUALITY, region=True)
