"""What the translators minimise: 002, Eqs. 2, 3 and 9 to 13, and with other weights UNIT and CycleGAN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.mmd import code_kl, code_mmd, default_bandwidth, signal_to_noise
from latens.shapes import Float
from latens.systems.haze.config import PriorConfig, TranslationLossConfig
from latens.systems.haze.layers import ImagePool
from latens.systems.haze.model import HazeTranslator, Judge, Translation
from latens.training.objective import Export, Step

Batch = dict[str, Tensor]


class TranslationObjective:
    """Batches hold "hazy" and "clear", unpaired, in [0, 1]; held-out ones also "truth", the clear picture of "hazy"."""

    optimizers: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {"discriminators": ("judges",), "generators": ("encoders", "decoders", "shared", "squeeze", "widen")}
    )

    def __init__(self, config: TranslationLossConfig) -> None:
        self.config = config

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Iterator[Step]:
        translator = cast(HazeTranslator, model)
        hazy, clear = 2 * batch["hazy"] - 1, 2 * batch["clear"] - 1
        made = translator(hazy, clear)
        fakes = {"hazy": made.hazed, "clear": made.dehazed}
        judged = sum(
            (
                self.judge_loss(translator, domain, real, fakes[domain].detach())
                for domain, real in (("hazy", hazy), ("clear", clear))
            ),
            torch.zeros((), device=hazy.device),
        )
        yield Step("discriminators", self.config.adversarial_weight * judged, {})
        terms = self.generator_terms(translator, made, hazy, clear)
        total = torch.stack(list(terms.values())).sum()
        yield Step("generators", total, {**terms, "code_snr_db": signal_to_noise(made.code_hazy)})

    def judge_loss(self, model: HazeTranslator, domain: str, real: Tensor, fake: Tensor) -> Tensor:
        judge = cast(Judge, model.judges[domain])
        if model.pools is not None:
            fake = cast(ImagePool, model.pools[domain]).exchange(fake)
        scores = [score.split((len(real), len(fake))) for score in judge(torch.cat([real, fake]))]
        return discriminator_loss([yes for yes, _ in scores], [no for _, no in scores], self.config.adversarial)

    def generator_terms(self, model: HazeTranslator, made: Translation, hazy: Tensor, clear: Tensor) -> dict[str, Tensor]:
        """The terms of Eq. 13 that the generators have a hand in, weighted, by name."""
        loss, distance = self.config, self.distance
        terms: dict[str, Tensor] = {}
        with frozen(model.judges):
            terms["adversarial"] = loss.adversarial_weight * (
                generator_loss(model.judges["hazy"](made.hazed), loss.adversarial)
                + generator_loss(model.judges["clear"](made.dehazed), loss.adversarial)
            )
        if model.variational:
            terms["reconstruction"] = loss.reconstruction_weight * (
                distance(made.hazy_again, hazy) + distance(made.clear_again, clear)
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
            terms["prior"] = loss.prior.weight * ((2 if loss.prior.twice else 1) * first + again)
        return terms

    def distance(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """-log p up to a constant: of a Laplace (mean absolute) or a Gaussian (mean squared difference)."""
        difference = a.float() - b
        return difference.abs().mean() if self.config.distance == "l1" else difference.square().mean()

    def validate(self, model: HazeTranslator, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR in both directions where the truth is known, otherwise the cycle's."""
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

    def pictures(self, model: HazeTranslator, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        hazy = batches[0]["hazy"][:1]
        clear = batches[0].get("truth", batches[0]["clear"])[:1]
        views = [hazy, model.translate(hazy, "clear"), clear, model.translate(clear, "hazy")]
        return {"hazy_dehazed_clear_hazed": side_by_side(views)}

    def export(self, model: HazeTranslator, batches: Sequence[Batch]) -> Export:
        return Export(half_weights(model, leave_out="pools."), {}, {})


def discriminator_loss(real: list[Tensor], fake: list[Tensor], kind: str) -> Tensor:
    """Summed over scales: squares towards 1 and 0 (LSGAN), or Eqs. 2 and 3 with the scores as logits, to be minimised."""
    total = []
    for yes, no in zip(real, fake, strict=True):
        if kind == "log":
            total.append(F.softplus(-yes.float()).mean() + F.softplus(no.float()).mean())
        else:
            total.append((yes.float() - 1).square().mean() + no.float().square().mean())
    return torch.stack(total).sum()


def generator_loss(fake: list[Tensor], kind: str) -> Tensor:
    """Scores of fakes towards real; for the log loss the form that does not saturate, -log D."""
    if kind == "log":
        return torch.stack([F.softplus(-no.float()).mean() for no in fake]).sum()
    return torch.stack([(no.float() - 1).square().mean() for no in fake]).sum()


def prior_term(mean: Float[Tensor, "B C h w"], config: PriorConfig) -> Float[Tensor, ""]:
    """Distance of codes from N(0, 1): Eq. 8, or UNIT's."""
    code = mean + torch.randn_like(mean) if config.sampled else mean
    if config.kind == "kl":
        return code_kl(code)
    sigma = config.bandwidth or default_bandwidth(mean.shape[1])
    return code_mmd(code, positions=config.positions, bandwidths=[factor * sigma for factor in config.kernels])


@contextmanager
def frozen(part: nn.Module) -> Iterator[None]:
    """Inside, gradients pass through the module but are not computed for its parameters."""
    part.requires_grad_(False)
    try:
        yield
    finally:
        part.requires_grad_(True)


def psnr(a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> float:
    """Mean over pictures, in dB, RGB with peak 1."""
    error = (a.detach().float() - b.detach().float()).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())


def side_by_side(views: Sequence[Float[Tensor, "1 3 H W"]]) -> np.ndarray:
    height = min(view.shape[2] for view in views)
    row = torch.cat([view[:, :, :height].float().cpu() for view in views], 3)[0].clamp(0, 1).mul(255).round().byte()
    return row.permute(1, 2, 0).numpy()


def half_weights(model: nn.Module, leave_out: str = " ") -> dict[str, Tensor]:
    """The weights as they are shipped, in float16."""
    return {name: tensor.half() for name, tensor in model.state_dict().items() if not name.startswith(leave_out)}
