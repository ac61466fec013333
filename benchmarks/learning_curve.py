"""Held-out loss of a training run against the pixels it has seen, and the gain expected from ten times as many.

    python benchmarks/learning_curve.py runs/codec

The loss is log(bits per pixel + lambda * 255^2 * MSE), averaged over the rates, so a difference of -0.01 is about -1 % of the
rate. The curve limit + scale * pixels^-exponent is fitted to the second half of the validations, with the exponent of a
published training log (0.55) or, with --free, one that fits best.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

EXPONENT = 0.55
EXPONENTS = np.linspace(0.1, 1.5, 57)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--free", action="store_true", help="fit the exponent as well")
    arguments = parser.parse_args()
    pixels, losses = held_out(arguments.run)
    for seen, loss in zip(pixels, losses, strict=True):
        print(f"{seen / 1e9:9.3f} Gpx  {loss:.5f}")
    if len(losses) < 4:
        parser.error(f"a fit needs four validations, the run has {len(losses)}")
    half = len(losses) // 2
    exponents = EXPONENTS if arguments.free else np.array([EXPONENT])
    exponent, limit, scale = fitted(pixels[half:], losses[half:], exponents)
    later = limit + scale * (10 * pixels[-1]) ** -exponent
    print(f"fit: {limit:.4f} + {scale:.4g} * pixels^-{exponent:.2f}")
    print(f"ten times as many pixels: {later:.4f}, {100 * (later - losses[-1]):+.1f} % of the rate")


def held_out(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels seen and held-out loss at every validation of a run."""
    data = json.loads((run / "config.json").read_text())["data"]
    per_step = data["batch"] * data["crop"] ** 2
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["loss"] for line in lines if line["kind"] == "validation"}  # a repeated step counts once
    return np.array([step * per_step for step in found], dtype=np.float64), np.array(list(found.values()))


def fitted(pixels: np.ndarray, losses: np.ndarray, exponents: np.ndarray) -> tuple[float, float, float]:
    """Exponent, limit and scale of the least squares fit."""
    best = (np.inf, 0.0, 0.0, 0.0)
    for exponent in exponents:
        design = np.stack([np.ones_like(pixels), pixels**-exponent], axis=1)
        (limit, scale), *_ = np.linalg.lstsq(design, losses, rcond=None)
        error = float(np.square(design @ (limit, scale) - losses).sum())
        best = min(best, (error, float(exponent), float(limit), float(scale)))
    return best[1:]


if __name__ == "__main__":
    main()
