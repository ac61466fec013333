"""Time per step of latent refinement: ours compared with a reimplementation of the authors' computation.

    python benchmarks/refinement.py --threads 2 --blocks 5

Both sides refine the same image with the same weights (random, N = M = 192, the architecture of Perugachi-Diaz 2024, section
5.4.1) by the same method, two-class SSL. The reimplementation follows the authors' scripts: gradients of all weights and of the
latents, float32 layers in the default memory layout, stacked probabilities of floor and ceiling sampled by Gumbel-softmax, and
the true loss after every step. Ours: frozen weights, channels last, transforms in bfloat16 if the processor supports it, the
true loss every 20 steps (its time is included).

Blocks of steps run in alternating order; the ratio is the median over blocks of their time divided by ours. Times are not
meaningful on a busy machine, so the load average is printed too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.codes.annealing import Refine
from latens.codes.entropy import gaussian_bits
from latens.codes.goals import PEAK
from latens.codes.refine import refine
from latens.inference.device import transform_precision
from latens.systems.image_codec.config import HyperpriorConfig
from latens.systems.image_codec.model import MeanScaleHyperprior

WEIGHT = 0.01


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    image = read_image(arguments)
    torch.manual_seed(0)
    config = HyperpriorConfig(hidden=arguments.hidden, latent=arguments.latent, hyper=arguments.latent)
    ours = MeanScaleHyperprior(config).eval().to(memory_format=torch.channels_last)
    theirs = MeanScaleHyperprior(config).eval()
    theirs.load_state_dict(ours.state_dict())

    precision = transform_precision(torch.device("cpu"))
    their_run = Released(theirs, image)
    seconds: dict[str, list[float]] = {"ours": [], "released": []}
    for block in range(arguments.blocks + 1):
        for side in ("ours", "released") if block % 2 else ("released", "ours"):
            if side == "ours":
                took = our_steps(ours, image, arguments.our_steps, getattr(torch, precision))
            else:
                took = their_run.steps(arguments.their_steps)
            if block:  # the first block warms up
                seconds[side].append(took)
    report(arguments, precision, seconds)


def our_steps(model: MeanScaleHyperprior, image: Tensor, count: int, precision: torch.dtype) -> float:
    """Seconds per step, from the end of the first step to the end of the last one, whose measurement is included."""
    ends: list[float] = []
    settings = Refine.thesis("ssl", steps=count + 1, measure_every=count + 1)
    refine(
        model,
        image,
        WEIGHT,
        settings=settings,
        precision=precision,
        on_step=lambda *_: ends.append(time.perf_counter()),
    )
    return (ends[-1] - ends[0]) / count


class Released:
    """The authors' computation, step by step (two-class SSL, a = 4/3, learning rate 0.005)."""

    def __init__(self, model: MeanScaleHyperprior, image: Tensor) -> None:
        self.model, self.image = model, image
        self.pixels = image.shape[2] * image.shape[3]
        self.quality = torch.ones(1)
        with torch.no_grad():
            y = model.scaled_latent(image, self.quality)
            z = model.hyper_analysis(y)
        self.y, self.z = y.contiguous().requires_grad_(), z.contiguous().requires_grad_()
        self.adam = torch.optim.Adam([self.y, self.z], lr=0.005)
        self.count = 0

    def steps(self, count: int) -> float:
        """Seconds per step."""
        began = time.perf_counter()
        for _ in range(count):
            tau = min(math.exp(-0.001 * self.count), 1.0)
            z_hat = sample(self.z, tau)
            mean, scale = self.model.parameters_of_y(z_hat)
            y_hat = sample(self.y - mean, tau) + mean
            loss = self.loss(y_hat, z_hat, mean, scale)
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
            with torch.no_grad():
                z_hat = self.z.round()
                mean, scale = self.model.parameters_of_y(z_hat)
                float(self.loss((self.y - mean).round() + mean, z_hat, mean, scale))
            self.count += 1
        return (time.perf_counter() - began) / count

    def loss(self, y_hat: Tensor, z_hat: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        bits = gaussian_bits(y_hat - mean, scale).sum() + self.model.prior.bits(z_hat).sum()
        mse = F.mse_loss(self.model.reconstruct(y_hat, self.quality), self.image)
        return bits / self.pixels + WEIGHT * PEAK * mse


def sample(v: Tensor, tau: float) -> Tensor:
    floor, ceiling = v.floor(), v.ceil()
    distances = torch.stack([v - floor, ceiling - v], dim=-1).clamp(1e-5, 1 - 1e-5)
    log_probability = F.logsigmoid(-4 / 3 * torch.logit(distances))
    weights = F.gumbel_softmax(log_probability / tau, tau=tau, dim=-1)
    return (torch.stack([floor, ceiling], dim=-1) * weights).sum(dim=-1)


def read_image(arguments: argparse.Namespace) -> Tensor:
    """(1, 3, H, W) in [0, 1], cropped to multiples of 64."""
    if arguments.image:
        from PIL import Image

        pixels = np.asarray(Image.open(arguments.image).convert("RGB"))
    else:
        row, column = np.arange(arguments.height)[:, None, None], np.arange(arguments.width)[None, :, None]
        slopes = 3 * row + 5 * column + 40 * np.arange(3) + row * column // 64
        pixels = (np.abs(slopes % 512 - 256) * 255 // 256).astype(np.uint8)
    height, width = (side // 64 * 64 for side in pixels.shape[:2])
    return torch.from_numpy(pixels[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255


def report(arguments: argparse.Namespace, precision: str, seconds: dict[str, list[float]]) -> None:
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["released"], strict=True)]
    found: dict[str, Any] = {
        "precision": precision,
        "ours_seconds": round(statistics.median(seconds["ours"]), 4),
        "released_seconds": round(statistics.median(seconds["released"]), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    print(f"transforms in {precision}, {arguments.threads} threads, load average {found['load_average'][0]}")
    print(f"ours      {found['ours_seconds']:8.3f} s per step")
    print(f"released  {found['released_seconds']:8.3f} s per step")
    print(f"ratio     {found['ratio']:8.2f} (blocks {found['ratios'][0]} to {found['ratios'][-1]})")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a photograph; by default a pattern of --width x --height")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=192, help="N")
    parser.add_argument("--latent", type=int, default=192, help="M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--our-steps", type=int, default=20, help="steps per block, with one measurement")
    parser.add_argument("--their-steps", type=int, default=5, help="steps per block")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
