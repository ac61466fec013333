"""What latent refinement saves in real files, and what it costs in time.

    python benchmarks/refinement_gain.py PICTURES [--steps 100] [--count 6] [--model NAME|FOLDER] [--threads 2]

Compresses the first pictures of a folder at four qualities, plainly and refined, decodes the files, and prints the two
curves (means of bits per pixel and PSNR), the BD-rate, how many files are no worse by bpp + lambda * 255^2 * MSE, and
seconds a picture.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from latens.codes.annealing import Refine
from latens.data.images import read_picture
from latens.metrics.image import psnr
from latens.metrics.rate import bd_rate
from latens.systems.image_codec.predict import load

QUALITIES = (1.0, 3.0, 5.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--model", default="image_codec")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    codec = load(arguments.model, device="cpu", threads=arguments.threads)
    lambdas = codec.model.config.lambdas
    points: dict[str, list[tuple[float, float]]] = {"plain": [], "refined": []}
    no_worse = files = 0
    seconds: list[float] = []
    pictures = [read_picture(path) for path in sorted(arguments.pictures.glob("*.png"))[: arguments.count]]
    for quality in QUALITIES:
        found: dict[str, list[tuple[float, float]]] = {"plain": [], "refined": []}
        for picture in pictures:
            losses = {}
            for name, settings in (("plain", None), ("refined", Refine(steps=arguments.steps))):
                started = time.perf_counter()
                blob = codec.compress(picture, quality=quality, refine=settings)
                if settings is not None:
                    seconds.append(time.perf_counter() - started)
                decibels = psnr(np.asarray(codec.decompress(blob)), picture.pixels)
                bpp = 8 * len(blob) / picture.pixels[..., 0].size
                found[name].append((bpp, decibels))
                losses[name] = bpp + lambdas[round(quality) - 1] * 255**2 * 10 ** (-decibels / 10)
            files += 1
            no_worse += losses["refined"] <= losses["plain"]
        for name, values in found.items():
            points[name].append(tuple(np.mean(values, axis=0).tolist()))
    plain, refined = (np.array(points[name]).T for name in ("plain", "refined"))
    result = {
        "steps": arguments.steps,
        "pictures": len(pictures),
        "bd_rate_percent": round(bd_rate(plain[0], plain[1], refined[0], refined[1]), 2),
        "no_worse": f"{no_worse} of {files}",
        "seconds_a_picture": round(float(np.median(seconds)), 1),
        "curves": {name: [[round(v, 4) for v in point] for point in values] for name, values in points.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
