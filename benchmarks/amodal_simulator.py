"""CPU time of the simulators of embryos and of occluded shapes.

python benchmarks/amodal_simulator.py [--size 500] [--images 40]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import fmean

import numpy as np

from latens.systems.amodal.dataset import Simulated

KINDS = ("embryo", "opaque", "translucent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--images", type=int, default=40)
    arguments = parser.parse_args()
    for kind in KINDS:
        source = Simulated(kind)
        seconds = timed(lambda seed, source=source: source.draw(np.random.default_rng(seed), arguments.size), arguments.images)
        print(json.dumps({"kind": kind, "mean_ms": round(1e3 * fmean(seconds), 1), "slowest_ms": round(1e3 * max(seconds), 1)}))


def timed(draw: Callable[[int], object], images: int) -> list[float]:
    """CPU seconds per image, after one image as a warm-up."""
    draw(0)
    seconds = []
    for seed in range(images):
        started = time.process_time()
        draw(seed)
        seconds.append(time.process_time() - started)
    return seconds


if __name__ == "__main__":
    main()
