"""Gain of latent refinement in real files, and its time.

    python benchmarks/refinement_gain.py IMAGES -o gain.jsonl [--steps 500] [--seconds 5 20] [--qualities 1 3 5 8]
                                         [--processor] [--count 6] [--model NAME|FOLDER] [--threads 2]
                                         [--against AVIF "AVIF 4:4:4 psnr"]

Compresses the first images of a folder at the given qualities, without and with refinement, and decodes the files. Prints the
curves (means of bits per pixel and PSNR), the BD-rate against the code without refinement, the number of files whose loss bpp +
lambda * 255^2 * MSE is not larger, the largest difference between a file and the code length of its symbols, and seconds per
image. With --seconds, the refinements have a time; `median_steps` are the steps that it gave. `processor_seconds` is the time
of the processor, which is shorter than that of the clock on a machine with other work. With --processor, --seconds counts it;
with one thread, that is the time of an idle machine. With --against, the BD-rates of both curves against other encoders of
`latens evaluate image_codec` on the same images are added. Files in the journal gain.jsonl are not made again. Therefore the
run can be interrupted, or split between processes by quality and summarized by a last call with all qualities.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from latens.codes.annealing import Refine
from latens.codes.budget import Clock
from latens.codes.gains import lambda_at
from latens.codes.rate_target import RateTarget
from latens.data.images import LoadedImage, read_image
from latens.errors import UsageError
from latens.experiments.journal import Journal
from latens.metrics.image import psnr
from latens.metrics.rate import bd_rate
from latens.systems.image_codec.baselines import Encoder, available
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.predict import ImageCodec, load
from latens.systems.image_codec.refinement import Trial, refine_image

PLAIN = "0"  # steps without refinement


def main() -> None:
    arguments = parse_arguments()
    codec = load(arguments.model, device="cpu", threads=arguments.threads)
    paths = sorted(arguments.images.glob("*.png"))[: arguments.count]
    journal = Journal(arguments.out)
    clock = time.process_time if arguments.processor else time.perf_counter
    encoders = available(tuple(arguments.against))
    if missing := set(arguments.against) - {encoder.name for encoder in encoders}:
        raise UsageError("this Pillow lacks the encoder", where=f"--against {missing.pop()}")
    steps = arguments.steps or ([] if arguments.seconds else [500])
    amounts = [*map(str, steps), *(f"{seconds:g}s" for seconds in arguments.seconds)]
    for quality in arguments.qualities:
        for path in paths:
            for amount in (PLAIN, *amounts):
                key = f"{codec.model_id} {path.name} {quality:g} {amount}"
                if not any(record["key"] == key for record in journal.read()):
                    journal.append([{"key": key, **one_file(codec, read_image(path), quality, amount, clock)}])
    rows = {record["key"]: record for record in journal.read()}
    others = {encoder.name: curve(encoder, paths) for encoder in encoders}
    for amount in amounts:
        print(json.dumps(summary(codec, rows, [path.name for path in paths], arguments.qualities, amount, others)))


def one_file(codec: ImageCodec, image: LoadedImage, quality: float, amount: str, clock: Clock) -> dict[str, Any]:
    """Rate, PSNR, loss and time of one file; `excess` is its size relative to the code length of its symbols, minus 1."""
    started, processor = time.perf_counter(), time.process_time()
    steps = 0
    if amount == PLAIN:
        trial = Trial(codec, codec.latent(image.pixels), image.pixels, round(quality * QUALITY_STEPS))
        symbols, measured = trial.plain, trial.start
    else:
        found = refine_image(codec, image, RateTarget("quality", quality), Refine.of(amount), clock=clock)
        symbols, measured, steps = found.symbols, found.refined.best, found.steps
    blob = codec.write(image, symbols)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
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
        "processor_seconds": processor,
        "steps": steps,
    }


def curve(encoder: Encoder, paths: list[Path]) -> np.ndarray:
    """Mean bits per pixel and PSNR (qualities, 2) of an encoder."""
    points = []
    for image in map(read_image, paths):
        files = [encoder.encode(image, quality) for quality in encoder.qualities]
        points.append([(8 * len(file) / image.pixels[..., 0].size, psnr(encoder.decode(file), image.pixels)) for file in files])
    means: np.ndarray = np.mean(points, 0)
    return means


def summary(
    codec: ImageCodec,
    rows: dict[str, Any],
    names: list[str],
    qualities: list[float],
    amount: str,
    others: dict[str, np.ndarray],
) -> dict[str, Any]:
    def of(quality: float, amount: str) -> list[dict[str, float]]:
        return [rows[f"{codec.model_id} {name} {quality:g} {amount}"] for name in names]

    curves = {
        each: np.array([[np.mean([row[part] for row in of(q, each)]) for part in ("bpp", "psnr")] for q in qualities])
        for each in (PLAIN, amount)
    }
    pairs = [pair for q in qualities for pair in zip(of(q, PLAIN), of(q, amount), strict=True)]
    delta = bd_rate(*curves[PLAIN].T, *curves[amount].T) if len(qualities) > 1 else None
    against = {
        name: {kind: round(bd_rate(*other.T, *curves[each].T), 2) for kind, each in (("plain", PLAIN), ("refined", amount))}
        for name, other in others.items()
    }
    return {
        "model": codec.model_id,
        "refine": amount,
        "median_steps": float(np.median([refined["steps"] for _, refined in pairs])),
        "images": len(names),
        "bd_rate_percent": None if delta is None else round(delta, 2),
        "bd_rate_percent_against": against,
        "no_worse": f"{sum(refined['loss'] <= plain['loss'] for plain, refined in pairs)} of {len(pairs)}",
        "loss_saved_percent": round(100 * float(np.mean([1 - refined["loss"] / plain["loss"] for plain, refined in pairs])), 2),
        "largest_excess_percent": round(100 * max(abs(refined["excess"]) for _, refined in pairs), 3),
        "mean_excess_percent": round(100 * float(np.mean([refined["excess"] for _, refined in pairs])), 3),
        "seconds_per_image": round(float(np.median([refined["seconds"] for _, refined in pairs])), 1),
        "processor_seconds": round(float(np.median([refined["processor_seconds"] for _, refined in pairs])), 1),
        "plain": np.round(curves[PLAIN], 4).tolist(),
        "refined": np.round(curves[amount], 4).tolist(),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("gain.jsonl"))
    parser.add_argument("--steps", type=int, nargs="+", default=[])
    parser.add_argument("--seconds", type=float, nargs="+", default=[])
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--qualities", type=float, nargs="+", default=[1.0, 3.0, 5.0, 8.0])
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--model", default="image_codec_joint")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--against", nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.against and len(arguments.qualities) < 2:
        parser.error("--against needs two --qualities or more: a BD-rate is between curves")
    return arguments


if __name__ == "__main__":
    main()
