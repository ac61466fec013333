"""CPU time of bundled models in bfloat16 and in float32, to choose the precision for a processor.

python benchmarks/precision.py photo.png [--repeats 4]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

import latens

PRECISIONS = ("bfloat16", "float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--repeats", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(2)
    for precision in (*PRECISIONS, *PRECISIONS):  # twice each: the machine may be shared
        codec, segmenter = latens.load("image_codec"), latens.load("amodal")
        codec.precision = segmenter.precision = precision
        blob = codec.compress(given.image)
        tasks: dict[str, Callable[[], object]] = {
            "compress": partial(codec.compress, given.image),
            "decompress": partial(codec.decompress, blob),
            "segment": partial(segmenter.segment, given.image),
        }
        for name, run in tasks.items():
            print(f"{precision:<9} {name:<11} {_seconds(run, given.repeats):.3f} s of CPU time")


def _seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    started = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - started) / repeats


if __name__ == "__main__":
    main()
