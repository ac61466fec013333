"""CPU time and quality of the dark channel prior with guided filter: ours compared with OpenCV's operations.

    python benchmarks/dehazing.py                       # simulated streets at 640x480, 1920x1080 and 3840x2160
    python benchmarks/dehazing.py --threads 2 --repeats 9

The peer is ximgproc.guidedFilter if opencv-contrib is installed, otherwise the same method from cv2.erode and cv2.boxFilter.
Times are medians of process time over all threads, in alternating runs. Quality is PSNR and SSIM against the clear image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from latens.data.tensors import to_pixels, to_tensor
from latens.metrics.image import psnr, ssim
from latens.systems.haze import methods
from latens.systems.haze.bands import dark_channel_pixels
from latens.systems.haze.baselines.boundary import BoundaryConfig
from latens.systems.haze.baselines.dark_channel import DarkChannelConfig, blocks_of
from latens.systems.haze.formation import add_haze, draw_haze_parameters, transmission
from latens.systems.haze.simulator.streets import street

SIZES = ((640, 480), (1920, 1080), (3840, 2160))
CONFIG = DarkChannelConfig()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="number of sizes, smallest first")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    for width, height in SIZES[: arguments.sizes]:
        hazy, clear = image(width, height)
        rows = {name: method(hazy) for name, method in METHODS.items()}  # also warms up
        times: dict[str, list[float]] = {name: [] for name in METHODS}
        for _ in range(arguments.repeats):
            for name, method in METHODS.items():
                started = time.process_time()
                method(hazy)
                times[name].append(time.process_time() - started)
        peer = statistics.median(times[PEER])
        for name, result in rows.items():
            taken = statistics.median(times[name])
            record = {
                "size": f"{width}x{height}",
                "method": name,
                "cpu_ms": round(1e3 * taken, 1),
                "times_faster": round(peer / taken, 2),
                "psnr": round(psnr(result, clear), 2),
                "ssim": round(ssim(result, clear) or 0, 4),
            }
            print(json.dumps(record), flush=True)


def image(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Hazy and clear uint8 (H, W, 3) of a simulated street, drawn at a small size and enlarged."""
    scene = street(7, (480, 640))
    resized = cv2.resize(scene.image, (width, height), interpolation=cv2.INTER_CUBIC)
    depth = cv2.resize(np.minimum(scene.depth, 200) / 200, (width, height), interpolation=cv2.INTER_NEAREST)
    drawn = draw_haze_parameters(np.random.default_rng(0), 1)
    t = transmission(torch.from_numpy(depth.astype(np.float32))[None, None], drawn.beta)
    return to_pixels(add_haze(to_tensor(resized), t, drawn.airlight)[0]), resized


@torch.no_grad()
def whole(hazy: np.ndarray) -> np.ndarray:
    """All steps at full size, as published: the row `dcp, full size` of an evaluation."""
    tensor = to_tensor(hazy)
    coarse = methods.dark_channel(blocks_of(tensor, CONFIG.shrink), CONFIG)
    return to_pixels(methods.refine(coarse, tensor).clear(tensor)[0])


def quarter(hazy: np.ndarray) -> np.ndarray:
    """The method of `latens dehaze --method dcp`."""
    return dark_channel_pixels(torch.from_numpy(hazy)).numpy()


@torch.no_grad()
def bccr(hazy: np.ndarray) -> np.ndarray:
    """The method of `latens dehaze --method bccr`."""
    tensor = to_tensor(hazy)
    return to_pixels(methods.refine(methods.boundary(tensor, BoundaryConfig()), tensor).clear(tensor)[0])


def opencv(hazy: np.ndarray) -> np.ndarray:
    """The same method with OpenCV's erosion and guided (or box) filter, in float32."""
    image = hazy.astype(np.float32) / 255
    kernel = np.ones((CONFIG.patch, CONFIG.patch), np.uint8)
    dark = cv2.erode(image.min(2), kernel)
    count = max(int(dark.size * CONFIG.brightest), 1)
    chosen = np.argpartition(dark.ravel(), -count)[-count:]
    airlight = image.reshape(-1, 3)[chosen].mean(0)
    t = 1 - CONFIG.omega * cv2.erode((image / airlight).min(2), kernel)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    t = np.clip(cv_guided(gray, t), CONFIG.floor, 1)[..., None]
    clear: np.ndarray = np.clip(np.rint(((image - airlight) / t + airlight) * 255), 0, 255).astype(np.uint8)
    return clear


def cv_guided(guide: np.ndarray, x: np.ndarray) -> np.ndarray:
    if hasattr(cv2, "ximgproc"):
        filtered: np.ndarray = cv2.ximgproc.guidedFilter(guide, x, CONFIG.radius, CONFIG.epsilon)
        return filtered
    side = (2 * CONFIG.radius + 1, 2 * CONFIG.radius + 1)
    mean_guide, mean_x = cv2.boxFilter(guide, -1, side), cv2.boxFilter(x, -1, side)
    variance = cv2.boxFilter(guide * guide, -1, side) - mean_guide * mean_guide
    slope = (cv2.boxFilter(guide * x, -1, side) - mean_guide * mean_x) / (variance + CONFIG.epsilon)
    return np.asarray(cv2.boxFilter(slope, -1, side) * guide + cv2.boxFilter(mean_x - slope * mean_guide, -1, side))


PEER = "opencv ximgproc" if hasattr(cv2, "ximgproc") else "opencv boxFilter"
METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    PEER: opencv,
    "ours, whole": whole,
    "ours, quarter size": quarter,
    "ours, boundary constraint": bccr,
}


if __name__ == "__main__":
    main()
