"""Settings of the networks, losses and data of 004. No torch here."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MultipleOf

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator

STRIDE = 8  # pixels a cell and side, of encoders that end after two stages

Kind = Literal["patchvae", "betavae", "bigan", "mae", "supervised"]


@settings
class PartsConfig:
    """One model of the family of Table 1: a task (`kind`) on top of an encoder."""

    kind: Kind = "patchvae"  # row of Table 1
    size: Annotated[int, Ge(STRIDE), MultipleOf(STRIDE)] = 32  # side of the images it is trained on, a multiple of the stride
    encoder: Literal["resnet", "local"] = "resnet"  # "resnet": that of the paper, sees 99 pixels; "local": sees 24
    blocks: Annotated[int, Ge(1), Le(4)] = 2  # residual stages of the resnet: 2 end at 1/8 of the size, 4 at 1/32
    parts: Annotated[int, Ge(2)] = 16  # N: number of parts
    appearance: Count = 6  # d_p: dimensions of one part's appearance; the codes of the other kinds have N * d_p
    categorical: bool = False  # one part per cell instead of independent ones
    classes: Natural = 0  # outputs of a supervised model; 0: those of the training data

    @property
    def stride(self) -> int:
        """Pixels per cell of the map of parts and side."""
        return STRIDE if self.encoder == "local" else 2 ** (self.blocks + 1)

    @validator
    def fits_the_stride(self) -> PartsConfig:
        step = max(self.stride, STRIDE)
        if self.size % step:
            raise ValueError(f"size {self.size} is no multiple of {step}; 32, 64 or 224 are usual")
        return self


@settings
class AnnealingConfig:
    """Annealing of the relaxed occurrences (004, section 4)."""

    start: Positive = 1.0  # first temperature
    floor: Positive = 0.1  # lowest temperature
    rate: NonNegative = 3e-5  # of the exponential decay, per step
    compound: bool = True  # the released code's faster decay
    hard: bool = False  # the decoder sees 0 or 1, and gradients pass straight through

    @validator
    def falls(self) -> AnnealingConfig:
        if self.floor > self.start:
            raise ValueError(f"floor {self.floor:g} is above start {self.start:g}")
        return self


@settings
class LossConfig:
    """Weights of the losses; squared error is summed over pixels in [0, 1], divergences are in nats an image.

    `beta_app` weighs the divergence of appearances and `beta_occ` that of occurrences (Eqs. 9 and 11 print them the other
    way round; section 4.3 and the released code agree with these names). The released weights 1 and 10 apply to pixels
    divided by a deviation of about 0.226: in units of [0, 1] they are 0.051 and 0.51.
    """

    beta_app: NonNegative = 0.05  # of the divergence of appearances
    beta_occ: NonNegative = 0.3  # of the divergence of occurrences
    prior: Annotated[float, Ge(0), Lt(1)] = 0.0  # probability that a part is at a cell; 0: 1/N
    weighted: bool = False  # L_w: the error is weighted by the gradient energy of its 8 x 8 cell
    adversarial: NonNegative = 0.0  # weight of the discriminator's loss; above 0 for the -GAN variants
    contrastive_weight: NonNegative = 0.0  # of NT-Xent between two views (see two_views.py); not together with the former
    iic_weight: NonNegative = 0.0  # of the IIC loss between the parts of two views; for one part a cell (`categorical`)
    penalty: NonNegative = 1.0  # BiGAN: weight of the critic's gradient penalty
    masked: Annotated[float, Gt(0), Lt(1)] = 0.6  # masked autoencoder: share of 8 x 8 cells that are hidden
    annealing: AnnealingConfig = field(default_factory=AnnealingConfig)


@settings
class ImagesConfig:
    """Training images."""

    batch: Annotated[int, Ge(2)] = 128  # images; batch normalization needs two
    flip: bool = True  # half of the images are mirrored
    smallest_crop: Annotated[float, Gt(0), Le(1)] = 1.0  # smallest square that is cut out, as a share of the shorter side
    limit: Natural = 0  # use the first so many images of the shuffled set; 0: all
    validation_share: Share = 0.05  # held out, chosen by place or name
    validation_most: Count = 1024  # images
    memory: Natural = 2048  # megabytes of prepared images kept; beyond it they are read again
