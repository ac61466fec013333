"""Losses of the translators (Li et al. 2019, Eqs. 2, 3 and 9 to 13; UNIT; CycleGAN), the physical model and DehazeNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.mmd import code_kl, code_mmd, default_bandwidth, signal_to_noise
from latens.data.tensors import grid
from latens.shapes import Float
from latens.systems.haze.baselines.dehazenet import DehazeNet
from latens.systems.haze.config import PatchLossConfig, PhysicalLossConfig, PriorConfig, TranslationLossConfig
from latens.systems.haze.formation import MEAN_AIRLIGHT, MEAN_BETA, add_haze, remove_haze, transmission
from latens.systems.haze.layers import ImagePool
from latens.systems.haze.methods import dehazenet, refine
from latens.systems.haze.model import Discriminator, HazeTranslator, Translation
from latens.systems.haze.physical import HazePrediction, PhysicalHaze, consistency
from latens.training.objective import ONE_OPTIMIZER, Export, Group, Step

Batch = dict[str, Tensor]


class TranslationObjective:
    """Losses of a translator. Batches: unpaired "hazy" and "clear" in [0, 1]; held-out batches may have "truth" of "hazy"."""

    optimizers: Mapping[str, Sequence[Group]] = MappingProxyType(
        {
            "discriminators": (Group(("judges",)),),
            "generators": (Group(("encoders", "decoders", "shared", "squeeze", "widen")),),
        }
    )

    def __init__(self, config: TranslationLossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Iterator[Step]:
        translator = cast(HazeTranslator, model)
        hazy, clear = 2 * batch["hazy"] - 1, 2 * batch["clear"] - 1
        made = translator(hazy, clear)
        fakes = {"hazy": made.hazed, "clear": made.dehazed}
        discriminator_total = sum(
            (
                self.discriminator_terms(translator, domain, real, fakes[domain].detach())
                for domain, real in (("hazy", hazy), ("clear", clear))
            ),
            torch.zeros((), device=hazy.device),
        )
        yield Step("discriminators", self.config.adversarial_weight * discriminator_total, {})
        terms = self.generator_terms(translator, made, hazy, clear)
        total = torch.stack(list(terms.values())).sum()
        yield Step("generators", total, {**terms, "code_snr_db": signal_to_noise(made.code_hazy)})

    def discriminator_terms(self, model: HazeTranslator, domain: str, real: Tensor, fake: Tensor) -> Tensor:
        discriminator = cast(Discriminator, model.judges[domain])
        if model.pools is not None:
            fake = cast(ImagePool, model.pools[domain]).exchange(fake)
        scores = [score.split((len(real), len(fake))) for score in discriminator(torch.cat([real, fake]))]
        return discriminator_loss(
            [on_real for on_real, _ in scores], [on_fake for _, on_fake in scores], self.config.adversarial
        )

    def generator_terms(self, model: HazeTranslator, made: Translation, hazy: Tensor, clear: Tensor) -> dict[str, Tensor]:
        """The weighted generator terms of Eq. 13 by name."""
        loss, distance = self.config, self.distance
        terms: dict[str, Tensor] = {}
        with frozen(model.judges):
            terms["adversarial"] = loss.adversarial_weight * (
                generator_loss(model.judges["hazy"](made.hazed), loss.adversarial)
                + generator_loss(model.judges["clear"](made.dehazed), loss.adversarial)
            )
        if model.variational:
            terms["reconstruction"] = loss.reconstruction_weight * (
                distance(made.hazy_reconstruction, hazy) + distance(made.clear_reconstruction, clear)
            )
        terms["cycle"] = loss.cycle_weight * (distance(made.hazy_cycle, hazy) + distance(made.clear_cycle, clear))
        if loss.identity_weight:
            terms["identity"] = loss.identity_weight * (
                distance(model.decode(model.encode(clear, "hazy"), "clear"), clear)
                + distance(model.decode(model.encode(hazy, "clear"), "hazy"), hazy)
            )
        if loss.prior.kind != "none" and model.variational:
            first = prior_term(made.code_hazy, loss.prior) + prior_term(made.code_clear, loss.prior)
            again = prior_term(made.code_dehazed, loss.prior) + prior_term(made.code_hazed, loss.prior)
            terms["prior"] = loss.prior.weight * ((2 if loss.prior.double_first_prior_term else 1) * first + again)
        return terms

    def distance(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """-log p up to a constant, of a Laplace (mean absolute error) or a Gaussian distribution (mean squared error)."""
        difference = a.float() - b
        return difference.abs().mean() if self.config.distance == "l1" else difference.square().mean()

    def validate(self, model: HazeTranslator, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR of both directions if the truth is known, else of the cycle."""
        scores: dict[str, list[float]] = {}
        for batch in batches:
            dehazed = model.translate(batch["hazy"], "clear")
            if "truth" in batch:
                found = {"dehaze_psnr": psnr(dehazed, batch["truth"])}
                found["haze_psnr"] = psnr(model.translate(batch["truth"], "hazy"), batch["hazy"])
            else:
                found = {"cycle_psnr": psnr(model.translate(dehazed, "hazy"), batch["hazy"])}
            for name, value in found.items():
                scores.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in scores.items()}
        return {"loss": -sum(means.values()) / len(means), **means}

    def images(self, model: HazeTranslator, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        hazy = batches[0]["hazy"][:1]
        clear = batches[0].get("truth", batches[0]["clear"])[:1]
        views = [hazy, model.translate(hazy, "clear"), clear, model.translate(clear, "hazy")]
        return {"hazy_dehazed_clear_hazed": grid([[view[0] for view in views]])}

    def export(self, model: HazeTranslator, batches: Sequence[Batch]) -> Export:
        return Export(half_weights(model, leave_out="pools."), {}, {})


def discriminator_loss(real: list[Tensor], fake: list[Tensor], kind: str) -> Tensor:
    """Discriminator loss summed over scales: least squares with targets 1 and 0 (LSGAN), or minus Eqs. 2 and 3 (logits)."""
    total = []
    for on_real, on_fake in zip(real, fake, strict=True):
        if kind == "log":
            total.append(F.softplus(-on_real.float()).mean() + F.softplus(on_fake.float()).mean())
        else:
            total.append((on_real.float() - 1).square().mean() + on_fake.float().square().mean())
    return torch.stack(total).sum()


def generator_loss(fake: list[Tensor], kind: str) -> Tensor:
    """Generator loss summed over scales: least squares with target 1, or the non-saturating -log D."""
    if kind == "log":
        return torch.stack([F.softplus(-score.float()).mean() for score in fake]).sum()
    return torch.stack([(score.float() - 1).square().mean() for score in fake]).sum()


def prior_term(mean: Float[Tensor, "B C h w"], config: PriorConfig) -> Float[Tensor, ""]:
    """Distance of codes from N(0, 1): the MMD of Eq. 8, or the KL divergence of UNIT."""
    code = mean + torch.randn_like(mean) if config.sampled else mean
    if config.kind == "kl":
        return code_kl(code)
    sigma = config.bandwidth or default_bandwidth(mean.shape[1])
    return code_mmd(code, positions=config.positions, bandwidths=[factor * sigma for factor in config.kernels])


@contextmanager
def frozen(part: nn.Module) -> Iterator[None]:
    """Context in which gradients pass through the module but are not computed for its parameters."""
    part.requires_grad_(False)
    try:
        yield
    finally:
        part.requires_grad_(True)


def psnr(a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> float:
    """Mean PSNR over images in dB, for RGB in [0, 1]."""
    error = (a.detach().float() - b.detach().float()).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


def half_weights(model: nn.Module, leave_out: str = " ") -> dict[str, Tensor]:
    """The weights of a model folder, in float16; names that start with `leave_out` are dropped."""
    return {name: tensor.half() for name, tensor in model.state_dict().items() if not name.startswith(leave_out)}


# ------------------------------------------------------------------------------------------------------ physical head

TRAINING_FLOOR = 0.05  # lower bound of t in `remove_haze` during training
# Standard deviations of airlight and log beta (section 4.1.1). Squared errors in these units converge in half as many steps as
# absolute errors, whose gradients are noisy at the start.
AIRLIGHT_SPREAD, BETA_SPREAD = 0.058, 0.2


class Composed(NamedTuple):
    """Images computed from a prediction by Eq. 1."""

    t: Float[Tensor, "B 1 H W"]
    clear: Float[Tensor, "B 3 H W"]
    hazy: Float[Tensor, "B 3 H W"]


class PhysicalObjective:
    """Losses of the physical model. Batches hold "hazy", "truth", "depth" (relative, in [0, 1]), "airlight" and "beta"."""

    optimizers: Mapping[str, Sequence[Group]] = ONE_OPTIMIZER

    def __init__(self, config: PhysicalLossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Iterator[Step]:
        prediction = model(batch["hazy"], batch["truth"])
        terms = self.terms(prediction, batch)
        if self.config.consistency_weight:
            terms["consistency"] = self.config.consistency_weight * consistency(
                cast(PhysicalHaze, model), batch["hazy"], prediction
            )
        total = torch.stack(list(terms.values())).sum()
        yield Step("model", total, {**terms, "code_snr_db": signal_to_noise(prediction.code_hazy.whole)})

    def terms(self, prediction: HazePrediction, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms by name."""
        weight = self.config
        t = transmission(batch["depth"], batch["beta"])
        made = compose(prediction, batch["hazy"], batch["truth"], batch["airlight"], batch["beta"])
        terms = {
            "clear": weight.clear_weight * (made.clear - batch["truth"]).abs().mean(),
            "transmission": weight.transmission_weight * (made.t - t).abs().mean(),
            "synthesis": weight.synthesis_weight * (made.hazy - batch["hazy"]).abs().mean(),
            "haze_parameters": weight.parameters_weight
            * (
                ((prediction.airlight - batch["airlight"]) / AIRLIGHT_SPREAD).square().mean()
                + ((prediction.beta / batch["beta"]).log() / BETA_SPREAD).square().mean()
            ),
            "depth": weight.depth_weight
            * ((prediction.depth_hazy - batch["depth"]).abs().mean() + (prediction.depth_clear - batch["depth"]).abs().mean()),
        }
        codes = zip(prediction.code_hazy[:4], prediction.code_clear[:4], strict=True)
        terms["code"] = weight.code_weight * torch.stack([(a.float() - b.float()).abs().mean() for a, b in codes]).mean()
        if weight.prior.kind != "none":
            whole = torch.cat([prediction.code_hazy.whole, prediction.code_clear.whole])
            terms["prior"] = weight.prior.weight * prior_term(whole, weight.prior)
        return terms

    def validate(self, model: PhysicalHaze, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR of both directions. Synthesis uses mean airlight and beta, because the true ones are unknown."""
        dehaze, haze = [], []
        for batch in batches:
            made = compose(model(batch["hazy"], batch["truth"]), batch["hazy"], batch["truth"], *mean_parameters(batch))
            dehaze.append(psnr(made.clear.clamp(0, 1), batch["truth"]))
            haze.append(psnr(made.hazy, batch["hazy"]))
        means = {"dehaze_psnr": sum(dehaze) / len(dehaze), "haze_psnr": sum(haze) / len(haze)}
        return {"loss": -sum(means.values()) / 2, **means}

    def images(self, model: PhysicalHaze, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        one = {name: tensor[:1] for name, tensor in batches[0].items()}
        prediction = model(one["hazy"], one["truth"])
        made = compose(prediction, one["hazy"], one["truth"], *mean_parameters(one))
        gray = [values.expand(-1, 3, -1, -1) for values in (made.t, transmission(one["depth"], one["beta"]))]
        views = [one["hazy"], made.clear, one["truth"], made.hazy, *gray]
        return {"hazy_dehazed_clear_hazed_t_truth": grid([[view[0] for view in views]])}

    def export(self, model: PhysicalHaze, batches: Sequence[Batch]) -> Export:
        return Export(half_weights(model), {}, {})


def compose(prediction: HazePrediction, hazy: Tensor, clear: Tensor, airlight: Tensor, beta: Tensor) -> Composed:
    """The clear image from the predicted haze parameters, and the hazy image from the given ones."""
    t = transmission(prediction.depth_hazy, prediction.beta)
    return Composed(
        t,
        remove_haze(hazy, t, prediction.airlight, floor=TRAINING_FLOOR),
        add_haze(clear, transmission(prediction.depth_clear, beta), airlight),
    )


def mean_parameters(batch: Batch) -> tuple[Tensor, Tensor]:
    count = len(batch["hazy"])
    return batch["hazy"].new_full((count, 3), MEAN_AIRLIGHT), batch["hazy"].new_full((count,), MEAN_BETA)


# ---------------------------------------------------------------------------------------------------------- DehazeNet


class PatchObjective:
    """Squared error of t on "patches" (B, 3, 16, 16) of clear images, each hazed with one t ~ U(0, 1) and white airlight."""

    optimizers: Mapping[str, Sequence[Group]] = ONE_OPTIMIZER

    def __init__(self, config: PatchLossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Iterator[Step]:
        patches = batch["patches"]
        t = torch.rand(len(patches), 1, 1, 1, device=patches.device)
        airlight = patches.new_full((len(patches), 3), self.config.airlight)
        found = model(add_haze(patches, t, airlight)).float()
        # The bounded ReLU has no gradient outside [0, 1], so the loss is applied before it.
        yield Step("model", (found - t).square().mean(), {})

    def validate(self, model: DehazeNet, batches: Sequence[Batch]) -> dict[str, float]:
        values = [
            psnr(refine(dehazenet(batch["hazy"], model), batch["hazy"]).clear(batch["hazy"]), batch["truth"])
            for batch in batches
        ]
        return {"loss": -sum(values) / len(values), "dehaze_psnr": sum(values) / len(values)}

    def images(self, model: DehazeNet, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        hazy, truth = batches[0]["hazy"][:1], batches[0]["truth"][:1]
        found = refine(dehazenet(hazy, model), hazy)
        views = [hazy, found.clear(hazy), truth, found.transmission.expand(-1, 3, -1, -1)]
        return {"hazy_dehazed_clear_t": grid([[view[0] for view in views]])}

    def export(self, model: DehazeNet, batches: Sequence[Batch]) -> Export:
        return Export(half_weights(model), {}, {})
