"""Give a tuned image codec the rates of the bundled model it was trained from: move its gains along their own table.

    python benchmarks/match_rates.py RUN/best --base image_codec_context --data PHOTOS -o FOLDER

Training for another distortion than MSE moves all rates. At every quality, the gains are taken from another place of the table
(below its first row continued in steps of the mean difference of rows), where the mean logarithm of the rate of held-out crops
equals that of the base. Prints the slopes -d log(distortion) / d log(rate) too, for `objective.slopes` of further training.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latens.data.source import parse_sources
from latens.hub import load_model, save_model
from latens.systems.image_codec.config import ROUNDING_WEIGHT, CropConfig, RateDistortionConfig
from latens.systems.image_codec.context_model import ContextNetwork
from latens.systems.image_codec.dataset import CropData
from latens.systems.image_codec.objective import log_distortion, rate_and_distortion
from latens.systems.image_codec.passes import straight_through_symbols
from latens.systems.image_codec.predict import load

PLACES = (-8.0, 8.0)  # the range of places, in qualities
HALVINGS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the tuned model")
    parser.add_argument("--base", default="image_codec_context", help="name of the bundled model that it was trained from")
    parser.add_argument(
        "--data", nargs="+", required=True, help="folders of photographs; those that training holds out are used"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()

    data = CropData(parse_sources(arguments.data), replace(CropConfig(), crop=256, batch=4), seed=0)
    images = [batch["image"] for batch in data.validation()][::2]
    tuned, base = (network(each) for each in (arguments.model, arguments.base))
    latents, references = (latents_of(model, images) for model in (tuned, base))
    assert tuned.gains is not None
    tables = [tuned.gains.log_gain, tuned.gains.log_inverse]
    trained = [table.clone() for table in tables]
    for row in range(len(trained[0])):
        wanted = mean_log_rate(base, references, row + 1)
        low, high = PLACES
        for _ in range(HALVINGS):
            place = (low + high) / 2
            for table, source in zip(tables, trained, strict=True):
                table[row] = at(source, place)
            low, high = (low, place) if mean_log_rate(tuned, latents, row + 1) > wanted else (place, high)
        print(f"quality {row + 1}: place {place:.2f}", flush=True)
    print("slopes", [round(slope, 3) for slope in slopes(tuned, images)])

    found = load_model(arguments.model)
    config = {name: value for name, value in found.config.items() if name != "files"}
    moved = {"gains.log_gain": tables[0].half(), "gains.log_inverse": tables[1].half()}
    save_model(arguments.out, config, {**found.weights, **moved}, found.coding)


def network(name: str | Path) -> ContextNetwork:
    model = load(name, device="cpu").model
    assert isinstance(model, ContextNetwork)
    return model


def at(table: Tensor, place: float) -> Tensor:
    """A row of the table between rows, or before the first one; places count from 1."""
    steps = (table[-1] - table[0]).mean() / (len(table) - 1)
    if place < 1:
        return table[0] - (1 - place) * steps
    row = min(int(place - 1), len(table) - 2)
    return table[row] + (place - 1 - row) * (table[row + 1] - table[row])


@torch.no_grad()
def latents_of(model: ContextNetwork, images: list[Tensor]) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return [model.analysis(image).float() for image in images]


@torch.no_grad()
def mean_log_rate(model: ContextNetwork, latents: list[Tensor], level: int) -> float:
    """Mean logarithm of the bits of an image."""
    found = []
    for latent in latents:
        quality = torch.full((len(latent),), float(level))
        y = model.at_quality(latent, quality)
        z_hat = model.rounded_z(y)
        coded = model.code(y, z_hat, quality, straight_through_symbols)
        found.append(float((coded.bits().sum() + model.prior.bits(z_hat).sum()).log()))
    return float(np.mean(found))


@torch.no_grad()
def slopes(model: ContextNetwork, images: list[Tensor]) -> list[float]:
    share = RateDistortionConfig().coarse_share
    rows = []
    for level in range(1, len(model.config.lambdas) + 1):
        logs = []
        for image in images:
            with torch.autocast("cpu", torch.bfloat16):
                coded = model.rounded(image, torch.full((len(image),), float(level)), rate_weight=ROUNDING_WEIGHT)
            bpp, _ = rate_and_distortion(coded, image)
            logs.append([float(bpp.log().mean()), float(log_distortion(coded.image, image, share).total.mean())])
        rows.append(np.mean(logs, 0))
    rates, distortions = np.array(rows).T
    return list(map(float, -np.gradient(distortions) / np.gradient(rates)))


if __name__ == "__main__":
    main()
