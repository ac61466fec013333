"""The video codec's section of `latens demo`: a clip with and without a region at equal size, and maps of the bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latens.data.files import write_atomic
from latens.inference.page import Figure, Gallery, Links, Section
from latens.systems.video_codec.groups import Setting
from latens.systems.video_codec.measure import RATE, RegionClip, sample_clip
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.visualization import bits_image, bits_map, gif, image, outlined, region_numbers

TRIALS = 4  # bisection steps of the search for equal size
FRAMES = 6
FINE = 5 / 7  # quality with the region, as a share of the range of qualities

INTRO = (
    "A photograph that pans and turns, compressed by the neural codec to two .ltv files of about equal size: without a region, "
    "and with the outlined region. The maps show the bits of the last frame, from 0.001 (dark) to 2 (bright) bits per pixel."
)


def section(codec: VideoCodec, folder: Path) -> Section:
    """Compress a clip with and without a region, and write .ltv files and animations into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = sample_clip()
    clip = RegionClip(clip.name, clip.frames[:FRAMES], clip.masks[:FRAMES])
    quality = 1 + FINE * (codec.best_quality - 1)
    with_region = codec.compress(clip.frames, roi=clip.masks, quality=quality, fps=RATE)
    plain = _of_size(codec, clip, len(with_region))
    last = len(clip.frames) - 1
    original, mask = clip.frames[last], clip.masks[last]
    figures = [image(outlined(original, mask), "Original", f"{8 * original.nbytes / mask.size:.0f} bits per pixel")]
    maps: list[Figure] = []
    names = []
    for name, title, blob in (("plain", "Without a region", plain), ("region", "With the region", with_region)):
        decoded = codec.frames(blob)
        setting: Setting = decoded.header.setting
        frames = [frame.pixels for frame in decoded]
        bpp = 8 * len(blob) / clip.masks.size
        figures.append(
            image(frames[last], title, f"{len(blob):,} bytes, {bpp:.3f} bpp; {region_numbers(frames[last], original, mask)}")
        )
        bits = bits_map(codec, clip, last, setting)
        share = 100 * bits[mask].sum() / max(float(bits.sum()), 1e-9)
        maps.append(
            image(bits_image(bits), f"Bits: {title.lower()}", f"{share:.0f} % in {100 * mask.mean():.0f} % of the frame")
        )
        write_atomic(folder / f"{name}.ltv", blob)
        write_atomic(folder / f"{name}.gif", gif(frames))
        names += [f"{name}.ltv", f"{name}.gif"]
    links = Links(f"Files in {folder.name}, next to this page:", [f"{folder.name}/{name}" for name in names])
    return Section("Video with a region of interest", [INTRO, Gallery(figures, columns=3), Gallery(maps, columns=3), links])


def _of_size(codec: VideoCodec, clip: RegionClip, size: int) -> bytes:
    """The file without a region whose size is nearest to `size` bytes, by bisection of the quality."""
    low, high = 1.0, codec.best_quality
    found: dict[int, bytes] = {}
    for _ in range(TRIALS):
        quality = (low + high) / 2
        blob = codec.compress(clip.frames, quality=quality, fps=RATE)
        found[abs(len(blob) - size)] = blob
        low, high = (quality, high) if len(blob) < size else (low, quality)
    return found[int(np.min(list(found)))]
