"""Training data that do not fit into memory: index of names, decoding in one thread and in worker processes.

    python benchmarks/streaming.py --files 100000 --planned 1281167 -o /tmp/streaming

Generates JPEG files of 96 x 96 pixels in 100 class folders (removed afterwards, unless --keep), reads them as imagenet:DIR with
the data of the parts system and without its cache, and prints images per second of wall time and CPU seconds per 1,000 images.
The planned set exists as a list of names only: the time and memory of its index are those of a data set of that size.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
from PIL import Image

from latens.data.labeled_files import from_files
from latens.data.source import Source
from latens.data.splits import place_of
from latens.systems.image_codec.dataset import photographs
from latens.systems.parts.config import ImagesConfig
from latens.systems.parts.dataset import ImageData
from latens.training.data import Feed, feed_of

CLASSES, SIZE, BATCH = 100, 96, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="generated files")
    parser.add_argument("--planned", type=int, default=1_281_167, help="names of the planned set")
    parser.add_argument("--side", type=int, default=96, help="side of the generated images, pixels")
    parser.add_argument("--images", type=int, default=20_000, help="images decoded in each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, in turn")
    parser.add_argument("-o", "--out", type=Path, default=Path("streaming"), help="folder of the generated files")
    parser.add_argument("--keep", action="store_true", help="keep the generated files")
    arguments = parser.parse_args()
    plan(arguments.planned)
    try:
        generate(arguments.out, arguments.files, arguments.side)
        started = time.process_time()
        data = ImageData([Source("imagenet", str(arguments.out))], ImagesConfig(batch=BATCH, memory=0), SIZE, 0)
        print(f"index of {arguments.files:,} files: {time.process_time() - started:.1f} CPU s")
        started = time.process_time()
        photographs(arguments.out)
        print(f"the same as photographs of the image codec: {time.process_time() - started:.1f} CPU s")
        steps = arguments.images // BATCH
        best: dict[str, float] = {}
        for number in range(arguments.rounds):
            steps_of = range(number * steps, (number + 1) * steps)
            for workers in (0, 1, 2):
                name = f"{workers} workers" if workers else "thread"
                rate = measured(name, feed_of(data, 0, steps_of, workers), steps_of)
                best[name] = max(best.get(name, 0.0), rate)
        print(f"2 workers / thread, best of {arguments.rounds}: {best['2 workers'] / best['thread']:.2f}")
    finally:
        if not arguments.keep:
            shutil.rmtree(arguments.out, ignore_errors=True)


def plan(count: int) -> None:
    """Index a set of names: paths, labels, and the split of every image."""
    root = Path("imagenet/train")
    tracemalloc.start()
    started = time.process_time()
    paths = [root / f"n{number % 1000:08d}" / f"n{number % 1000:08d}_{number}.JPEG" for number in range(count)]
    labels = np.arange(count, dtype=np.int64) % 1000
    found = from_files("ImageNet", root, paths, labels, tuple(f"n{k:08d}" for k in range(1000)))
    chance = np.array([place_of(key) for key in found.keys])
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = int((chance < 0.01).sum())
    print(f"index of {count:,} names: {seconds:.1f} CPU s (traced), peak {peak / 1e6:.0f} MB, {held:,} held out at 1 %")


def generate(folder: Path, count: int, side: int) -> None:
    """Write `count` different small JPEG files in the layout of ImageNet."""
    rng = np.random.default_rng(0)
    bases = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((side + 64, side + 64)))
        for _ in range(50)
    ]
    for number in range(count):
        place = folder / "train" / f"class{number % CLASSES:03d}"
        if number < CLASSES:
            place.mkdir(parents=True)
        top, left = (number // 64) % 64, number % 64
        stream = io.BytesIO()
        Image.fromarray(bases[number % 50][top : top + side, left : left + side]).save(stream, "JPEG", quality=85)
        (place / f"{number:07d}.JPEG").write_bytes(stream.getvalue())


def measured(name: str, feed: Feed, steps: range) -> float:
    """Images per second of a feed, after its first batches."""
    cpu, started, warm = cpu_seconds(), time.perf_counter(), 4
    for number, step in enumerate(steps):
        if number == warm:
            cpu, started = cpu_seconds(), time.perf_counter()
        feed.batch(step)
    seconds = time.perf_counter() - started
    feed.close()
    images = (len(steps) - warm) * BATCH
    load = os.getloadavg()[0]
    spent = 1000 * (cpu_seconds() - cpu) / images
    print(f"{name:10s} {images / seconds:7.0f} images/s  {spent:.2f} CPU s per 1,000 images  (load {load:.1f})")
    return images / seconds


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    return sum(
        usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
