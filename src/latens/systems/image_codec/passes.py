"""Training and test passes that all networks of the image codec share: rates and reconstructions of rounded latents.

Letters: B batch, R rates per image, M latent channels, H W image size (multiples of 64), h w = H/16 W/16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latens.codes.context import CodedLatent, Rounding
from latens.codes.entropy import FactorizedPrior, gaussian_bits, round_for_rate
from latens.codes.gains import RateGains
from latens.codes.rounding import add_noise, round_straight_through
from latens.shapes import Float
from latens.systems.image_codec.config import ROUNDING_WEIGHT


class Reconstruction(NamedTuple):
    image: Float[Tensor, "B 3 H W"]  # not clamped
    bits_y: Float[Tensor, "B"]
    bits_z: Float[Tensor, "B"]


class CodecPasses(nn.Module, ABC):
    """A codec whose modules and `code` are those of a subclass.

    `quality` is 1 at the first lambda. It has R B entries, those of the first rate of all images first; reconstructions are in
    its order.
    """

    analysis: nn.Module
    synthesis: nn.Module
    hyper_analysis: nn.Sequential
    prior: FactorizedPrior
    gains: RateGains | None

    @abstractmethod
    def code(
        self, y: Float[Tensor, "B M h w"], z_hat: Float[Tensor, "B N ..."], quality: Float[Tensor, "B"], rounding: Rounding
    ) -> CodedLatent:
        """Round a scaled latent in the order of the decoder."""

    def forward(
        self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "_"], *, rounding: str = "mixed"
    ) -> Reconstruction:
        """Training pass. For `rounding` see `config.RateDistortionConfig`."""
        if rounding == "hard":
            coded, bits_z = self.as_encoded(image, quality)
            return Reconstruction(self.reconstruct(coded.y_hat, quality), coded.bits().sum((1, 2, 3)), bits_z)
        y = self.scaled_latent(image, quality).float()
        z = self.hyper_analysis(y).float()
        z_noisy = add_noise(z)
        if rounding == "encoder":
            z_hat = z + (self.quantized_z(z) - z).detach()
            coded = self.code(y, z_hat, quality, straight_through_symbols)
            noisy = add_noise(coded.residual)
        elif rounding == "mixed":
            coded = self.code(y, round_straight_through(z), quality, lambda residual, scale: round_straight_through(residual))
            noisy = add_noise(coded.residual)
        else:
            coded = self.code(y, z_noisy, quality, lambda residual, scale: add_noise(residual))
            noisy = coded.symbols
        return Reconstruction(
            self.reconstruct(coded.y_hat, quality),
            gaussian_bits(noisy, coded.scale).sum((1, 2, 3)),
            self.prior.bits(z_noisy).sum((1, 2, 3)),
        )

    def as_encoded(
        self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "_"]
    ) -> tuple[CodedLatent, Float[Tensor, "_"]]:
        """The symbols that the encoder writes, differentiable in the entropy model but not in the encoder; bits of z."""
        with torch.no_grad():
            y = self.scaled_latent(image, quality).float()
            z_hat = self.rounded_z(y)
            bits_z = self.prior.bits(z_hat).sum((1, 2, 3))
        return self.code(y, z_hat, quality, straight_through_symbols), bits_z

    @torch.no_grad()
    def rounded(
        self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "B"], *, rate_weight: float | None = None
    ) -> Reconstruction:
        """Test-time pass: rates and image of rounded latents, z relative to the medians of the prior and y to its means.

        With `rate_weight`, y is rounded by `codes.entropy.round_for_rate`, as the encoder of files does.
        """

        def symbols(residual: Tensor, scale: Tensor) -> Tensor:
            return residual.round() if rate_weight is None else round_for_rate(residual, scale, rate_weight)

        y = self.scaled_latent(image, quality).float()
        z_hat = self.rounded_z(y)
        coded = self.code(y, z_hat, quality, symbols)
        return Reconstruction(
            self.reconstruct(coded.y_hat, quality), coded.bits().sum((1, 2, 3)), self.prior.bits(z_hat).sum((1, 2, 3))
        )

    def rounded_z(self, y: Float[Tensor, "B M h w"]) -> Float[Tensor, "B N ..."]:
        return self.quantized_z(self.hyper_analysis(y).float())

    def quantized_z(self, z: Float[Tensor, "B N ..."]) -> Float[Tensor, "B N ..."]:
        medians = self.prior.medians().to(z.device)[:, None, None]
        return (z - medians).round() + medians

    def scaled_latent(self, image: Float[Tensor, "B 3 H W"], quality: Float[Tensor, "_"]) -> Float[Tensor, "_ M h w"]:
        """The latent in units of the quantization step, at every quality."""
        return self.at_quality(self.analysis(image).repeat(len(quality) // len(image), 1, 1, 1), quality)

    def at_quality(self, y: Float[Tensor, "B M h w"], quality: Float[Tensor, "B"]) -> Float[Tensor, "B M h w"]:
        """A latent of `analysis` in units of the quantization step."""
        return y if self.gains is None else y * self.gains.forward_gain(quality)

    def reconstruct(self, y_hat: Float[Tensor, "B M h w"], quality: Float[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
        """The image of a scaled latent, not clamped."""
        scaled = y_hat if self.gains is None else y_hat * self.gains.inverse_gain(quality)
        return self.synthesis(scaled).float()


def straight_through_symbols(residual: Float[Tensor, "..."], scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The symbols that the encoder writes, with the gradient of the identity for `residual`."""
    symbols = round_for_rate(residual.detach(), scale.detach(), ROUNDING_WEIGHT)
    return residual + (symbols - residual).detach()
