"""Mean-scale hyperprior without autoregressive context (Minnen et al. 2018; Perugachi-Diaz 2024, section 5.4.1).

    x --analysis--> y --hyper_analysis--> z
                    |                     | round, factorized prior
                    |                  z_hat --hyper_synthesis--> mean, scale of y
                    `-- round(y - mean) + mean = y_hat --synthesis--> x_hat

The `compact` transforms are not from these papers; they are made for CPUs. The image is folded 4 x 4 into channels, so no
layer works at half of the resolution. A linear path, initialized with the cosine transform of 16 x 16 blocks, runs in parallel
with the deep path, like the shortcuts of Li et al. 2025 ("On disentangled training for nonlinear transform in learned image
compression"). Training thus starts from a block-transform codec.

Letters: B batch, N hidden channels, M latent channels, H W image size (multiples of 64), h w = H/16 W/16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from latens.codes.context import CodedLatent, Rounding
from latens.codes.entropy import FactorizedPrior, gaussian_bits, round_for_rate
from latens.codes.gains import RateGains
from latens.codes.rounding import add_noise, round_straight_through
from latens.nn.blocks import BlockAnalysis, BlockSynthesis
from latens.nn.conv import Residual, down, up
from latens.nn.gdn import GDN
from latens.nn.init import small
from latens.nn.transforms import Sum
from latens.shapes import Float
from latens.systems.image_codec.config import ROUNDING_WEIGHT, HyperpriorConfig

BLOCK_GAIN = 10.0  # initial quantization steps per unit of intensity at the middle rate


class Reconstruction(NamedTuple):
    image: Float[Tensor, "B 3 H W"]  # not clamped
    bits_y: Float[Tensor, "B"]
    bits_z: Float[Tensor, "B"]


class MeanScaleHyperprior(nn.Module):
    """Transforms, prior and, with several rates, gains of the latent."""

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = analysis_transform(config)
        self.synthesis = synthesis_transform(config)
        self.hyper_analysis = hyper_analysis_transform(config)
        self.hyper_synthesis = hyper_synthesis_transform(config)
        self.prior = FactorizedPrior(config.hidden)
        self.gains = RateGains(config.latent, config.lambdas) if config.variable_rate else None

    def forward(
        self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "B"], *, rounding: str = "mixed"
    ) -> Reconstruction:
        """Training pass. For `rounding` see `config.RateDistortionConfig`."""
        if rounding == "hard":
            return self._forward_hard(image, quality)
        straight_through = rounding == "mixed"
        y = self.scaled_latent(image, quality)
        z = self.hyper_analysis(y).float()
        z_noisy = add_noise(z)
        mean, scale = self.parameters_of_y(round_straight_through(z) if straight_through else z_noisy)
        residual = y.float() - mean
        residual_noisy = add_noise(residual)
        y_hat = (round_straight_through(residual) if straight_through else residual_noisy) + mean
        return Reconstruction(
            self.reconstruct(y_hat, quality),
            gaussian_bits(residual_noisy, scale).sum((1, 2, 3)),
            self.prior.bits(z_noisy).sum((1, 2, 3)),
        )

    def _forward_hard(self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "B"]) -> Reconstruction:
        with torch.no_grad():
            y = self.scaled_latent(image, quality).float()
            z_hat = self._rounded_z(y)
        mean, scale = self.parameters_of_y(z_hat)
        residual = y - mean
        symbols = round_for_rate(residual.detach(), scale.detach(), ROUNDING_WEIGHT)
        symbols = residual + (symbols - residual).detach()
        return Reconstruction(
            self.reconstruct(symbols + mean, quality),
            gaussian_bits(symbols, scale).sum((1, 2, 3)),
            self.prior.bits(z_hat).sum((1, 2, 3)).detach(),
        )

    @torch.no_grad()
    def rounded(
        self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "B"], *, rate_weight: float | None = None
    ) -> Reconstruction:
        """Test-time pass: rates and image of rounded latents, z relative to the medians of the prior and y to its means.

        With `rate_weight`, y is rounded by `codes.entropy.round_for_rate`, as the encoder of files does.
        """
        y = self.scaled_latent(image, quality)
        z_hat = self._rounded_z(y)
        mean, scale = self.parameters_of_y(z_hat)
        residual = y.float() - mean
        symbols = residual.round() if rate_weight is None else round_for_rate(residual, scale, rate_weight)
        return Reconstruction(
            self.reconstruct(symbols + mean, quality),
            gaussian_bits(symbols, scale).sum((1, 2, 3)),
            self.prior.bits(z_hat).sum((1, 2, 3)),
        )

    def _rounded_z(self, y: Float[Tensor, "B M h w"]) -> Float[Tensor, "B N ..."]:
        medians = self.prior.medians().to(y.device)[:, None, None]
        return (self.hyper_analysis(y).float() - medians).round() + medians

    def scaled_latent(self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "B"]) -> Float[Tensor, "B M h w"]:
        """The latent in units of the quantization step at `quality` (1 is the first lambda)."""
        y = self.analysis(image)
        return y if self.gains is None else y * self.gains.forward_gain(quality)

    def parameters_of_y(self, z_hat: Float[Tensor, "B N ..."]) -> tuple[Tensor, Tensor]:
        """Mean and scale of every entry of the scaled latent y, each float32 (B, M, h, w), from the decoded hyper-latent z."""
        mean, scale = self.hyper_synthesis(z_hat).float().chunk(2, dim=1)
        return mean, scale

    def code(
        self, y: Float[Tensor, "B M h w"], z_hat: Float[Tensor, "B N ..."], quality: Float[Tensor, "B"], rounding: Rounding
    ) -> CodedLatent:
        """Round a scaled latent; the parameters of all symbols are known from z alone."""
        mean, scale = self.parameters_of_y(z_hat)
        residual = y - mean
        symbols = rounding(residual, scale)
        return CodedLatent(symbols + mean, symbols, residual, scale)

    def reconstruct(self, y_hat: Float[Tensor, "B M h w"], quality: Float[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
        """The image of a scaled latent, not clamped."""
        scaled = y_hat if self.gains is None else y_hat * self.gains.inverse_gain(quality)
        return self.synthesis(scaled).float()


def analysis_transform(config: HyperpriorConfig) -> nn.Module:
    n, m = config.hidden, config.latent
    if config.transforms == "compact":
        wide = n * 4 // 3
        deep = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, n, 3, padding=1), Residual(n), GDN(n),
            down(n, wide), Residual(wide), GDN(wide), small(down(wide, m)),
        )  # fmt: skip
        return Sum(deep, BlockAnalysis(m, BLOCK_GAIN))
    return nn.Sequential(down(3, n), GDN(n), down(n, n), GDN(n), down(n, n), GDN(n), down(n, m))


def synthesis_transform(config: HyperpriorConfig) -> nn.Module:
    n, m = config.hidden, config.latent
    if config.transforms == "compact":
        wide = n * 4 // 3
        deep = nn.Sequential(
            up(m, wide), GDN(wide, inverse=True), Residual(wide),
            up(wide, n), GDN(n, inverse=True), Residual(n), small(nn.Conv2d(n, 48, 3, padding=1)), nn.PixelShuffle(4),
        )  # fmt: skip
        return Sum(deep, BlockSynthesis(m, BLOCK_GAIN))
    return nn.Sequential(
        up(m, n), GDN(n, inverse=True), up(n, n), GDN(n, inverse=True), up(n, n), GDN(n, inverse=True), up(n, 3)
    )


def hyper_analysis_transform(config: HyperpriorConfig) -> nn.Sequential:
    n, m = config.hidden, config.latent
    return nn.Sequential(nn.Conv2d(m, n, 3, padding=1), nn.LeakyReLU(), down(n, n), nn.LeakyReLU(), down(n, n))


def hyper_synthesis_transform(config: HyperpriorConfig) -> nn.Sequential:
    n, m, k = config.hidden, config.latent, config.hyper
    wide = k * 3 // 2
    return nn.Sequential(up(n, k), nn.LeakyReLU(), up(k, wide), nn.LeakyReLU(), nn.Conv2d(wide, m * 2, 3, padding=1))
