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

from torch import Tensor, nn

from latens.codes.context import CodedLatent, Rounding
from latens.codes.entropy import FactorizedPrior
from latens.codes.gains import RateGains
from latens.nn.blocks import BlockAnalysis, BlockSynthesis
from latens.nn.conv import Residual, down, up
from latens.nn.gdn import GDN
from latens.nn.init import small
from latens.nn.transforms import BLOCK_GAIN, Sum
from latens.shapes import Float
from latens.systems.image_codec.config import HyperpriorConfig
from latens.systems.image_codec.passes import CodecPasses


class MeanScaleHyperprior(CodecPasses):
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
