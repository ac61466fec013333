"""Two VAE-GANs with a shared latent space (Li et al. 2019, Fig. 1), and with other settings UNIT and CycleGAN.

    hazy  x_i --E_I--> z_i --G_J--> clear   (dehazing,  F_IJ)        D_I: real or generated hazy images
    clear x_j --E_J--> z_j --G_I--> hazy    (synthesis, F_JI)        D_J: real or generated clear images

The "D_J(x_j)" inside F_JI of section 3 is read as E_J(x_j). Sizes follow the released UNIT: the code is a map of H/4 x W/4
positions. `translate` takes images in [0, 1]; all other methods take [-1, 1].

Letters: B batch, C channels of the code, h w = H/4 W/4.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.errors import UsageError
from latens.shapes import Float
from latens.systems.haze.config import DiscriminatorConfig, TranslatorConfig
from latens.systems.haze.layers import DoubledConv, ImageNorm, ImagePool, NormResidual, PerDomain, conv

Domain = Literal["hazy", "clear"]
STRIDE = 4  # image pixels per code sample and side
SLOPE = 0.2  # of the leaky ReLU of the discriminators


class Translation(NamedTuple):
    """Codes, reconstructions and translations of one image of each domain; images are in [-1, 1]."""

    code_hazy: Float[Tensor, "B C h w"]  # means
    code_clear: Float[Tensor, "B C h w"]
    hazy_reconstruction: Float[Tensor, "B 3 H W"]  # x_ii
    clear_reconstruction: Float[Tensor, "B 3 H W"]  # x_jj
    dehazed: Float[Tensor, "B 3 H W"]  # x_ij
    hazed: Float[Tensor, "B 3 H W"]  # x_ji
    code_dehazed: Float[Tensor, "B C h w"]  # E_J(x_ij)
    code_hazed: Float[Tensor, "B C h w"]  # E_I(x_ji)
    hazy_cycle: Float[Tensor, "B 3 H W"]  # x_iji
    clear_cycle: Float[Tensor, "B 3 H W"]  # x_jij


class HazeTranslator(nn.Module):
    """E_I, E_J, G_I, G_J, D_I and D_J of Fig. 1."""

    def __init__(self, config: TranslatorConfig, crop: int = 0) -> None:
        super().__init__()
        if crop:
            check_crop(config, crop)
        self.config = config
        self.variational = config.kind != "cyclegan"
        self.encoders = PerDomain(encoder(config), encoder(config))
        self.decoders = PerDomain(decoder(config), decoder(config))
        wide = 4 * config.channels
        self.shared_encoder = nn.Sequential(*(NormResidual(wide) for _ in range(config.shared_blocks)))
        self.shared_decoder = nn.Sequential(*(NormResidual(wide) for _ in range(config.shared_blocks)))
        self.judges = PerDomain(Discriminator(config.discriminator), Discriminator(config.discriminator))
        kept = config.discriminator.pool if crop else 0
        self.pools = PerDomain(ImagePool(kept, crop), ImagePool(kept, crop)) if kept else None
        if config.code_channels:
            self.squeeze: nn.Module = nn.Conv2d(wide, config.code_channels, 1)
            self.widen: nn.Module = nn.Conv2d(config.code_channels, wide, 1)
        else:
            self.squeeze, self.widen = nn.Identity(), nn.Identity()
        initialize(self)

    def forward(self, hazy: Float[Tensor, "B 3 H W"], clear: Float[Tensor, "B 3 H W"]) -> Translation:
        """Reconstruction, translation and cycle of both domains (section 3); sides are multiples of 4, values in [-1, 1]."""
        code_hazy, code_clear = self.encode(hazy, "hazy"), self.encode(clear, "clear")
        z_hazy, z_clear = self.sample(code_hazy), self.sample(code_clear)
        if self.variational:
            hazy_reconstruction, hazed = self.decode(torch.cat([z_hazy, z_clear]), "hazy").split((len(hazy), len(clear)))
            dehazed, clear_reconstruction = self.decode(torch.cat([z_hazy, z_clear]), "clear").split((len(hazy), len(clear)))
        else:  # CycleGAN has no reconstruction
            dehazed, hazed = self.decode(z_hazy, "clear"), self.decode(z_clear, "hazy")
            hazy_reconstruction, clear_reconstruction = hazy, clear
        code_dehazed, code_hazed = self.encode(dehazed, "clear"), self.encode(hazed, "hazy")
        return Translation(
            code_hazy,
            code_clear,
            hazy_reconstruction,
            clear_reconstruction,
            dehazed,
            hazed,
            code_dehazed,
            code_hazed,
            self.decode(self.sample(code_dehazed), "hazy"),
            self.decode(self.sample(code_hazed), "clear"),
        )

    def encode(self, image: Float[Tensor, "B 3 H W"], domain: Domain) -> Float[Tensor, "B C h w"]:
        """Mean of the code of images in [-1, 1]."""
        code: Tensor = self.squeeze(self.shared_encoder(self.encoders[domain](image)))
        return code

    def sample(self, mean: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """A sample of N(mean, 1) in training, the mean in evaluation (as in UNIT)."""
        return mean + torch.randn_like(mean) if self.training and self.variational else mean

    def decode(self, code: Float[Tensor, "B C h w"], domain: Domain) -> Float[Tensor, "B 3 H W"]:
        image: Tensor = self.decoders[domain](self.shared_decoder(self.widen(code)))
        return image

    def translate(self, image: Float[Tensor, "B 3 H W"], to: Domain) -> Float[Tensor, "B 3 H W"]:
        """F_IJ (to "clear") or F_JI (to "hazy") of images in [0, 1] with sides that are multiples of 4."""
        source: Domain = "clear" if to == "hazy" else "hazy"
        return self.decode(self.sample(self.encode(2 * image - 1, source)), to).float().add(1).div(2).clamp(0, 1)


def check_crop(config: TranslatorConfig, crop: int) -> None:
    """Raise UsageError for crops that are too small for the layers of stride 2, or not a multiple of the stride."""
    smallest = 2 * STRIDE  # normalization needs more than one sample
    if crop % STRIDE or crop < smallest:
        what = f"data.crop must be a multiple of {STRIDE} and at least {smallest} for translators, not {crop}"
        raise UsageError(what, where="--set data.crop", hint=f"set data.crop={max(crop // STRIDE * STRIDE, smallest)}")
    discriminator, side = config.discriminator, crop
    for _ in range(discriminator.scales - 1):
        side = -(-side // 2)
    for _ in range(discriminator.layers - 1):
        side //= 2
    if side < (4 if discriminator.norm else 2):  # the last layer of stride 2 halves once more
        what = f"a crop of {crop} pixels is too small for a discriminator of {discriminator.scales} scales"
        raise UsageError(
            f"{what} and {discriminator.layers} layers",
            where="--set model.discriminator",
            hint="set fewer scales or layers, or a larger data.crop",
        )


def encoder(config: TranslatorConfig) -> nn.Sequential:
    n = config.channels
    return nn.Sequential(
        conv(3, n, 7), ImageNorm(n), nn.ReLU(),
        conv(n, 2 * n, 4, 2), ImageNorm(2 * n), nn.ReLU(),
        conv(2 * n, 4 * n, 4, 2), ImageNorm(4 * n), nn.ReLU(),
        *(NormResidual(4 * n) for _ in range(config.blocks - config.shared_blocks)),
    )  # fmt: skip


def decoder(config: TranslatorConfig) -> nn.Sequential:
    n = config.channels
    return nn.Sequential(
        *(NormResidual(4 * n) for _ in range(config.blocks - config.shared_blocks)),
        DoubledConv(4 * n, 2 * n), ImageNorm(2 * n, layer=True), nn.ReLU(),
        DoubledConv(2 * n, n), ImageNorm(n, layer=True), nn.ReLU(),
        conv(n, 3, 7), nn.Tanh(),
    )  # fmt: skip


def receptive_radius(config: TranslatorConfig) -> int:
    """Radius of the receptive field of a translated pixel, in image pixels, rounded up to a multiple of the stride.

    Terms: 3 for the first layer; 1 and 2 for the strided layers; two positions of 4 pixels per residual block of encoder and
    decoder; two positions of 2 pixels and of 1 pixel for the layers after upsampling, plus the rounding of each upsampling; 3
    for the last layer.
    """
    pixels = 3 + 1 + 2 + 2 * config.blocks * 2 * STRIDE + (2 * 2 + 2) + (2 + 1) + 3
    return -(-pixels // STRIDE) * STRIDE


class Discriminator(nn.Module):
    """Multi-scale discriminator of one domain: on the image and on copies, each reduced to half the size of the previous."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.scales = nn.ModuleList(discriminator_layers(config) for _ in range(config.scales))

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B 1 h w"]]:
        """One map of scores per scale; scores above 1/2 (logits above 0) mean real."""
        scores: list[Tensor] = []
        for scale in self.scales:
            scores.append(scale(image))
            image = F.avg_pool2d(image, 3, 2, padding=1, count_include_pad=False)
        return scores


def discriminator_layers(config: DiscriminatorConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for index in range(config.layers):
        wide = config.channels * 2**index
        layers.append(conv(channels, wide, 4, 2))
        if config.norm and index:
            layers.append(ImageNorm(wide))
        layers.append(nn.LeakyReLU(SLOPE))
        channels = wide
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def initialize(model: HazeTranslator) -> None:
    """Initial weights as in UNIT: Kaiming for the generators, N(0, 0.02^2) for the discriminators."""
    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            if name.startswith("judges"):
                nn.init.normal_(part.weight, 0, 0.02)
            else:
                nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
