"""PatchVAE and its baseline, the beta-VAE (Gupta et al. 2020, Fig. 2), with the same encoder and decoder.

    x --encoder phi--> f --occurrence head--> q_occ -> z_occ (B, N, h, w)
                         --appearance head--> pooled with q_occ -> z_app (B, N, D)
                                                   z_occ * z_app (B, ND, h, w) --decoder G--> x_hat

    x --encoder phi--> f --one layer over the whole map--> z (B, ND) --back to a map--> decoder G--> x_hat      (beta-VAE)

The encoder `resnet` is that of the paper: the first layers of a ResNet-18 (He et al. 2016). The receptive field of a cell is
99 x 99 pixels, and 115 x 115 after the 3 x 3 head: more than a CIFAR image. `local` has the same widths and strides, 1 x 1
heads and a receptive field of 24 x 24 pixels. The other models of Table 1 and the masked autoencoder are in baselines.py.

Letters: B batch, N parts, D dimensions of one appearance (d_p), C channels of f, H W image size, h w = H/8 W/8 (H/32 W/32 for
four residual stages).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

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
from latens.nn.stages import StagedEncoder
from latens.shapes import Float
from latens.systems.parts.config import STRIDE, BetaVAEConfig, NetworkConfig, PatchVAEConfig

CODE_CHANNELS = 64  # of the map between the vector of a beta-VAE and the decoder
SLOPE = 0.2  # negative slope of leaky ReLUs
MIN_LOGVAR, MAX_LOGVAR = -16.0, 16.0
STEM = 64  # channels after the first stage
WIDTHS = (64, 128, 256, 512)  # channels after the residual stages


class Posterior(NamedTuple):
    """The approximate posterior Q of Eqs. 4 to 7."""

    logits: Float[Tensor, "B N h w"]  # of the occurrence
    appearance: Appearance


class Reconstruction(NamedTuple):
    """Output of both models in training. Divergences are in nats, per part (for a beta-VAE, per dimension)."""

    image: Float[Tensor, "B 3 H W"]  # not clamped
    kl_app: Float[Tensor, "B N"]
    kl_occ: Float[Tensor, "B N"]  # zero for a beta-VAE
    features: Float[Tensor, "B C h w"]  # phi


class PatchVAE(nn.Module):
    """The model of Eqs. 4 to 11, for images in [0, 1] whose sides are multiples of the stride of the encoder."""

    def __init__(self, config: PatchVAEConfig) -> None:
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
        """Reconstruction from one sample of the code. `prior` 0 means 1/N. The decoder runs once."""
        features = self.encoder(image)
        posterior = self.heads(features)
        z_occ = self.sample_occurrence(posterior.logits, temperature, hard=hard)
        z_app = sample_gaussian(*posterior.appearance)
        return self._reconstruct(features, posterior, z_app, z_occ, prior)

    def posterior(self, image: Float[Tensor, "B 3 H W"]) -> Posterior:
        """Occurrence and pooled appearance (section 3.2, "Constructing z_app"). Pooling weights pass no gradient."""
        return self.heads(self.encoder(image))

    def heads(self, features: Float[Tensor, "B C h w"]) -> Posterior:
        """`posterior` from the features of an image."""
        logits = self.occurrence(features).float()
        weight = self.probability(logits).detach()
        mean, logvar = self.appearance(features).float().unflatten(1, (2, self.config.parts, -1)).unbind(1)
        return Posterior(logits, pool_appearance(mean, logvar, weight))

    def probability(self, logits: Float[Tensor, "B N h w"]) -> Float[Tensor, "B N h w"]:
        """Probability of every part in every cell."""
        return logits.softmax(dim=1) if self.config.categorical else logits.sigmoid()

    def sample_occurrence(
        self, logits: Float[Tensor, "B N h w"], temperature: float, *, hard: bool = False
    ) -> Float[Tensor, "B N h w"]:
        draw = relaxed_categorical if self.config.categorical else relaxed_bernoulli
        return draw(logits, temperature, hard=hard)

    def occurrence_kl(self, logits: Float[Tensor, "B N h w"], prior: float = 0.0) -> Float[Tensor, "B N"]:
        """KL divergence in nats, summed over cells. The term of a single part may be negative for categorical cells."""
        if self.config.categorical:
            return categorical_kl(logits).sum((2, 3))
        return bernoulli_kl(logits, prior or 1 / self.config.parts).sum((2, 3))

    def hard_occurrence(self, logits: Float[Tensor, "B N h w"]) -> Float[Tensor, "B N h w"]:
        """1 where a part is more likely present than absent, else 0; for categorical cells, 1 for the most likely part."""
        if self.config.categorical:
            return F.one_hot(logits.argmax(1), logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
        return (logits > 0).to(logits.dtype)

    def decode(self, appearance: Float[Tensor, "B N D"], occurrence: Float[Tensor, "B N h w"]) -> Float[Tensor, "B 3 H W"]:
        """G of Eq. 5."""
        code = place_parts(appearance, occurrence).contiguous(memory_format=torch.channels_last)
        return _to_image(self.decoder(code))

    def mean_image(self, image: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        """Reconstruction without noise: parts with a probability above one half, with their mean appearance."""
        features = self.encoder(image)
        posterior = self.heads(features)
        chosen = self.hard_occurrence(posterior.logits)
        return self._reconstruct(features, posterior, posterior.appearance.mean, chosen)

    def _reconstruct(
        self, features: Tensor, posterior: Posterior, appearance: Tensor, occurrence: Tensor, prior: float = 0.0
    ) -> Reconstruction:
        kl_app, kl_occ = gaussian_kl(*posterior.appearance).sum(2), self.occurrence_kl(posterior.logits, prior)
        return Reconstruction(self.decode(appearance, occurrence), kl_app, kl_occ, features)


class BetaVAE(nn.Module):
    """The baseline (Eq. 3): one Gaussian of N * D dimensions for the whole image, whose size is fixed."""

    def __init__(self, config: BetaVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        code = config.parts * config.appearance
        self.to_vector = vector_head(self.encoder, config.size, 2 * code)
        self.from_vector = vector_to_map(code, config.size // self.encoder.stride)
        self.decoder = decoder(CODE_CHANNELS, self.encoder.stride)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        """Reconstruction from one sample of the code."""
        features = self.encoder(image)
        appearance = self.head(features)
        return self._reconstruct(features, sample_gaussian(*appearance), appearance)

    def posterior(self, image: Float[Tensor, "B 3 H W"]) -> Appearance:
        return self.head(self.encoder(image))

    def head(self, features: Float[Tensor, "B C h w"]) -> Appearance:
        """`posterior` from the features of an image."""
        mean, logvar = self.to_vector(features).float().flatten(1).chunk(2, dim=1)
        return Appearance(mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR).exp())

    def decode(self, vector: Float[Tensor, "B ND"]) -> Float[Tensor, "B 3 H W"]:
        return _to_image(self.decoder(self.from_vector(vector[:, :, None, None])))

    def mean_image(self, image: Float[Tensor, "B 3 H W"]) -> Reconstruction:
        features = self.encoder(image)
        appearance = self.head(features)
        return self._reconstruct(features, appearance.mean, appearance)

    def _reconstruct(self, features: Tensor, vector: Tensor, appearance: Appearance) -> Reconstruction:
        kl = gaussian_kl(*appearance)
        return Reconstruction(self.decode(vector), kl, torch.zeros_like(kl), features)


VAE: TypeAlias = PatchVAE | BetaVAE


# ---------------------------------------------------------------------------------------------------------- networks


def build_encoder(config: NetworkConfig) -> StagedEncoder:
    """The encoder phi, in the stages that probes freeze (section 4, "Training details")."""
    return local_encoder() if config.encoder == "local" else resnet_encoder(config.blocks)


def resnet_encoder(blocks: int) -> StagedEncoder:
    """The first stages of ResNet-18: a 7 x 7 convolution with pooling, then `blocks` stages of two residual blocks."""
    stem = nn.Sequential(
        nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(STEM),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    stages: list[nn.Module] = [stem]
    inputs = STEM
    for index, width in enumerate(WIDTHS[:blocks]):
        stages.append(nn.Sequential(BasicBlock(inputs, width, 1 if index == 0 else 2), BasicBlock(width, width, 1)))
        inputs = width
    return _initialized(StagedEncoder(stages, inputs, 2 ** (blocks + 1), head_kernel=3))


def local_encoder() -> StagedEncoder:
    """Depth, widths and stride of the paper's encoder with two stages; the receptive field of a cell is 24 x 24 pixels."""
    stem = nn.Sequential(nn.Conv2d(3, STEM, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU(inplace=True))
    first = nn.Sequential(BasicBlock(STEM, 64, 2, (3, 1)), BasicBlock(64, 64, 1, (3, 1)))
    second = nn.Sequential(BasicBlock(64, 128, 2, (3, 1)), BasicBlock(128, 128, 1, (1, 1)))
    return _initialized(StagedEncoder([stem, first, second], 128, 8, head_kernel=1))


def _initialized(encoder: StagedEncoder) -> StagedEncoder:
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return encoder


class BasicBlock(nn.Module):
    """Two convolutions of side `kernels` with a shortcut (He et al. 2016, Fig. 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernels: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        first, second = kernels
        self.conv1 = nn.Conv2d(inputs, outputs, first, stride=stride, padding=first // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, second, padding=second // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        deep = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(deep + self.shortcut(x), inplace=True)


def decoder(channels: int, stride: int = STRIDE) -> nn.Sequential:
    """The decoder G: 1 x 1 to 256 channels, then transposed 4 x 4 convolutions of stride 2 up to the size of the image."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256), nn.LeakyReLU(SLOPE, inplace=True)]
    width = 256
    while stride > 2:
        narrow = max(width // 2, 64)
        layers += [nn.ConvTranspose2d(width, narrow, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(narrow)]
        layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        width, stride = narrow, stride // 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1))


def vector_head(encoder: StagedEncoder, size: int, outputs: int) -> nn.Sequential:
    """Features (B, C, h, w) -> vector (B, outputs, 1, 1), by a convolution with the size of the map."""
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


def _to_image(output: Tensor) -> Tensor:
    # Centered at mid-gray and unbounded: a tanh could not reach the ends of the pixel range.
    return output.float() * 0.5 + 0.5
