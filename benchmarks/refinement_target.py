"""How nearly refinement meets a rate or a PSNR that is asked for: from the one-model codec, and from three fixed qualities.

    python benchmarks/refinement_target.py PICTURES [--steps 300] [--count 3] [--model NAME|FOLDER] [--threads 2]

Three fixed qualities stand for three plain models of one rate each (003, section 5.4.5): from the nearest of them
the target is met by the lambda of the refinement alone. Targets are spread over the range of the codec, rates
geometrically. Sizes are those of the files, PSNR is measured on what is decoded from them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

import numpy as np

from latens.codes.annealing import Refine
from latens.codes.rate_target import RateTarget
from latens.data.images import LoadedImage, read_image
from latens.errors import UsageError
from latens.metrics.image import psnr
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.predict import ImageCodec, load
from latens.systems.image_codec.refinement import Trials, meet_target

Kind = Literal["bpp", "psnr"]
THREE = (2.0, 4.5, 7.0)
TARGETS = 6


class FixedTrials(Trials):
    """A choice of three qualities only."""

    def nearest(self, value: float) -> int:
        qualities = [round(quality * QUALITY_STEPS) for quality in THREE]
        return min(qualities, key=lambda quality: abs(np.log(self.measure(quality) / value)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--model", default="image_codec")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    codec = load(arguments.model, device="cpu", threads=arguments.threads)
    images = [read_image(path) for path in sorted(arguments.images.glob("*.png"))[: arguments.count]]
    kinds: tuple[Kind, ...] = ("bpp", "psnr")
    for kind in kinds:
        for name, trials in (("one model", Trials), ("three qualities", FixedTrials)):
            misses = [miss for image in images for miss in misses_of(codec, image, kind, trials, arguments.steps)]
            known = [miss for miss in misses if miss is not None]
            print(
                json.dumps(
                    {
                        "target": kind,
                        "from": name,
                        "steps": arguments.steps,
                        "within_2_percent": f"{sum(abs(miss) <= 0.02 for miss in known)} of {len(misses)}",
                        "out_of_reach": len(misses) - len(known),
                        "worst_percent": round(100 * max(map(abs, known)), 2),
                        "mean_percent": round(100 * float(np.mean(np.abs(known))), 2),
                    }
                ),
                flush=True,
            )


def misses_of(codec: ImageCodec, image: LoadedImage, kind: Kind, trials: type[Trials], steps: int) -> list[float | None]:
    """By what share each target is missed; None where the codec says that it is out of reach."""
    pixels = image.pixels[..., 0].size
    ends = []
    for quality in (1.0, codec.best_quality):
        blob = codec.compress(image, quality=quality)
        decibels = psnr(np.asarray(codec.decompress(blob)), image.pixels)
        ends.append(8 * len(blob) / pixels if kind == "bpp" else decibels)
    found: list[float | None] = []
    for target in np.geomspace(ends[0], ends[1], TARGETS) if kind == "bpp" else np.linspace(ends[0], ends[1], TARGETS):
        aim = RateTarget(kind, float(target))
        try:
            trial, refined = meet_target(trials(codec, image, codec.latent(image.pixels), aim), aim, Refine(steps=steps))
        except UsageError:
            found.append(None)
            continue
        blob = codec.write(image, trial.symbols(refined.best))
        decibels = psnr(np.asarray(codec.decompress(blob)), image.pixels)
        found.append((8 * len(blob) / pixels if kind == "bpp" else decibels) / float(target) - 1)
    return found


if __name__ == "__main__":
    main()
