"""Loss of image codecs on crops of photographs that training holds out, as their files would have it.

    python benchmarks/held_out_loss.py image_codec_context image_codec_joint RUN/best --data PHOTOS [--count 10]

Prints the mean over the rates of the logarithm of bits per pixel + lambda * 255^2 * MSE, with the symbols of the encoder and
Gaussian probabilities in place of counted tables, and bits per pixel and PSNR of every rate.
"""

from __future__ import annotations

import argparse

import torch

from latens.data.source import parse_sources
from latens.systems.image_codec.config import CropConfig, RateDistortionConfig
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.objective import RateDistortion
from latens.systems.image_codec.predict import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names or folders of models")
    parser.add_argument("--data", nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--count", type=int, default=10, help="number of photographs")
    arguments = parser.parse_args()

    data = CropData(parse_sources(arguments.data), CropConfig(), seed=0)
    batches = data.validation()[: arguments.count]
    for name in arguments.models:
        codec = load(name, device="cpu")
        objective = RateDistortion(RateDistortionConfig(rounding="hard"), codec.lambdas)
        with torch.no_grad(), torch.autocast("cpu", dtype=codec.dtype, enabled=codec.dtype is torch.bfloat16):
            found = objective.validate(codec.model, batches)
        rates = (f"{found[f'bpp_{rate}']:.3f}/{found[f'psnr_{rate}']:.2f}" for rate in range(1, len(codec.lambdas) + 1))
        print(f"{name}: {found['loss']:.4f}; {' '.join(rates)}", flush=True)


if __name__ == "__main__":
    main()
