"""Resident memory of the neural video codec during encoding and decoding of a long generated clip.

python benchmarks/video_memory.py [--frames 10000] [--size 96x64] [--every 1000] [--model FOLDER] [--folder SCRATCH]

Prints megabytes at intervals of frames, first for encoding to a file, then for decoding it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def moving(count: int, width: int, height: int) -> Iterator[np.ndarray]:
    """Frames of colored waves with slight noise that move by about one pixel per frame."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        waves = [np.sin((x + number * (1 + c)) / 9 + c) + np.cos((y - number) / (7 + c)) for c in range(3)]
        noise = rng.normal(0, 3, (height, width, 3))
        yield np.clip(128 + 50 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def watched(frames: Iterable[object], every: int, what: str) -> Iterator[object]:
    started = time.process_time()
    for number, frame in enumerate(frames, 1):
        yield frame
        if number % every == 0:
            spent = 1e3 * (time.process_time() - started) / number
            print(f"{what} {number:>6} frames  {resident():7.1f} MB  {spent:6.1f} ms of CPU time per frame", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--size", default="96x64")
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--model", default="video_codec")
    parser.add_argument("--folder")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))

    from latens.systems.video_codec.predict import load

    codec = load(options.model, device="cpu")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "long.ltv"
        with open(path, "wb") as stream:
            codec.encode(watched(moving(options.frames, width, height), options.every, "encoding"), stream, fps=25)
        print(f"{path.stat().st_size:,} bytes")
        for _ in watched(codec.frames(path), options.every, "decoding"):
            pass


if __name__ == "__main__":
    main()
