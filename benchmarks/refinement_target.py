"""Accuracy of rate targets and PSNR targets with refinement, for the variable-rate codec and for three fixed qualities.

    python benchmarks/refinement_target.py IMAGES [--steps 300] [--count 3] [--model NAME|FOLDER] [--threads 2]

Three fixed qualities imitate three single-rate models (Perugachi-Diaz 2024, section 5.4.5): refinement starts from the nearest
of them and reaches the target only by its lambda. Targets cover the range of the codec, with rates spaced geometrically. Sizes
are those of the files; PSNR is that of the decoded images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from latens.codes.annealing import Refine
from latens.codes.rate_target import RateTarget
from latens.data.images import LoadedImage, read_image
from latens.errors import UsageError
from latens.metrics.image import psnr
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.predict import ImageCodec, load
from latens.systems.image_codec.refinement import Trials, meet_target

THREE = (2.0, 4.5, 7.0)
TARGETS = 6


class FixedTrials(Trials):
    """Trials at three qualities only."""

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
    for kind in ("bpp", "psnr"):
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


def misses_of(codec: ImageCodec, image: LoadedImage, kind: str, trials: type[Trials], steps: int) -> list[float | None]:
    """Relative error of each target; None if the codec reports that it is out of reach."""
    pixels = image.pixels[..., 0].size
    ends = []
    for quality in (1.0, codec.best_quality):
        blob = codec.compress(image, quality=quality)
        decibels = psnr(np.asarray(codec.decompress(blob)), image.pixels)
        ends.append(8 * len(blob) / pixels if kind == "bpp" else decibels)
    found: list[float | None] = []
    for target in np.geomspace(*ends, TARGETS) if kind == "bpp" else np.linspace(*ends, TARGETS):
        request = RateTarget(kind, float(target))  # type: ignore[arg-type]
        try:
            refined = meet_target(trials(codec, image, codec.latent(image.pixels), request), Refine(steps=steps), None)
        except UsageError:
            found.append(None)
            continue
        blob = codec.write(image, refined.symbols)
        decibels = psnr(np.asarray(codec.decompress(blob)), image.pixels)
        found.append((8 * len(blob) / pixels if kind == "bpp" else decibels) / float(target) - 1)
    return found


if __name__ == "__main__":
    main()
