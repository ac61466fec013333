"""PatchVAE and its baseline, the beta-VAE (004, Fig. 2), with the same encoder and decoder.

    x --encoder phi--> f --occurrence head--> q_occ -> z_occ (B, N, h, w)
                         --appearance head--> pooled with q_occ -> z_app (B, N, D)
                                                   z_occ * z_app (B, ND, h, w) --decoder G--> x_hat

    x --encoder phi--> f --one layer over the whole map--> z (B, ND) --back to a map--> decoder G--> x_hat      (beta-VAE)

The other members of Table 1 (-GAN, BiGAN, supervised) and the masked autoencoder are in rivals.py.

Letters: B batch, N parts, D dimensions of one appearance (d_p), C channels of f, H W image size, h w = H/8 W/8.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.gaussian import gaussian_kl, sample_gaussian
from latens.codes.parts import (
    Appearance,
    bernoulli_kl,
    categorical_kl,
    place_parts,
    pool_appearance,
    relaxed_bernoulli,
    relaxed_categorical,
)
from latens.shapes import Float
from latens.systems.parts.config import STRIDE, PartsConfig
from latens.systems.parts.encoder import Encoder, local_encoder, resnet_encoder

CODE_CHANNELS = 64  # of the map between the vector of a beta-VAE and the decoder
SLOPE = 0.2
LOWEST_LOGVAR, HIGHEST_LOGVAR = -16.0, 16.0


class Posterior(NamedTuple):
    """Q of Eqs. 4 to 7 for a batch."""

    logits: Float[Tensor, "B N h w"]  # of the occurrence
    appearance: Appearance


class Reconstruction(NamedTuple):
    """What both models give in training. The divergences are in nats: of every part, or for a beta-VAE of every dimension."""

    image: Float[Tensor, "B 3 H W"]  # not clamped
    kl_app: Float[Tensor, "B N"]
    kl_occ: Float[Tensor, "B N"]  # zero for a beta-VAE
    features: Float[Tensor, "B C h w"]  # phi


class PatchVAE(nn.Module):
    """Eqs. 4 to 11 of 004. Works on pictures whose sides are multiples of the encoder's stride."""

    def __init__(self, config: PartsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        channels, kernel, code = self.encoder.channels, self.encoder.head_kernel, config.parts * config.appearance
        self.occurrence = nn.Conv2d(channels, config.parts, kernel, padding=kernel // 2)
        self.appearance = nn.Conv2d(channels, 2 * code, kernel, padding=kernel // 2)
        self.decoder = decoder(code, self.encoder.stride)
        for head in (self.occurrence, self.appearance):
            nn.init.kaiming_normal_(head.weight, mode="fan_out", nonlinearity="linear")

    def forward(
        self, image: Float[Tensor, "B 3 H W"], temperature: float, *, hard: bool = False, prior: float = 0.0
    ) -> Reconstruction:
        """One sample of the code and its picture; `prior` 0 stands for 1/N. The decoder runs once."""
        features = self.encoder(image)
        posterior = self.heads(features)
        z_occ = self.sample_occurrence(posterior.logits, temperature, hard=hard)
        z_app = sample_gaussian(*posterior.appearance)
        return self._reconstruct(features, posterior, z_app, z_occ, prior)

    def posterior(self, image: Float[Tensor, "B 3 H W"]) -> Posterior:
        """Occurrence and pooled appearance (section 3.2, "Constructing z_app"). The pooling weights pass no gradient."""
        return self.heads(self.encoder(image))

    def heads(self, features: Float[Tensor, "B C h w"]) -> Posterior:
        """`posterior` of a picture whose features are known."""
        logits = self.occurrence(features).float()
        weight = self.probability(logits).detach()
        mean, logvar = self.appearance(features).float().unflatten(1, (2, self.config.parts, -1)).unbind(1)
        return Posterior(logits, pool_appearance(mean, logvar, weight))

    def probability(self, logits: Float[Tensor, "B N h w"]) -> Float[Tensor, "B N h w"]:
        """Probability that each part is at each cell."""
        return logits.softmax(dim=1) if self.config.categorical else logits.sigmoid()

    def sample_occurrence(
        self, logits: Float[Tensor, "B N h w"], temperature: float, *, hard: bool = False
    ) -> Float[Tensor, "B N h w"]:
        draw = relaxed_categorical if self.config.categorical else relaxed_bernoulli
        return draw(logits, temperature, hard=hard)

    def occurrence_kl(self, logits: Float[Tensor, "B N h w"], prior: float = 0.0) -> Float[Tensor, "B N"]:
        """Summed over cells. Of categorical cells each part has its term of the divergence, which may be below zero."""
        if self.config.categorical:
            return categorical_kl(logits).sum((2, 3))
        return bernoulli_kl(logits, prior or 1 / self.config.parts).sum((2, 3))

    def decode(self, appearance: Float[Tensor, "B N D"], occurrence: Float[Tensor, "B N h w"]) -> Float[Tensor, "B 3 H W"]:
        """G of Eq. 5."""
        code = place_parts(appearance, occurrence).contiguous(memory_format=torch.channels_last)
        return _picture(self.decoder(code))

    def mean_picture(self, image: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        """No noise: parts where their probability is above one half, with the mean of their appearance."""
        features = self.encoder(image)
        posterior = self.heads(features)
        chosen = most_likely(posterior.logits, categorical=self.config.categorical)
        return self._reconstruct(features, posterior, posterior.appearance.mean, chosen)

    def _reconstruct(
        self, features: Tensor, posterior: Posterior, appearance: Tensor, occurrence: Tensor, prior: float = 0.0
    ) -> Reconstruction:
        kl_app, kl_occ = gaussian_kl(*posterior.appearance).sum(2), self.occurrence_kl(posterior.logits, prior)
        return Reconstruction(self.decode(appearance, occurrence), kl_app, kl_occ, features)


class BetaVAE(nn.Module):
    """The baseline (Eq. 3): one Gaussian of N * D dimensions for the whole picture, whose size is fixed."""

    def __init__(self, config: PartsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        code = config.parts * config.appearance
        self.to_vector = vector_head(self.encoder, config.size, 2 * code)
        self.from_vector = vector_to_map(code, config.size // self.encoder.stride)
        self.decoder = decoder(CODE_CHANNELS, self.encoder.stride)

    def forward(
        self, image: Float[Tensor, "B 3 H W"], temperature: float, *, hard: bool = False, prior: float = 0.0
    ) -> Reconstruction:
        """One sample of the code and its picture; the arguments of occurrences mean nothing here."""
        features = self.encoder(image)
        appearance = self.head(features)
        return self._reconstruct(features, sample_gaussian(*appearance), appearance)

    def posterior(self, image: Float[Tensor, "B 3 H W"]) -> Appearance:
        return self.head(self.encoder(image))

    def head(self, features: Float[Tensor, "B C h w"]) -> Appearance:
        """`posterior` of a picture whose features are known."""
        mean, logvar = self.to_vector(features).float().flatten(1).chunk(2, dim=1)
        return Appearance(mean, logvar.clamp(LOWEST_LOGVAR, HIGHEST_LOGVAR).exp())

    def decode(self, vector: Float[Tensor, "B ND"]) -> Float[Tensor, "B 3 H W"]:
        return _picture(self.decoder(self.from_vector(vector[:, :, None, None])))

    def mean_picture(self, image: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        features = self.encoder(image)
        appearance = self.head(features)
        return self._reconstruct(features, appearance.mean, appearance)

    def _reconstruct(self, features: Tensor, vector: Tensor, appearance: Appearance) -> Reconstruction:
        kl = gaussian_kl(*appearance)
        return Reconstruction(self.decode(vector), kl, torch.zeros_like(kl), features)


def most_likely(logits: Float[Tensor, "B N h w"], *, categorical: bool = False) -> Float[Tensor, "B N h w"]:
    """1 where a part is likelier present than absent, else 0; with `categorical` 1 for the likeliest part of a cell."""
    if categorical:
        return F.one_hot(logits.argmax(1), logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    return (logits > 0).to(logits.dtype)


# ---------------------------------------------------------------------------------------------------------- networks


def build_encoder(config: PartsConfig) -> Encoder:
    return local_encoder() if config.encoder == "local" else resnet_encoder(config.blocks)


def decoder(channels: int, stride: int = STRIDE) -> nn.Sequential:
    """G: 1 x 1 to 256 channels, then transposed 4 x 4 layers that double the side until the picture is full size."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(SLOPE, inplace=True)]
    width = 256
    while stride > 2:
        narrow = max(width // 2, 64)
        layers += [nn.ConvTranspose2d(width, narrow, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(narrow)]
        layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        width, stride = narrow, stride // 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1))


def vector_head(encoder: Encoder, size: int, outputs: int) -> nn.Sequential:
    """A map of features to a vector (B, outputs, 1, 1), by a convolution as large as the map."""
    return nn.Sequential(
        nn.Conv2d(encoder.channels, CODE_CHANNELS, 1, bias=False),
        nn.BatchNorm2d(CODE_CHANNELS),
        nn.ReLU(inplace=True),
        nn.Conv2d(CODE_CHANNELS, outputs, size // encoder.stride),
    )


def vector_to_map(inputs: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, CODE_CHANNELS, side, bias=False), nn.BatchNorm2d(CODE_CHANNELS), nn.ReLU(inplace=True)
    )


def _picture(output: Tensor) -> Tensor:
    # Around mid-grey and unbounded: a squashed output could not reach pixels at the ends of their range.
    return output.float() * 0.5 + 0.5
