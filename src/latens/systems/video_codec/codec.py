"""One autoencoder with a mean-scale hyperprior, whose latent the methods of Perugachi-Diaz 2024 code in different ways.

    y --(x rate gain)--> hyper_analysis --> z --round--> hyper_synthesis --> mean, scale
                      (y - mean) / h --round--> symbols --> (symbols h + mean) (/ rate gain) = y_hat

In training, rates are computed from noisy latents, and decoders get rounded ones (mixed quantization of y and z, appendix D.4).
Scale and h lie on the logarithmic grid of the tables of the entropy coder: a quantization step h = r^k selects the table k
levels lower. If scales follow the rate, the hyper-synthesis gives them for a gain of 1, and the gain of a channel shifts its
table index.

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

Rounding: TypeAlias = Literal["mixed", "plain"]  # in training; in the codec
SCALE_RATIO = (256.0 / SCALE_MIN) ** (1 / 63)  # r, ratio of neighbors among the 64 scales of the coder's tables
PRIOR_SPREAD = 4.0  # initial width of the density of hyper-latents
GAIN_START = math.log(math.expm1(0.05))  # initial output of the gain decoder, at which h = 1 + softplus = 1.05


class Coded(NamedTuple):
    """A decoded latent, and its bits."""

    y_hat: Float[Tensor, "B M h w"]
    bits: Float[Tensor, "B h w"]  # of the latent, summed over channels
    bits_hyper: Float[Tensor, "B"]


class Parameters(NamedTuple):
    mean: Float[Tensor, "B M h w"]
    scale: Float[Tensor, "B M h w"]
    bits: Float[Tensor, "B"]  # of the hyper-latent


def medians_of(prior: FactorizedPrior) -> Float[Tensor, "N"]:
    """The medians of a prior, cached until its parameters change."""
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
        """Mean and scale of every entry of y, float32; both depend on the rounded z only."""
        z = self.hyper_analysis(y).float()
        if rounding == "mixed":
            z_hat, rated = round_straight_through(z), add_noise(z)
        else:
            medians = medians_of(self.prior).to(z.device)[:, None, None]
            z_hat = rated = (z - medians).round() + medians
        mean, scale = self.hyper_synthesis(z_hat).float().chunk(2, dim=1)
        return Parameters(mean, scale, self.prior.bits(rated).sum((1, 2, 3)))


class HyperpriorCodec(Hyper):
    """Analysis, synthesis, hyper-codec and gains of the rates; with `split` also `background`, the second hyper-codec of OBIC.

    `follow`: scales are multiplied by the gain of the rate. The codec of first frames does not do this, as the image codec that
    it is initialized with does not.
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
        """Quantize the latent with steps h = `step` (None: 1; Eq. 6.3.1) and estimate its bits (Eq. 6.3.3).

        `cells` is True in the region and selects one of the two hyper-codecs of OBIC; every position is coded once.
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
    raw: Float[Tensor, "B M h w"]  # output of the gain decoder
    bits: Float[Tensor, "B h w"]
    bits_hyper: Float[Tensor, "B"]


class GainCodec(Hyper):
    """The gain hyperprior autoencoder (section 6.3.2, Figs. D.10 and D.11): a mask -> quantization steps of another latent.

    Its decoder has convolutions of stride 1 at the size of the gain latent. `outputs` is M of the latent that is scaled.
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
    """The integers k >= 0 whose quantization steps r^k are nearest to (h - 1) ga + 1 (Eq. D.1), with h = 1 + softplus(raw).

    The gradient is that of the unrounded k. k increases with `raw`, so a coder can find it by thresholds for each ga.
    """
    amplified = F.softplus(raw) * amplifier[:, None, None, None] + 1
    return round_straight_through(amplified.log() / math.log(SCALE_RATIO))


def step_of(k: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The quantization step r^k."""
    return (k * math.log(SCALE_RATIO)).exp()
