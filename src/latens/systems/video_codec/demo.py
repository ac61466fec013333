"""The video codec's part of `latens demo`: a clip at equal bits without and with a region, and where the bits lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latens.data.files import write_atomic
from latens.inference.page import Figure, Gallery, Links, Section
from latens.systems.video_codec.groups import Setting
from latens.systems.video_codec.looks import bits_image, bits_map, gif, image, outlined, region_numbers
from latens.systems.video_codec.measure import RATE, RegionClip, sample_clip
from latens.systems.video_codec.predict import VideoCodec

TRIALS = 4  # of the search for a quality of equal bits
FRAMES = 6
FINE = 5 / 7  # of the range of qualities: of the region

INTRO = (
    "A photograph that pans and turns, compressed by the neural codec to a .ltv file: once all of the frame alike, once with "
    "the outlined region, at the quality that gives about the same number of bytes. The maps show where the bits of the "
    "last frame went, from 0.001 (dark) to 2 (bright) bits per pixel."
)


def section(codec: VideoCodec, folder: Path) -> Section:
    """Codes a clip twice and writes .ltv files and animations into `folder`."""
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
        how: Setting = decoded.header.setting
        frames = [frame.pixels for frame in decoded]
        bpp = 8 * len(blob) / clip.masks.size
        figures.append(
            image(frames[last], title, f"{len(blob):,} bytes, {bpp:.3f} bpp; {region_numbers(frames[last], original, mask)}")
        )
        bits = bits_map(codec, clip, last, how)
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
    """The clip without a region, at the quality whose file is nearest to a size."""
    low, high = 1.0, codec.best_quality
    found: dict[int, bytes] = {}
    for _ in range(TRIALS):
        quality = (low + high) / 2
        blob = codec.compress(clip.frames, quality=quality, fps=RATE)
        found[abs(len(blob) - size)] = blob
        low, high = (quality, high) if len(blob) < size else (low, quality)
    return found[int(np.min(list(found)))]
