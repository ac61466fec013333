"""Rates of files, and PSNR of region and background of decoded clips.

Conventions: PSNR of 8-bit RGB per frame, averaged over the frames of a clip. A frame without region (or without background) is
excluded from that mean and counted. Rates are the bits of the whole file over the pixels of the clip.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from latens.data.clips.frame_folder import images_in
from latens.data.clips.reader import open_clip
from latens.data.images import read_image
from latens.data.regions.masks import MaskReader
from latens.data.samples import photographs
from latens.data.source import Source
from latens.errors import UnreadableInput, UsageError
from latens.shapes import Bool, UInt8
from latens.systems.video_codec.predict import VideoCodec
from latens.systems.video_codec.streets import KIND, images_of, street_clip
from latens.systems.video_codec.synthetic import moving_photograph
from latens.video.codecs import CODECS, CodecName

RATE = 25  # frames per second of folders of images
CAP = 100.0  # dB, PSNR of a frame without error
SAMPLE_FRAMES, SAMPLE_SIDE = 12, 256  # of `sample_clip`


class RegionClip(NamedTuple):
    """A clip with the region of every frame."""

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    masks: Bool[np.ndarray, "T H W"]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.frames.tobytes() + self.masks.tobytes()).hexdigest()[:16]


class Quality(NamedTuple):
    """Mean PSNR in dB of whole frames, region and background; None if no frame has such pixels."""

    psnr: float
    roi: float | None
    rest: float | None
    without_roi: int  # frames without region


class ClipRow(NamedTuple):
    """Measurements of one clip with one codec at one quality."""

    clip: str
    digest: str  # hash of pixels and masks
    codec: str
    version: str  # of the weights, or of the encoder
    region: bool  # coded with its region
    setting: float  # quality
    gain: float | None
    bytes: int
    bpp: float
    psnr: float
    roi: float | None
    rest: float | None
    without_roi: int
    encode_seconds: float  # of the whole clip
    decode_seconds: float
    frames: int

    @property
    def label(self) -> str:
        return f"{self.codec} + region" if self.region else self.codec

    @property
    def key(self) -> tuple[Any, ...]:
        return self[1:7]


# --------------------------------------------------------------------------------------------------------------- clips


def region_clips(sources: Sequence[Source], names: Sequence[str], frames: int) -> list[RegionClip]:
    """The first `frames` frames (0: all) of clips in folders with CLIP/frames and CLIP/masks, and street images in motion.

    `names` selects clips; if the data contain none of them, all clips are used. Without sources the clip is a bundled
    photograph in motion. Raises UsageError for other kinds of data, UnreadableInput for folders without annotated clips.
    """
    if not sources:
        return [sample_clip()]
    places: list[Path] = []
    for source in sources:
        if source.kind == KIND:
            places += images_of(source, "val")
        elif source.kind in ("", "clips", "davis"):
            places += sorted(path.parent for path in source.path.glob("*/frames") if (path.parent / "masks").is_dir())
        else:
            hint = f"davis:DIR, clips:DIR or {KIND}:DIR"
            raise UsageError(f"no data of the kind '{source.kind}'", where=str(source), hint=hint)
    chosen = [place for place in places if place.stem in names] or places
    if not chosen:
        where = ", ".join(map(str, sources))
        raise UnreadableInput(
            "no clip with masks was found", where=where, hint="a clip is CLIP/frames/*.jpg and CLIP/masks/*.png"
        )
    return [read_region_clip(place, frames) if place.is_dir() else street_region(place, frames) for place in chosen]


def street_region(image: Path, frames: int) -> RegionClip:
    """A street image in motion, of `frames` frames (0: SAMPLE_FRAMES). Raises as `street_clip`."""
    clip = street_clip(image, frames or SAMPLE_FRAMES)
    return RegionClip(clip.name, clip.frames, clip.region())


def read_region_clip(folder: Path, frames: int) -> RegionClip:
    """The first `frames` frames (0: all) of a folder. Raises UnreadableInput or InputError."""
    paths = images_in(folder / "frames")[: frames or None]
    pixels = np.stack([read_image(path).pixels for path in paths])
    reader = MaskReader(pixels.shape[1:3], None, lambda text: None)
    masks = [reader.read(folder / "masks" / f"{path.stem}.png") > 127 for path in paths]
    return RegionClip(folder.name, pixels, np.stack(masks))


def sample_clip() -> RegionClip:
    """A bundled photograph that pans and turns; the region is a disk around an eye of the cat, moving with the content."""
    rng = np.random.default_rng(4)
    pixels = read_image(photographs()[1].path).pixels
    frames = moving_photograph(pixels, rng, SAMPLE_FRAMES, SAMPLE_SIDE, 0.01, 1.2)
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    disk = np.repeat(
        (255 * (np.hypot(y - height / 2 + 25, x - width / 2 + 45) < height / 7)).astype(np.uint8)[..., None], 3, axis=2
    )
    masks = moving_photograph(disk, np.random.default_rng(4), SAMPLE_FRAMES, SAMPLE_SIDE, 0.01, 1.2)
    return RegionClip("photograph", frames, masks[..., 0] > 127)


def bench_clip() -> RegionClip:
    """Two frames of `sample_clip`, resized to 854 x 480."""
    clip = sample_clip()
    size = (854, 480)
    frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in clip.frames[:2]]
    masks = [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in clip.masks[:2]]
    return RegionClip("photograph", np.stack(frames), np.stack(masks))


# -------------------------------------------------------------------------------------------------------- measurements


def quality_of(decoded: Sequence[np.ndarray], clip: RegionClip) -> Quality:
    """PSNR of the decoded frames of a clip. Raises UnreadableInput for another number of frames."""
    if len(decoded) != len(clip.frames):
        raise UnreadableInput(f"{len(decoded)} of {len(clip.frames)} frames were decoded", where=clip.name)
    found: list[list[float]] = [[], [], []]
    for image, original, mask in zip(decoded, clip.frames, clip.masks, strict=True):
        squared = np.square(image.astype(np.float64) - original).mean(-1)
        for values, part in zip(found, (np.ones_like(mask), mask, ~mask), strict=True):
            if part.any():
                values.append(min(CAP, float(10 * np.log10(255**2 / max(squared[part].mean(), 1e-12)))))
    whole, roi, rest = (float(np.mean(values)) if values else None for values in found)
    assert whole is not None
    return Quality(whole, roi, rest, int((~clip.masks.any((1, 2))).sum()))


def measure_ours(codec: VideoCodec, clip: RegionClip, setting: float, *, region: bool, gain: float | None = None) -> ClipRow:
    """Compress and decompress a clip with the model, and measure the result."""
    started = time.perf_counter()
    blob = codec.compress(clip.frames, roi=clip.masks if region else None, quality=setting, gain=gain, fps=RATE)
    packed = time.perf_counter()
    decoded = [frame.pixels for frame in codec.frames(blob)]
    done = time.perf_counter()
    return _row(clip, "latens", codec.model_id[:16], region, setting, gain, len(blob), decoded, packed - started, done - packed)


def measure_encoder(
    name: CodecName, clip: RegionClip, folder: Path, setting: float, *, region: bool, threads: int = 1
) -> ClipRow:
    """Compress and decompress a clip with a standard encoder; `folder` holds its frames (see `as_folder`)."""
    from latens.video.compress import compress_clip  # imported here, as training does not need PyAV

    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "clip.mp4"
        started = time.perf_counter()
        masks = clip.masks if region else None
        done = compress_clip(folder, out, roi=masks, codec=name, quality=setting, fps=RATE, threads=threads)
        packed = time.perf_counter()
        height, width = clip.frames.shape[1:3]
        with open_clip(out) as opened:
            decoded = [frame.rgb()[:height, :width] for frame in opened.frames()]
        ended = time.perf_counter()
    version = CODECS[name].library
    return _row(clip, name, version, region, setting, None, done.bytes, decoded, packed - started, ended - packed)


def as_folder(clip: RegionClip, folder: Path) -> Path:
    """Write the frames as PNG images into `folder`; return it."""
    for number, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / f"{number:05d}.png", compress_level=1)
    return folder


def _row(
    clip: RegionClip,
    codec: str,
    version: str,
    region: bool,
    setting: float,
    gain: float | None,
    size: int,
    decoded: Sequence[np.ndarray],
    encode_seconds: float,
    decode_seconds: float,
) -> ClipRow:
    quality, pixels = quality_of(decoded, clip), clip.masks.size
    times = round(encode_seconds, 4), round(decode_seconds, 4)
    head = clip.name, clip.digest, codec, version, region, setting, gain
    return ClipRow(*head, size, 8 * size / pixels, *quality, *times, len(clip.frames))


# ------------------------------------------------------------------------------------------------------------- curves


def by_setting(rows: Sequence[ClipRow]) -> list[tuple[float, list[ClipRow]]]:
    """Rows grouped by quality, ascending."""
    return [(setting, [row for row in rows if row.setting == setting]) for setting in sorted({row.setting for row in rows})]


def mean(rows: Sequence[ClipRow], of: Callable[[ClipRow], float | None]) -> float:
    """Mean over the rows that have this value; NaN if none has."""
    values = [value for row in rows if (value := of(row)) is not None]
    return float(np.mean(values)) if values else float("nan")


def by_label(rows: Sequence[ClipRow]) -> Iterator[tuple[str, list[ClipRow]]]:
    """Rows grouped by `ClipRow.label`, in the order of their first rows."""
    for label in dict.fromkeys(row.label for row in rows):
        yield label, [row for row in rows if row.label == label]
