"""Gain of latent refinement in real files, and its time.

    python benchmarks/refinement_gain.py IMAGES -o gain.jsonl [--steps 500 2000] [--qualities 1 3 5 8] [--count 6]
                                         [--model NAME|FOLDER] [--threads 2]

Compresses the first images of a folder at the given qualities, without and with refinement, and decodes the files. Prints the
curves (means of bits per pixel and PSNR), the BD-rate against the code without refinement, the number of files whose loss bpp +
lambda * 255^2 * MSE is not larger, the largest difference between a file and the code length of its symbols, and seconds per
image. Files in the journal gain.jsonl are not made again. Therefore the run can be interrupted, or split between processes by
quality and summarized by a last call with all qualities.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from latens.codes.annealing import Refine
from latens.codes.gains import lambda_at
from latens.codes.rate_target import RateTarget
from latens.data.images import LoadedImage, read_image
from latens.experiments.journal import Journal
from latens.metrics.image import psnr
from latens.metrics.rate import bd_rate
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.predict import ImageCodec, load
from latens.systems.image_codec.refinement import Trial, refine_image

PLAIN = 0  # steps without refinement


def main() -> None:
    arguments = parse_arguments()
    codec = load(arguments.model, device="cpu", threads=arguments.threads)
    paths = sorted(arguments.images.glob("*.png"))[: arguments.count]
    journal = Journal(arguments.out)
    for quality in arguments.qualities:
        for path in paths:
            for steps in (PLAIN, *arguments.steps):
                key = f"{codec.model_id} {path.name} {quality:g} {steps}"
                if not any(record["key"] == key for record in journal.read()):
                    journal.append([{"key": key, **one_file(codec, read_image(path), quality, steps)}])
    rows = {record["key"]: record for record in journal.read()}
    for steps in arguments.steps:
        print(json.dumps(summary(codec, rows, [path.name for path in paths], arguments.qualities, steps)))


def one_file(codec: ImageCodec, image: LoadedImage, quality: float, steps: int) -> dict[str, Any]:
    """Rate, PSNR, loss and time of one file; `excess` is its size relative to the code length of its symbols, minus 1."""
    started = time.perf_counter()
    if steps == PLAIN:
        trial = Trial(codec, codec.latent(image.pixels), image.pixels, round(quality * QUALITY_STEPS))
        symbols, measured = trial.plain, trial.start
    else:
        found = refine_image(codec, image, RateTarget("quality", quality), Refine(steps=steps))
        symbols, measured = found.symbols, found.refined.best
    blob = codec.write(image, symbols)
    seconds = time.perf_counter() - started
    decibels = psnr(np.asarray(codec.decompress(blob)), image.pixels)
    bpp = 8 * len(blob) / image.pixels[..., 0].size
    estimate = float(measured.bits_y + measured.bits_z) / 8
    weight = lambda_at(codec.lambdas, quality)
    return {
        "bpp": bpp,
        "psnr": decibels,
        "loss": bpp + weight * 255**2 * 10 ** (-decibels / 10),
        "bytes": len(blob),
        "excess": len(blob) / estimate - 1,
        "seconds": seconds,
    }


def summary(codec: ImageCodec, rows: dict[str, Any], names: list[str], qualities: list[float], steps: int) -> dict[str, Any]:
    def of(quality: float, count: int) -> list[dict[str, float]]:
        return [rows[f"{codec.model_id} {name} {quality:g} {count}"] for name in names]

    curves = {
        count: np.array([[np.mean([row[part] for row in of(q, count)]) for part in ("bpp", "psnr")] for q in qualities])
        for count in (PLAIN, steps)
    }
    pairs = [pair for q in qualities for pair in zip(of(q, PLAIN), of(q, steps), strict=True)]
    delta = bd_rate(*curves[PLAIN].T, *curves[steps].T) if len(qualities) > 1 else None
    return {
        "model": codec.model_id,
        "steps": steps,
        "images": len(names),
        "bd_rate_percent": None if delta is None else round(delta, 2),
        "no_worse": f"{sum(refined['loss'] <= plain['loss'] for plain, refined in pairs)} of {len(pairs)}",
        "loss_saved_percent": round(100 * float(np.mean([1 - refined["loss"] / plain["loss"] for plain, refined in pairs])), 2),
        "largest_excess_percent": round(100 * max(abs(refined["excess"]) for _, refined in pairs), 3),
        "mean_excess_percent": round(100 * float(np.mean([refined["excess"] for _, refined in pairs])), 3),
        "seconds_per_image": round(float(np.median([refined["seconds"] for _, refined in pairs])), 1),
        "plain": np.round(curves[PLAIN], 4).tolist(),
        "refined": np.round(curves[steps], 4).tolist(),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("gain.jsonl"))
    parser.add_argument("--steps", type=int, nargs="+", default=[500])
    parser.add_argument("--qualities", type=float, nargs="+", default=[1.0, 3.0, 5.0, 8.0])
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--model", default="image_codec")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
