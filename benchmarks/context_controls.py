"""What each part of the context model of the image codec is worth: BD-rates of models that are fitted with parts of it.

    python benchmarks/context_controls.py kodim01.png kodim05.png ... --data PHOTOS --crops 720 --steps 700

The transforms and the hyperprior are those of `image_codec`, frozen. Every row fits more modules than the row above it, for the
same number of steps on the same latents; modules that are not fitted stay at their start, where they change nothing. Rates are
code lengths of floating-point models at qualities 1 to 8, z included: under Gaussian tables, and under tables of the symbols of
the training crops. The anchor is the base with Gaussian tables; the deviation is that of the mean over the images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.catalogue import folder_of, recipe_of
from latens.codes.coder import ideal_bits
from latens.codes.coding import LEVELS, scales
from latens.codes.context import level_of
from latens.codes.context_freeze import SymbolCounts
from latens.codes.tables import SymbolTables, gaussian_tables
from latens.data.images import read_image
from latens.data.source import parse_sources
from latens.data.tensors import pad_to_multiple, to_pixels, to_tensor
from latens.hub import load_model
from latens.inference.page import Table
from latens.metrics.image import psnr
from latens.metrics.rate import bd_rate
from latens.systems.image_codec.config import HYPER_STRIDE, ContextHyperpriorConfig
from latens.systems.image_codec.context_hyperprior import ContextHyperprior, freeze_hyperprior
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.stages import encoder_rounding

PARTS = ("context.rate_levels", "features", "context.mean_filters", "context.gates", "context.level_filters", "context.slices")
ROWS: Mapping[str, int] = {  # number of PARTS that are fitted
    "base": 0,
    "level per channel and rate (control without context)": 1,
    "and a gated context for the mean": 4,
    "and a context for the level": 5,
    "and strong channels before the others (bundled)": 6,
}
BATCH, QUALITIES = 8, range(1, 9)


class Coded(NamedTuple):
    """Bits and PSNR of one image at one quality."""

    gaussian: float
    counted: float
    psnr: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--data", nargs="+", required=True, help="folders of training photographs")
    parser.add_argument("--crops", type=int, default=720, help="crops of 256 x 256 whose latents are fitted and counted")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = recipe_of("image_codec", "fit_context")
    base = load_model(folder_of("image_codec")).weights
    data = CropData(parse_sources(given.data), replace(config.data, batch=4), seed=0)
    latents = latents_of(started(config.model, base), data, given.crops)
    pixels = [read_image(path).pixels for path in given.images]
    rows, anchor = [], None
    for name, count in ROWS.items():
        model = started(config.model, base)
        fit(model, latents, PARTS[:count], given.steps)
        measured = measure(model, latents, pixels)
        anchor = anchor or measured
        cells = [spread(anchor, measured, kind) for kind in ("gaussian", "counted")]
        rows.append([name, *cells])
        print(" | ".join(rows[-1]), flush=True)
    print(Table(["entropy model", "Gaussian tables", "tables of counted symbols"], rows, "BD-rate in percent.").text())


def started(model: ContextHyperpriorConfig, base: Mapping[str, Tensor]) -> ContextHyperprior:
    """The base with a context model at its start."""
    torch.manual_seed(0)
    made = ContextHyperprior(model)
    made.load_state_dict({**made.state_dict(), **{name: value.float() for name, value in base.items()}})
    freeze_hyperprior(made)
    return made.eval()


@torch.no_grad()
def latents_of(model: ContextHyperprior, data: CropData, crops: int) -> Tensor:
    return torch.cat([model.analysis(data.batch(step, 0)["image"]).half() for step in range(-(-crops // 4))])[:crops]


def fit(model: ContextHyperprior, latents: Tensor, parts: Sequence[str], steps: int) -> None:
    """Minimize the mean logarithm of the rate by Adam, with a decay over the last 70 % of the steps."""
    fitted = [value for name, value in model.named_parameters() if name.startswith(tuple(parts))] if parts else []
    if not fitted:
        return
    optimizer = torch.optim.Adam(fitted, lr=3e-3)
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20, (steps - step) / (0.7 * steps))
        chosen = torch.randint(len(latents), (BATCH,), generator=draw)
        quality = 1 + 7 * torch.rand(BATCH, generator=draw)
        with torch.no_grad():
            y = model.at_quality(latents[chosen].float(), quality)
            z_hat = model.rounded_z(y)
            bits_z = model.prior.bits(z_hat).sum((1, 2, 3))
        bits = model.code(y, z_hat, quality, straight_through).bits().sum((1, 2, 3)) + bits_z
        optimizer.zero_grad()
        bits.log().mean().backward()
        optimizer.step()


def straight_through(residual: Tensor, scale: Tensor) -> Tensor:
    symbols = encoder_rounding(residual.detach(), scale.detach())
    return residual + (symbols - residual).detach()


@torch.no_grad()
def measure(model: ContextHyperprior, latents: Tensor, images: Sequence[np.ndarray]) -> list[list[Coded]]:
    """Results of every image at every quality."""
    counts = SymbolCounts()
    draw = torch.Generator().manual_seed(1)
    for part in latents.split(BATCH):
        symbols, levels, _ = coded(model, part.float(), 1 + 7 * torch.rand(len(part), generator=draw))
        counts.add(symbols, levels)
    tables = gaussian_tables(scales()), counts.tables()
    found = []
    for pixels in images:
        image = pad_to_multiple(to_tensor(pixels), HYPER_STRIDE)
        latent = model.analysis(image)
        found.append([coded_image(model, latent, pixels, float(quality), tables) for quality in QUALITIES])
    return found


def coded_image(
    model: ContextHyperprior, latent: Tensor, pixels: np.ndarray, quality: float, tables: tuple[SymbolTables, SymbolTables]
) -> Coded:
    at = torch.tensor([quality])
    symbols, levels, y_hat = coded(model, latent, at)
    bits_z = float(model.prior.bits(model.rounded_z(model.at_quality(latent, at))).sum())
    plain = symbols.flatten().numpy(), levels.flatten().numpy()
    gaussian, counted = (bits_z + ideal_bits(*plain, table) for table in tables)
    restored = to_pixels(model.reconstruct(y_hat, at)[0])[: pixels.shape[0], : pixels.shape[1]]
    return Coded(gaussian, counted, psnr(pixels, restored))


def coded(model: ContextHyperprior, latent: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols, levels of the tables, and the rounded latent."""
    y = model.at_quality(latent, quality)
    found = model.code(y, model.rounded_z(y), quality, encoder_rounding)
    levels = level_of(found.scale.log()).round().clamp(0, LEVELS - 1).long()
    return found.symbols.round().long(), levels, found.y_hat


def spread(anchor: list[list[Coded]], tested: list[list[Coded]], kind: str) -> str:
    """Mean BD-rate over the images, with its standard error."""
    rates = [
        bd_rate(
            [one.gaussian for one in before],
            [one.psnr for one in before],
            [getattr(one, kind) for one in after],
            [one.psnr for one in after],
        )
        for before, after in zip(anchor, tested, strict=True)
    ]
    return f"{np.mean(rates):+.1f} ± {np.std(rates, ddof=min(1, len(rates) - 1)) / math.sqrt(len(rates)):.1f}"


if __name__ == "__main__":
    main()
