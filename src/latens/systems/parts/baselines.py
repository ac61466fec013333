"""Baselines of Table 1 of Gupta et al. 2020 with the encoder of PatchVAE, and a masked autoencoder.

Letters: B batch, C channels of the encoder, H W image size, h w = H/8 W/8, Z dimensions of a vector code.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.stages import classifier_head
from latens.shapes import Float
from latens.systems.parts.config import (
    BetaVAEConfig,
    BiGANConfig,
    MaskedConfig,
    PartsConfig,
    SupervisedConfig,
)
from latens.systems.parts.model import (
    CODE_CHANNELS,
    SLOPE,
    BetaVAE,
    PatchVAE,
    build_encoder,
    decoder,
    vector_head,
    vector_to_map,
)

PATCH = 8  # side of the cells that a masked autoencoder hides, in pixels
CRITIC = 512  # units of the hidden layers of the critic of pairs


class Adversarial(nn.Module):
    """A VAE with the discriminator of its -GAN variant. Attribute names are tensor names in checkpoints."""

    def __init__(self, generator: PatchVAE | BetaVAE) -> None:
        super().__init__()
        self.generator = generator
        self.judge = discriminator()


def discriminator() -> nn.Sequential:
    """Images of any size to (B, 1): logit of being real, averaged over overlapping patches."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(64, 128, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(128, 256, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(SLOPE, inplace=True),
        nn.Conv2d(256, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class BiGAN(nn.Module):
    """Adversarial feature learning (Donahue et al. 2017): a critic distinguishes pairs (x, E(x)) from pairs (G(z), z).

    The critic has no normalization layers; training needs the penalty on its gradient (R1).
    """

    def __init__(self, config: BiGANConfig) -> None:
        super().__init__()
        self.config = config
        self.code = config.parts * config.appearance
        self.encoder = build_encoder(config)
        self.to_vector = vector_head(self.encoder, config.size, self.code)
        self.from_vector = vector_to_map(self.code, config.size // self.encoder.stride)
        self.decoder = decoder(CODE_CHANNELS, self.encoder.stride)
        self.critic = PairCritic(self.code, config.size)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B Z"]:
        return self.to_vector(self.encoder(image)).float().flatten(1)

    def decode(self, vector: Float[Tensor, "B Z"]) -> Float[Tensor, "B 3 H W"]:
        return self.decoder(self.from_vector(vector[:, :, None, None])).float() * 0.5 + 0.5


class PairCritic(nn.Module):
    """Score of an image and its code as a real pair: (B,)."""

    def __init__(self, code: int, size: int) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 64, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE),
            nn.Conv2d(64, 128, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE),
            nn.Conv2d(128, 256, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE),
            nn.Flatten(), nn.Linear(256 * (size // 8) ** 2, CRITIC),
        )  # fmt: skip
        self.code = nn.Sequential(nn.Linear(code, CRITIC), nn.LeakyReLU(SLOPE))
        self.pair = nn.Sequential(nn.Linear(2 * CRITIC, CRITIC), nn.LeakyReLU(SLOPE), nn.Linear(CRITIC, 1))

    def forward(self, image: Float[Tensor, "B 3 H W"], vector: Float[Tensor, "B Z"]) -> Float[Tensor, "B"]:
        pair = torch.cat([F.leaky_relu(self.image(image), SLOPE), self.code(vector)], dim=1)
        score: Tensor = self.pair(pair)
        return score.float()[:, 0]


class Restored(NamedTuple):
    image: Float[Tensor, "B 3 H W"]
    hidden: Float[Tensor, "B 1 H W"]  # 1 where the image was hidden


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder for convolutional encoders with a linear head (SimMIM, Xie et al. 2022)."""

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.token = nn.Parameter(torch.full((1, 3, 1, 1), 0.5))
        self.restore = nn.Conv2d(self.encoder.channels, 3 * self.encoder.stride**2, 3, padding=1)

    def forward(self, image: Float[Tensor, "B 3 H W"], share: float) -> Restored:
        """A random share of the 8 x 8 cells of every image is hidden: (B, 3, H, W) in [0, 1] -> reconstruction and mask."""
        cells = image[:, :1, ::PATCH, ::PATCH]
        hidden = F.interpolate((torch.rand_like(cells) < share).to(image.dtype), scale_factor=PATCH, mode="nearest")
        features = self.encoder(image * (1 - hidden) + self.token * hidden)
        return Restored(F.pixel_shuffle(self.restore(features).float(), self.encoder.stride) * 0.5 + 0.5, hidden)


class Supervised(nn.Module):
    """Encoder and classifier trained together on labels."""

    def __init__(self, config: SupervisedConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.head = classifier_head(self.encoder.channels, config.size // self.encoder.stride, config.classes)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        logits: Tensor = self.head(self.encoder(image))
        return logits.float()


Member: TypeAlias = PatchVAE | BetaVAE | BiGAN | MaskedAutoencoder | Supervised


def build_model(config: PartsConfig) -> Member:
    """The model of a configuration, with random weights."""
    match config:
        case BetaVAEConfig():
            return BetaVAE(config)
        case BiGANConfig():
            return BiGAN(config)
        case MaskedConfig():
            return MaskedAutoencoder(config)
        case SupervisedConfig():
            return Supervised(config)
    return PatchVAE(config)
