"""What the physical head minimises: scenes whose depth and weather are known, hazed by Eq. 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latens.codes.mmd import signal_to_noise
from latens.shapes import Float
from latens.systems.haze.config import PhysicalLossConfig
from latens.systems.haze.formation import MEAN_AIRLIGHT, MEAN_BETA, add_haze, remove_haze, transmission
from latens.systems.haze.objective import Batch, half_weights, prior_term, psnr, side_by_side
from latens.systems.haze.physical import PhysicalHaze, Reading
from latens.training.objective import Export, Step

TRAINING_FLOOR = 0.05
# Deviations of airlight and log beta in 002, section 4.1.1: squares in their units find the weather in half as many steps as
# absolute differences, whose gradient at the start is all noise.
AIRLIGHT_SPREAD, BETA_SPREAD = 0.058, 0.2


class Composed(NamedTuple):
    """Pictures that follow from a reading by Eq. 1."""

    t: Float[Tensor, "B 1 H W"]
    clear: Float[Tensor, "B 3 H W"]
    hazy: Float[Tensor, "B 3 H W"]


class PhysicalObjective:
    """Batches hold "hazy", "truth", "depth" (relative, in [0, 1]), "airlight" and "beta"."""

    optimizers: Mapping[str, tuple[str, ...]] = MappingProxyType({"model": ("",)})

    def __init__(self, config: PhysicalLossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Iterator[Step]:
        reading = model(batch["hazy"], batch["truth"])
        terms = self.terms(reading, batch)
        total = torch.stack(list(terms.values())).sum()
        yield Step("model", total, {**terms, "code_snr_db": signal_to_noise(reading.code_hazy.whole)})

    def terms(self, reading: Reading, batch: Batch) -> dict[str, Tensor]:
        """All terms, weighted, by name."""
        weight = self.config
        t = transmission(batch["depth"], batch["beta"])
        made = compose(reading, batch["hazy"], batch["truth"], batch["airlight"], batch["beta"])
        terms = {
            "clear": weight.clear_weight * (made.clear - batch["truth"]).abs().mean(),
            "transmission": weight.transmission_weight * (made.t - t).abs().mean(),
            "synthesis": weight.synthesis_weight * (made.hazy - batch["hazy"]).abs().mean(),
            "weather": weight.weather_weight
            * (
                ((reading.airlight - batch["airlight"]) / AIRLIGHT_SPREAD).square().mean()
                + ((reading.beta / batch["beta"]).log() / BETA_SPREAD).square().mean()
            ),
            "depth": weight.depth_weight
            * ((reading.depth_hazy - batch["depth"]).abs().mean() + (reading.depth_clear - batch["depth"]).abs().mean()),
        }
        codes = zip(reading.code_hazy[:4], reading.code_clear[:4], strict=True)
        terms["code"] = weight.code_weight * torch.stack([(a.float() - b.float()).abs().mean() for a, b in codes]).mean()
        if weight.prior.kind != "none":
            whole = torch.cat([reading.code_hazy.whole, reading.code_clear.whole])
            terms["prior"] = weight.prior.weight * prior_term(whole, weight.prior)
        return terms

    def validate(self, model: PhysicalHaze, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR of both directions; the synthesis knows neither airlight nor beta and takes their means."""
        dehaze, haze = [], []
        for batch in batches:
            made = compose(model(batch["hazy"], batch["truth"]), batch["hazy"], batch["truth"], *mean_weather(batch))
            dehaze.append(psnr(made.clear.clamp(0, 1), batch["truth"]))
            haze.append(psnr(made.hazy, batch["hazy"]))
        means = {"dehaze_psnr": sum(dehaze) / len(dehaze), "haze_psnr": sum(haze) / len(haze)}
        return {"loss": -sum(means.values()) / 2, **means}

    def pictures(self, model: PhysicalHaze, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        one = {name: tensor[:1] for name, tensor in batches[0].items()}
        reading = model(one["hazy"], one["truth"])
        made = compose(reading, one["hazy"], one["truth"], *mean_weather(one))
        grey = [values.expand(-1, 3, -1, -1) for values in (made.t, transmission(one["depth"], one["beta"]))]
        return {"hazy_dehazed_clear_hazed_t_truth": side_by_side([one["hazy"], made.clear, one["truth"], made.hazy, *grey])}

    def export(self, model: PhysicalHaze, batches: Sequence[Batch]) -> Export:
        return Export(half_weights(model), {}, {})


def compose(reading: Reading, hazy: Tensor, clear: Tensor, airlight: Tensor, beta: Tensor) -> Composed:
    """The clear picture by the weather that was read, and the hazy one by the weather that is given."""
    t = transmission(reading.depth_hazy, reading.beta)
    return Composed(
        t,
        remove_haze(hazy, t, reading.airlight, floor=TRAINING_FLOOR),
        add_haze(clear, transmission(reading.depth_clear, beta), airlight),
    )


def mean_weather(batch: Batch) -> tuple[Tensor, Tensor]:
    count = len(batch["hazy"])
    return batch["hazy"].new_full((count, 3), MEAN_AIRLIGHT), batch["hazy"].new_full((count,), MEAN_BETA)
