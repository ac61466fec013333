"""Standard encoders with a region of interest compared with the same encoders without it, on DAVIS clips.

    python benchmarks/roi_encoders.py rate DAVIS --clips blackswan,cows     BD-rate in the region, loss of the background
    python benchmarks/roi_encoders.py time DAVIS                            CPU time on one thread against a minimal PyAV loop
    python benchmarks/roi_encoders.py size DAVIS                            accuracy of --size
    python benchmarks/roi_encoders.py track DAVIS                           overlap of the tracked box with that of the mask

DAVIS contains CLIP/frames/*.jpg and CLIP/masks/*.png. Prints one JSON row per line, then the means. PSNR is computed per frame
in 8-bit RGB and averaged over frames; frames without region (or without background) are excluded from the average.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from latens.data.clips.color import to_rgb
from latens.data.regions.masks import box_of, draw
from latens.data.regions.track import Tracker
from latens.data.regions.words import Shape
from latens.metrics.rate import bd_rate
from latens.video.codecs import CODECS, CodecName
from latens.video.compress import compress_clip

HELD_OUT = "blackswan,drift-straight,horsejump-high,cows,kite-surf,paragliding-launch,scooter-black,drift-chicane"
QUALITIES = (2.5, 4.0, 5.5, 7.0)
RATE = 25


class Point(NamedTuple):
    bits_per_pixel: float
    region: float  # PSNR in dB
    background: float


def frames_of(folder: Path, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    names = sorted((folder / "frames").iterdir())[:count]
    masks = [folder / "masks" / f"{name.stem}.png" for name in names]
    return [np.asarray(Image.open(name)) for name in names], [np.asarray(Image.open(mask)) for mask in masks]


def short_clip(folder: Path, count: int, place: Path) -> tuple[Path, Path]:
    """The first frames and masks, as folders."""
    for kind in ("frames", "masks"):
        (place / kind).mkdir(parents=True)
        for path in sorted((folder / kind).iterdir())[:count]:
            (place / kind / path.name).symlink_to(path.resolve())
    return place / "frames", place / "masks"


def measure(clip: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Point:
    size = 0
    region: list[float] = []
    background: list[float] = []
    with av.open(str(clip)) as container:
        for packet in container.demux(video=0):
            size += packet.size
            for frame in packet.decode():
                number = len(region)
                pixels = to_rgb(frame)[: images[0].shape[0], : images[0].shape[1]]
                error = ((images[number].astype(np.float32) - pixels) ** 2).mean(axis=2)
                inside = masks[number] > 127
                region.append(decibels(error[inside]))
                background.append(decibels(error[~inside]))
    assert len(region) == len(images)
    pixels_in_all = len(images) * images[0].shape[0] * images[0].shape[1]
    return Point(8 * size / pixels_in_all, float(np.nanmean(region)), float(np.nanmean(background)))


def decibels(errors: np.ndarray) -> float:
    return float(min(100.0, 10 * np.log10(255**2 / max(errors.mean(), 1e-9)))) if errors.size else float("nan")


def curve(source: Path, masks: Path | None, folder: Path, count: int, codec: CodecName, strength: float | None) -> list[Point]:
    images, truth = frames_of(folder, count)
    points = []
    for quality in QUALITIES:
        with tempfile.TemporaryDirectory() as place:
            out = Path(place) / "clip.mkv"
            compress_clip(source, out, roi=masks, codec=codec, quality=quality, strength=strength, fps=RATE, threads=1)
            points.append(measure(out, images, truth))
    return points


def rate(folder: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    for codec in arguments.codecs.split(","):
        with tempfile.TemporaryDirectory() as place:
            source, masks = short_clip(folder, arguments.frames, Path(place))
            plain = curve(source, None, folder, arguments.frames, codec, None)
            for strength in arguments.strengths:
                tested = curve(source, masks, folder, arguments.frames, codec, strength)
                percent = [
                    bd_rate([p[0] for p in plain], [p[i] for p in plain], [p[0] for p in tested], [p[i] for p in tested])
                    if overlapping(plain, tested, i)
                    else None
                    for i in (1, 2)
                ]
                rows.append(
                    {
                        "clip": folder.name,
                        "codec": codec,
                        "strength": strength,
                        "bd_rate_region": percent[0],
                        "bd_rate_background": percent[1],
                        "background_loss_db": at_equal_rate(plain, tested, 2),
                        "region_gain_db": -at_equal_rate(plain, tested, 1),
                        "plain": plain,
                        "tested": tested,
                    }
                )
    return rows


def overlapping(plain: Sequence[Point], tested: Sequence[Point], index: int) -> bool:
    a, b = [p[index] for p in plain], [p[index] for p in tested]
    return max(min(a), min(b)) < min(max(a), max(b))


def at_equal_rate(plain: Sequence[Point], tested: Sequence[Point], index: int) -> float:
    """Mean difference in dB of the plain curve minus the tested one over the shared range of log rate."""
    logs = [np.log([p.bits_per_pixel for p in points]) for points in (plain, tested)]
    low, high = max(log.min() for log in logs), min(log.max() for log in logs)
    if low >= high:
        return float("nan")
    grid = np.linspace(low, high, 50)
    values = [np.interp(grid, log, [p[index] for p in points]) for log, points in zip(logs, (plain, tested), strict=True)]
    return float((values[0] - values[1]).mean())


def encode_plainly(source: Path, out: Path, library: str, options: dict[str, str]) -> None:
    """A minimal PyAV loop that decodes a clip and encodes it."""
    with av.open(str(source)) as given, av.open(str(out), "w") as made:
        read = given.streams.video[0]
        written = made.add_stream(library, rate=read.average_rate)
        assert isinstance(written, av.VideoStream)
        written.width, written.height, written.pix_fmt = read.width, read.height, "yuv420p"
        written.options = dict(options)
        written.codec_context.thread_count = 1
        for frame in given.decode(read):
            frame.pict_type = 0
            made.mux(written.encode(frame))
        made.mux(written.encode(None))


def cpu_seconds(action, repeats: int) -> float:  # type: ignore[no-untyped-def]
    best = float("inf")
    for _ in range(repeats):
        before = time.process_time()
        action()
        best = min(best, time.process_time() - before)
    return best


def speed(folder: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        source, masks = short_clip(folder, arguments.frames, Path(place))
        clip, out = Path(place) / "fine.mp4", Path(place) / "out.mp4"
        compress_clip(source, clip, quality=8, fps=RATE)
        for name in arguments.codecs.split(","):
            codec = CODECS[name]
            options = codec.encoder_options(codec.rate_factor(5), {}, 1)
            times = [
                cpu_seconds(action, arguments.repeats)
                for action in (
                    lambda codec=codec, options=options: encode_plainly(clip, out, codec.library, options),
                    lambda name=name: compress_clip(clip, out, codec=name, threads=1, force=True),
                    lambda name=name: compress_clip(clip, out, roi=masks, codec=name, threads=1, force=True),
                )
            ]
            per_frame = [1000 * seconds / arguments.frames for seconds in times]
            ratios = {"plain_ratio": times[1] / times[0], "region_ratio": times[2] / times[0]}
            rows.append({"clip": folder.name, "codec": name, "ms_pyav_plain_region": per_frame, **ratios})
    return rows


def sizes(folder: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        source, masks = short_clip(folder, arguments.frames, Path(place))
        for codec in arguments.codecs.split(","):
            for wanted in (40_000, 120_000):
                out = Path(place) / f"{codec}{wanted}.mp4"
                done = compress_clip(source, out, roi=masks, codec=codec, size=wanted, fps=RATE, threads=1)
                short = 1 - done.bytes / wanted
                rows.append(
                    {
                        "clip": folder.name,
                        "codec": codec,
                        "wanted": wanted,
                        "below": short,
                        "trials": done.trials,
                        "notes": done.notes,
                    }
                )
    return rows


def track(folder: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    images, masks = frames_of(folder, arguments.frames)
    height, width = masks[0].shape
    box = box_of(masks[0])
    assert box is not None
    tracker = Tracker(draw(Shape("box", *box), width, height), is_box=True)
    overlaps: list[float] = []
    lost, seconds = "", 0.0
    for pixels, mask in zip(images, masks, strict=True):
        start = time.process_time()
        found, truth = tracker.next(pixels), box_of(mask)
        seconds += time.process_time() - start
        if found.weights is None:
            lost = found.reason
            break
        if truth is not None:
            overlaps.append(overlap(box_of(found.weights), truth))
    mean = float(np.mean(overlaps[1:]))
    each = 1000 * seconds / len(overlaps)
    found_here = {"iou": mean, "last_iou": overlaps[-1], "followed": len(overlaps), "lost": lost, "cpu_ms_per_frame": each}
    return [{"clip": folder.name, **found_here}]


def overlap(a: tuple[int, int, int, int] | None, b: tuple[int, int, int, int]) -> float:
    if a is None:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


TESTS = {"rate": rate, "time": speed, "size": sizes, "track": track}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", choices=TESTS)
    parser.add_argument("davis", type=Path)
    parser.add_argument("--clips", default=HELD_OUT)
    parser.add_argument("--codecs", default="h264,h265,av1")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    logging.getLogger("latens").setLevel(logging.ERROR)
    os.environ["SVT_LOG"] = "1"
    rows = []
    for clip in arguments.clips.split(","):
        for row in TESTS[arguments.test](arguments.davis / clip, arguments):
            rows.append(row)
            print(json.dumps(row), flush=True)
    for key in sorted({(row.get("codec", ""), row.get("strength", "")) for row in rows}, key=str):
        group = [row for row in rows if (row.get("codec", ""), row.get("strength", "")) == key]
        numbers = [name for name in group[0] if isinstance(group[0][name], float) and name != "strength"]
        means = {name: float(np.nanmean([row[name] for row in group if row[name] is not None])) for name in numbers}
        print(json.dumps({"mean of": len(group), "codec": key[0], "strength": key[1]} | means))


if __name__ == "__main__":
    main()
