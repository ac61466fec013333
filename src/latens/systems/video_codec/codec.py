"""One autoencoder with a mean-scale hyperprior, and what the methods of 003 change in how its latent is coded.

    y --(x rate gain)--> hyper_analysis --> z --round--> hyper_synthesis --> mean, scale
                      (y - mean) / h --round--> symbols --> (symbols h + mean) (/ rate gain) = y_hat

Rates are those of noisy latents, decoders see rounded ones (mixed quantization, 003, appendix D.4), for y and z. The scale and
h lie on one logarithmic grid, that of the entropy coder's tables: coding with h = r^k takes the table k places lower. Where
scales follow the rate, the hyper-synthesis gives them for a gain of 1, and the gain of a channel moves its table likewise.

Letters: B batch, M channels of the latent y, N channels of the hyper-latent z, h w sizes of y.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.entropy import SCALE_MIN, FactorizedPrior, gaussian_bits
from latens.codes.gains import RateGains
from latens.codes.rounding import add_noise, round_straight_through
from latens.nn.init import small
from latens.nn.transforms import hyper_analysis, hyper_synthesis, paper_analysis
from latens.shapes import Bool, Float
from latens.systems.video_codec.config import CodecSize

Rounding: TypeAlias = Literal["mixed", "plain"]  # in training; in use
SCALE_RATIO = (256.0 / SCALE_MIN) ** (1 / 63)  # r, from one of the 64 scales of the coder's tables to the next
PRIOR_SPREAD = 4.0  # width of the density of hyper-latents when training starts
GAIN_START = math.log(math.expm1(0.05))  # output of the gain decoder at which h = 1 + softplus = 1.05


class Coded(NamedTuple):
    """A latent as decoded, and its cost."""

    y_hat: Float[Tensor, "B M h w"]
    bits: Float[Tensor, "B h w"]  # of the latent, by position
    bits_hyper: Float[Tensor, "B"]


class Parameters(NamedTuple):
    mean: Float[Tensor, "B M h w"]
    scale: Float[Tensor, "B M h w"]
    bits: Float[Tensor, "B"]  # of the hyper-latent


def medians_of(prior: FactorizedPrior) -> Float[Tensor, "N"]:
    """The medians of a prior, found by bisection only where its parameters have changed since the last call."""
    versions = tuple((id(part), part._version) for part in prior.parameters())
    cached: tuple[object, Tensor] | None = getattr(prior, "_medians", None)
    if cached is None or cached[0] != versions:
        cached = (versions, prior.medians())
        prior._medians = cached  # type: ignore[assignment]
    return cached[1]


class Hyper(nn.Module):
    """The hyper-codec of a latent with `size.latent` channels."""

    def __init__(self, size: CodecSize, *, paper: bool) -> None:
        super().__init__()
        self.hyper_analysis = hyper_analysis(size.latent, size.hyper, paper=paper)
        self.hyper_synthesis = hyper_synthesis(size.hyper, size.hyper, size.latent, paper=paper)
        self.prior = FactorizedPrior(size.hyper, spread=PRIOR_SPREAD)

    def parameters_of(self, y: Float[Tensor, "B M h w"], rounding: Rounding) -> Parameters:
        """Mean and scale of every entry of y, float32; they depend on the rounded z alone."""
        z = self.hyper_analysis(y).float()
        if rounding == "mixed":
            z_hat, rated = round_straight_through(z), add_noise(z)
        else:
            medians = medians_of(self.prior).to(z.device)[:, None, None]
            z_hat = rated = (z - medians).round() + medians
        mean, scale = self.hyper_synthesis(z_hat).float().chunk(2, dim=1)
        return Parameters(mean, scale, self.prior.bits(rated).sum((1, 2, 3)))


class HyperpriorCodec(Hyper):
    """Analysis, synthesis, hyper-codec, and gains between rates; `background` is the second hyper-codec of OBIC.

    `follow`: scales follow the rate. The codec of first frames has none of it, like the image codec that it starts from.
    """

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        size: CodecSize,
        lambdas: tuple[float, ...],
        *,
        paper: bool,
        follow: bool,
        split: bool = False,
    ) -> None:
        super().__init__(size, paper=paper)
        self.follow = follow
        self.analysis = analysis
        self.synthesis = synthesis
        self.gains = RateGains(size.latent, lambdas)
        self.background = Hyper(size, paper=paper) if split else None

    def code(
        self,
        y: Float[Tensor, "B M h w"],
        quality: Float[Tensor, "B"],
        rounding: Rounding,
        *,
        step: Float[Tensor, "B M h w"] | None = None,
        cells: Bool[Tensor, "B 1 h w"] | None = None,
    ) -> Coded:
        """Quantizes the latent with steps h = `step` (None: 1) and counts its bits.

        `cells` tells region (True) from background for the two hyper-codecs of OBIC; every position is coded once.
        """
        gain = self.gains.forward_gain(quality)
        scaled = y.float() * gain
        mean, scale, bits_hyper = self._split(scaled, cells, rounding)
        scale = scale * gain if self.follow else scale
        residual = scaled - mean
        if step is not None:
            residual, scale = residual / step, scale / step
        if rounding == "mixed":
            symbols, rated = round_straight_through(residual), add_noise(residual)
        else:
            symbols = rated = residual.round()
        decoded = symbols + mean if step is None else symbols * step + mean
        return Coded(decoded * self.gains.inverse_gain(quality), gaussian_bits(rated, scale).sum(1), bits_hyper)

    def _split(self, y: Tensor, cells: Tensor | None, rounding: Rounding) -> Parameters:
        if self.background is None or cells is None:
            return self.parameters_of(y, rounding)
        inside = self.parameters_of(y * cells, rounding)
        outside = self.background.parameters_of(y * ~cells, rounding)
        mean, scale = (torch.where(cells, a, b) for a, b in zip(inside[:2], outside[:2], strict=True))
        return Parameters(mean, scale, inside.bits + outside.bits)


class CodedGain(NamedTuple):
    raw: Float[Tensor, "B M h w"]  # output of the gain decoder, a function of decoded integers alone
    bits: Float[Tensor, "B h w"]
    bits_hyper: Float[Tensor, "B"]


class GainCodec(Hyper):
    """The gain hyperprior autoencoder (003, section 6.3.2, figures D.10 and D.11): a mask -> steps of another latent.

    Its decoder keeps the size of the gain latent: convolutions of stride 1. `outputs` is M of the latent that is scaled.
    """

    def __init__(self, size: CodecSize, outputs: int, *, paper: bool) -> None:
        super().__init__(size, paper=paper)
        n, kernel = size.hidden, 5 if paper else 3
        self.analysis = paper_analysis(1, n, size.latent)

        def layer(before: int, after: int) -> nn.Conv2d:
            return nn.Conv2d(before, after, kernel, padding=kernel // 2)

        last = small(layer(n, outputs))
        nn.init.constant_(last.bias, GAIN_START)  # type: ignore[arg-type]
        self.decoder = nn.Sequential(
            layer(size.latent, n), nn.ReLU(), layer(n, n), nn.ReLU(), layer(n, n), nn.ReLU(), last
        )  # fmt: skip

    def forward(self, mask: Float[Tensor, "B 1 H W"], rounding: Rounding) -> CodedGain:
        y = self.analysis(mask).float()
        mean, scale, bits_hyper = self.parameters_of(y, rounding)
        residual = y - mean
        if rounding == "mixed":
            symbols, rated = round_straight_through(residual), add_noise(residual)
        else:
            symbols = rated = residual.round()
        return CodedGain(self.decoder(symbols + mean).float(), gaussian_bits(rated, scale).sum(1), bits_hyper)


def gain_steps(raw: Float[Tensor, "B M h w"], amplifier: Float[Tensor, "B"]) -> Float[Tensor, "B M h w"]:
    """The integers k >= 0 of quantization steps r^k, nearest to (h - 1) ga + 1 (003, Eq. D.1) with h = 1 + softplus(raw).

    The gradient is that of the unrounded k. `raw` grows with k, so a coder needs no more than thresholds for `raw` at each ga.
    """
    amplified = F.softplus(raw) * amplifier[:, None, None, None] + 1
    return round_straight_through(amplified.log() / math.log(SCALE_RATIO))


def step_of(k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The quantization step r^k."""
    return (k * math.log(SCALE_RATIO)).exp()
