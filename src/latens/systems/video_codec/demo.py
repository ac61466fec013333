"""The video codec's section of `latens demo`: clips with and without a region at equal size, and maps of the bits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.clips.reader import open_clip
from latens.data.files import write_atomic
from latens.data.image_output import avif_bytes, changed_pixels, webp_bytes, write_image
from latens.data.images import Pixels
from latens.inference.page import Block, Columns, Compare, Figure, Gallery, Layer, Links, Overlays, Part, Section, Summary
from latens.systems.video_codec.measure import RATE, Quality, RegionClip, as_folder, quality_of, sample_clip
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.visualization import bits_image, bits_map, gif, outlined
from latens.video.codecs import BEST_QUALITY

TRIALS = 5  # bisection steps of the search for equal size
FRAMES = 6
FINE, H264_FINE = 5 / 7, 5.0  # quality with the region: as a share of the range of the model, and of H.264
NARROWEST = 300  # CSS pixels of a comparison

INTRO = (
    "A photograph that pans and turns, compressed to two files of about equal size: without a region, and with the outlined "
    "one. The command writes ordinary H.264 by default, which plays everywhere. The neural codec (--codec latens) "
    "gains from the region in the same way, but needs more bits than H.264."
)


class Coded(NamedTuple):
    """A decoded clip, its quality, and the size of its file."""

    frames: list[Pixels]
    quality: Quality
    bytes: int


class Pair(NamedTuple):
    """The clip without and with its region, at about equal size."""

    plain: Coded
    region: Coded

    @property
    def gain(self) -> float:
        """PSNR that the region gains, in dB."""
        return _region(self.region) - _region(self.plain)


def section(codec: VideoCodec, folder: Path) -> Section:
    """Compress a clip with and without a region, and write files and animations into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = sample_clip()
    clip = RegionClip(clip.name, clip.frames[:FRAMES], clip.masks[:FRAMES])
    ordinary, (neural, maps) = h264(clip, folder), learned(codec, clip, folder)
    frame = clip.frames[-1]
    outline = Figure(webp_bytes(changed_pixels(frame, outlined(frame, clip.masks[-1]))), "region", alt="outline of the region")
    original = Figure(webp_bytes(frame), caption=f"The last of {FRAMES} frames, as it went in.", alt="last frame of the clip")
    blocks: list[Block] = [
        INTRO,
        Columns([Overlays(original, [Layer(outline)]), compared(ordinary, "H.264"), compared(neural, "neural")], NARROWEST),
        Links("All files, next to this page; the .gif files show the neural codec in motion:", [folder.name]),
    ]
    summary = Summary(
        f"a clip of {FRAMES} frames and a region",
        "files of equal size, sharper in the region",
        f"{ordinary.gain:+.1f} dB",
        f"PSNR of the region with H.264 at equal size; {neural.gain:+.1f} dB with the neural codec",
        "latens video compress clip.mp4 --roi box:40,30,200,180 --track -o small.mp4",
    )
    return Section(
        "Keep a region of a clip sharp", blocks, [Part("Where the neural codec spends its bits", [maps], True)], summary
    )


def compared(pair: Pair, name: str) -> Compare:
    """The last frames of both clips."""
    captions = [f"{one.bytes:,} bytes: {_numbers(one)}" for one in pair]
    return Compare(
        Figure(webp_bytes(pair.plain.frames[-1]), f"{name}, plain", alt=f"{name}, without a region"),
        Figure(webp_bytes(pair.region.frames[-1]), f"{name}, region", alt=f"{name}, with the region"),
        f"Plain: {captions[0]}. With the region: {captions[1]}.",
    )


def h264(clip: RegionClip, folder: Path) -> Pair:
    """The clip by `latens video compress`: with the region at H264_FINE, then without it at the same size."""
    from latens.video.compress import compress_clip  # imported here, as training does not need PyAV

    with tempfile.TemporaryDirectory() as place:
        frames = as_folder(clip, Path(place))

        def encode(quality: float, roi: np.ndarray | None = None) -> bytes:
            path = folder / "plain.mp4"
            compress_clip(frames, path, roi=roi, quality=quality, fps=RATE, force=True)
            return path.read_bytes()

        region = encode(H264_FINE, clip.masks)
        plain = _of_size(encode, BEST_QUALITY, len(region))
    coded = []
    for name, data in (("plain", plain), ("region", region)):
        write_atomic(folder / f"{name}.mp4", data)
        coded.append(_decoded(clip, folder / f"{name}.mp4"))
        write_image(folder / f"{name}.png", Image.fromarray(coded[-1].frames[-1]))
    return Pair(*coded)


def learned(codec: VideoCodec, clip: RegionClip, folder: Path) -> tuple[Pair, Gallery]:
    """The clip by the neural codec, with the region and without it at about the same size; maps of the bits."""
    blob = codec.compress(clip.frames, roi=clip.masks, quality=1 + FINE * (codec.best_quality - 1), fps=RATE)
    plain = _of_size(lambda quality: codec.compress(clip.frames, quality=quality, fps=RATE), codec.best_quality, len(blob))
    coded, maps = [], []
    for name, data in (("plain", plain), ("region", blob)):
        decoded = codec.frames(data)
        setting = decoded.header.setting
        frames = [frame.pixels for frame in decoded]
        coded.append(Coded(frames, quality_of(frames, clip), len(data)))
        bits, mask = bits_map(codec, clip, len(frames) - 1, setting), clip.masks[-1]
        share = 100 * bits[mask].sum() / max(float(bits.sum()), 1e-9)
        caption = f"{share:.0f} % in {100 * mask.mean():.0f} % of the frame; 0.001 (dark) to 2 (bright) bits per pixel"
        maps.append(Figure(avif_bytes(bits_image(bits)), f"Bits, {name}", caption, alt=f"map of the bits, {name}"))
        write_atomic(folder / f"{name}.ltv", data)
        write_atomic(folder / f"{name}.gif", gif(frames))
    return Pair(*coded), Gallery(maps, columns=3)


def _decoded(clip: RegionClip, path: Path) -> Coded:
    height, width = clip.frames.shape[1:3]
    with open_clip(path) as opened:
        frames = [frame.rgb()[:height, :width] for frame in opened.frames()]
    return Coded(frames, quality_of(frames, clip), path.stat().st_size)


def _of_size(encode: Callable[[float], bytes], best: float, size: int) -> bytes:
    """The file whose size is nearest to `size` bytes, by bisection of the quality from 1 to `best`."""
    low, high = 1.0, best
    found: dict[int, bytes] = {}
    for _ in range(TRIALS):
        quality = (low + high) / 2
        blob = encode(quality)
        found[abs(len(blob) - size)] = blob
        low, high = (quality, high) if len(blob) < size else (low, quality)
    return found[int(np.min(list(found)))]


def _region(coded: Coded) -> float:
    assert coded.quality.roi is not None  # every frame of the clip has a region
    return coded.quality.roi


def _numbers(coded: Coded) -> str:
    return f"region {_region(coded):.1f} dB, background {coded.quality.rest:.1f} dB"
