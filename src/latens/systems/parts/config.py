"""Settings of the networks, the losses and the training images of PatchVAE and its baselines (Gupta et al. 2020)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator

STRIDE = 8  # pixels per cell and side of encoders that end after two residual stages
EDGE = 1  # cells along every side of an image that the IIC loss excludes


# ------------------------------------------------------------------------------------------------------------ models


@settings
class NetworkConfig:
    """Settings of all models: the encoder and the size of the training images."""

    size: Annotated[int, Ge(8)] = 32  # side of the training images, a multiple of the encoder's stride and of 8
    encoder: Literal["resnet", "local"] = (
        "resnet"  # receptive field of a cell: 99 pixels for "resnet" (the paper), 24 for "local"
    )
    blocks: Annotated[int, Ge(1), Le(4)] = 2  # residual stages of "resnet": 2 (stride 8) or 4 (stride 32, ImageNet)

    @property
    def stride(self) -> int:
        """Pixels per cell of the encoder's map."""
        return STRIDE if self.encoder == "local" else 2 ** (self.blocks + 1)

    @validator
    def _fits(self) -> NetworkConfig:
        step = max(self.stride, STRIDE)
        if self.size % step:
            raise ValueError(f"size {self.size} is not a multiple of {step}; 32, 64 or 224 are usual")
        if self.encoder == "local" and self.blocks != 2:
            raise ValueError(f"blocks {self.blocks} has no effect with the local encoder; remove it")
        return self


@settings
class CodeConfig(NetworkConfig):
    """A model with a code of N * d_p dimensions."""

    parts: Annotated[int, Ge(2)] = 16  # N
    appearance: Count = 6  # d_p: dimensions of the appearance of one part


@settings
class PatchVAEConfig(CodeConfig):
    """The paper's model."""

    kind: Literal["patchvae"] = "patchvae"  # model
    categorical: bool = False  # exactly one part per cell instead of independent parts


@settings
class BetaVAEConfig(CodeConfig):
    """The paper's baseline (Higgins et al. 2017): one Gaussian for the whole image."""

    kind: Literal["betavae"] = "betavae"  # model


@settings
class BiGANConfig(CodeConfig):
    """Adversarial feature learning (Donahue et al. 2017)."""

    kind: Literal["bigan"] = "bigan"  # model


@settings
class MaskedConfig(NetworkConfig):
    """A masked autoencoder for convolutions (Xie et al. 2022, SimMIM)."""

    kind: Literal["mae"] = "mae"  # model


@settings
class SupervisedConfig(NetworkConfig):
    """Encoder and classifier trained on labels."""

    kind: Literal["supervised"] = "supervised"  # model
    classes: Natural = 0  # outputs; 0: as many as the training images have


PartsConfig: TypeAlias = Annotated[
    PatchVAEConfig | BetaVAEConfig | BiGANConfig | MaskedConfig | SupervisedConfig, Field(discriminator="kind")
]


# ------------------------------------------------------------------------------------------------------------ losses


@settings
class AnnealingConfig:
    """Temperature schedule of the relaxed occurrences (section 4)."""

    start: Positive = 1.0  # temperature at the first step
    floor: Positive = 0.1  # smallest temperature
    rate: NonNegative = 3e-5  # exponential decay of the temperature, per step
    compound: bool = True  # use the faster decay of the released code
    hard: bool = False  # the decoder receives 0 or 1; straight-through gradients

    @validator
    def _falls(self) -> AnnealingConfig:
        if self.floor > self.start:
            raise ValueError(f"floor {self.floor:g} is above start {self.start:g}")
        return self

    def without_effect(self) -> dict[str, str]:
        return {} if self.rate else {"compound": "rate is 0"}


@settings
class ElboConfig:
    """Terms that PatchVAE and the beta-VAE share. Squared error is summed over pixels in [0, 1]; divergences are in nats.

    Eqs. 9 and 11 swap the names of the two weights; section 4.3 and the released code use the names used here. The released
    weights 1 and 10 apply to pixels divided by a deviation of about 0.226: in units of [0, 1] they are 0.051 and 0.51.
    """

    beta_app: NonNegative = 0.05  # weight of the divergence of the appearances (of the whole code for a beta-VAE)
    weighted: bool = False  # L_w: the error is weighted by the gradient energy of its 8 x 8 cell
    adversarial: NonNegative = 0.0  # weight of the discriminator's loss; above 0 for the -GAN variants
    contrastive_weight: NonNegative = 0.0  # weight of the NT-Xent loss between two views of an image (two_views.py)

    @validator
    def _one_of_two(self) -> ElboConfig:
        if self.adversarial and self.contrastive_weight:
            raise ValueError("adversarial and contrastive_weight cannot be used together; set one of them to 0")
        return self


@settings
class PatchVAELoss(ElboConfig):
    """Loss of a PatchVAE (Eq. 11)."""

    kind: Literal["patchvae"] = "patchvae"  # the same as model.kind
    beta_occ: NonNegative = 0.3  # weight of the divergence of the occurrences
    prior: Annotated[float, Ge(0), Lt(1)] = 0.0  # probability that a part occurs in a cell; 0: 1/N
    iic_weight: NonNegative = 0.0  # weight of the IIC loss between the parts of two views; for `categorical` models
    annealing: AnnealingConfig = field(default_factory=AnnealingConfig)  # of the relaxed occurrences


@settings
class BetaVAELoss(ElboConfig):
    """Loss of a beta-VAE (Eq. 3)."""

    kind: Literal["betavae"] = "betavae"  # the same as model.kind


@settings
class BiGANLoss:
    """Logistic loss of the critic, with a gradient penalty."""

    kind: Literal["bigan"] = "bigan"  # the same as model.kind
    penalty: NonNegative = 1.0  # weight of the critic's gradient penalty (R1)


@settings
class MaskedLoss:
    """Squared error of hidden pixels."""

    kind: Literal["mae"] = "mae"  # the same as model.kind
    masked: Annotated[float, Gt(0), Lt(1)] = 0.6  # share of 8 x 8 cells that are hidden


@settings
class SupervisedLoss:
    """Cross-entropy of the labels."""

    kind: Literal["supervised"] = "supervised"  # the same as model.kind


LossConfig: TypeAlias = Annotated[
    PatchVAELoss | BetaVAELoss | BiGANLoss | MaskedLoss | SupervisedLoss, Field(discriminator="kind")
]


# -------------------------------------------------------------------------------------------------------------- data


@settings
class ImagesConfig:
    """Sampling of training images. Images are held out for validation by a hash of their names."""

    batch: Annotated[int, Ge(2)] = 128  # images; batch normalization needs two
    flip: bool = True  # mirror half of the images
    smallest_crop: Annotated[float, Gt(0), Le(1)] = 1.0  # side of the smallest random crop, as a share of the shorter side
    limit: Natural = 0  # number of images used of each data set, chosen by name; 0: all
    validation_share: Share = 0.05  # share of the images that is held out
    validation_limit: Natural = 1024  # largest number of held-out images

    def without_effect(self) -> dict[str, str]:
        return {} if self.validation_share else {"validation_limit": "validation_share is 0"}

    memory: Natural = 2048  # megabytes of prepared images kept in memory; other images are read again
