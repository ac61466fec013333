"""Cost of exact integers: BD-rate of the frozen coding against the real-valued model from which it was made.

    python benchmarks/integer_cost.py IMAGES [--model NAME|FOLDER] [--count 6]

Both quantize the same latents with the same rounding. The bits of the real-valued model come from its float32 likelihoods,
those of the frozen coding from its integer tables (the bits of files without headers). Prints JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from latens.codes.coding import LatentParameters
from latens.codes.entropy import gaussian_bits, round_for_rate
from latens.data.images import read_image
from latens.metrics.image import psnr
from latens.metrics.rate import bd_rate
from latens.systems.image_codec.bands import Symbols
from latens.systems.image_codec.config import ROUNDING_WEIGHT
from latens.systems.image_codec.format import QUALITY_STEPS
from latens.systems.image_codec.predict import ImageCodec, load


class Point(NamedTuple):
    bpp: float
    psnr: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default="image_codec")
    parser.add_argument("--count", type=int, default=6)
    arguments = parser.parse_args()
    codec = load(arguments.model, device="cpu")
    paths = sorted(arguments.images.glob("*.png"))[: arguments.count]
    images = [read_image(path).pixels for path in paths]
    latents = [codec.latent(pixels) for pixels in images]
    curves: dict[str, list[Point]] = {"real": [], "integer": []}
    for quality in range(1, int(codec.best_quality) + 1):
        pairs = list(zip(images, latents, strict=True))
        curves["real"].append(mean([real_point(codec, *pair, quality) for pair in pairs]))
        curves["integer"].append(mean([integer_point(codec, *pair, quality) for pair in pairs]))
    real, integer = (np.array(curves[name]).T for name in ("real", "integer"))
    delta = bd_rate(real[0], real[1], integer[0], integer[1])
    print(json.dumps({"images": len(paths), "bd_rate_percent": delta, "curves": curves}))


def mean(points: list[Point]) -> Point:
    return Point(*np.array(points).mean(axis=0).tolist())


@torch.no_grad()
def real_point(codec: ImageCodec, pixels: np.ndarray, latent: torch.Tensor, quality: float) -> Point:
    """The trained model: float32 hyper-synthesis, likelihoods with its own scales."""
    model = codec.model
    scaled = latent if model.gains is None else latent * model.gains.forward_gain(torch.tensor([float(quality)]))
    medians = model.prior.medians()[:, None, None]
    z_hat = (model.hyper_analysis(scaled) - medians).round() + medians
    mean_y, scale = model.parameters_of_y(z_hat)
    y = round_for_rate(scaled - mean_y, scale.clamp_min(0.11), ROUNDING_WEIGHT)
    bits = float(gaussian_bits(y, scale).sum() + model.prior.bits(z_hat).sum())
    stand_in = Symbols(z_hat.long(), y.long(), LatentParameters(mean_y, scale.long()), round(quality * QUALITY_STEPS))
    return Point(bits / pixels[..., 0].size, psnr(codec.reconstruct(stand_in, pixels.shape), pixels))


@torch.no_grad()
def integer_point(codec: ImageCodec, pixels: np.ndarray, latent: torch.Tensor, quality: float) -> Point:
    """The frozen coding, as in files."""
    coding = codec.coding
    symbols = codec.quantize(latent, round(quality * QUALITY_STEPS))
    bits = sum(coding.code_length(symbols.y, symbols.parameters.level, symbols.z))
    return Point(bits / pixels[..., 0].size, psnr(codec.reconstruct(symbols, pixels.shape), pixels))


if __name__ == "__main__":
    main()
