"""Encoding and decoding speed of the neural video codec on a folder of frames, by wall time and CPU time.

python benchmarks/video_speed.py FRAMES [--frames 24] [--quality 4] [--threads 2] [--repeats 3] [--model NAME]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import latens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="video_codec")
    options = parser.parse_args()
    codec = latens.load(options.model, device="cpu", threads=options.threads)
    paths = sorted(options.folder.iterdir())[: options.frames]
    frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    size = f"{frames.shape[2]} x {frames.shape[1]}, {len(frames)} frames, quality {options.quality:g}"
    print(f"{codec}; {size}, {options.threads} threads, {codec.precision}")
    blob = codec.compress(frames, quality=options.quality, fps=25)  # warms up
    for _ in range(options.repeats):
        report("encode", len(frames), lambda: codec.compress(frames, quality=options.quality, fps=25))
        report("decode", len(frames), lambda: sum(1 for _ in codec.frames(blob)))


def report(what: str, frames: int, act: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}  {frames / wall:6.2f} frames/s, {1e3 * cpu / frames:6.0f} ms of CPU time per frame", flush=True)


if __name__ == "__main__":
    main()
