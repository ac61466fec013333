"""Sizes of the networks and weights of the losses of 004. Nothing here imports torch, so `--help` stays instant."""

from __future__ import annotations

from dataclasses import field

from latens.settings import settings

KINDS = ("patchvae", "betavae", "bigan", "mae", "supervised")
ENCODERS = ("resnet", "local")


@settings
class PartsConfig:
    """One model of the family of Table 1: what is learned (`kind`) on top of which encoder."""

    kind: str = "patchvae"
    size: int = 32  # side of the pictures it is trained on, a multiple of 8
    encoder: str = "resnet"  # "resnet": that of the paper, sees 99 pixels; "local": sees 24
    blocks: int = 2  # residual stages of the resnet encoder: 2 end at 1/8 of the size, 4 (ImageNet) at 1/32
    parts: int = 16  # N
    appearance: int = 6  # d_p: dimensions of one part's appearance; the codes of the other kinds have N * d_p
    categorical: bool = False  # one part per cell instead of independent ones
    classes: int = 0  # outputs of a supervised model


@settings
class AnnealingConfig:
    """How occurrences are relaxed (004, section 4). `compound` is the released code's faster fall of the temperature.

    With `hard` the decoder sees 0 or 1 and gradients pass straight through.
    """

    start: float = 1.0
    floor: float = 0.1
    rate: float = 3e-5
    compound: bool = True
    hard: bool = False


@settings
class LossConfig:
    """Weights of the losses; squared error is summed over pixels in [0, 1], divergences are in nats a picture.

    `beta_app` weighs the divergence of appearances and `beta_occ` that of occurrences (Eqs. 9 and 11 print them the other
    way round; section 4.3 and the released code agree with these names). The released weights 1 and 10 apply to pixels
    divided by a deviation of about 0.226: in units of [0, 1] they are 0.051 and 0.51.
    """

    beta_app: float = 0.05
    beta_occ: float = 0.3
    prior: float = 0.0  # probability that a part is at a cell; 0 stands for 1/N
    weighted: bool = False  # L_w: the error is weighted by the gradient energy of its 8 x 8 cell
    adversarial: float = 0.0  # weight of the discriminator's loss; above 0 for the -GAN variants
    agreement: float = 0.0  # weight of finding two views of a picture alike (see agreement.py); not together with the former
    constancy: float = 0.0  # weight of what the parts of two views tell of each other; for one part a cell (`categorical`)
    penalty: float = 1.0  # BiGAN: weight of the critic's gradient penalty
    masked: float = 0.6  # masked autoencoder: share of 8 x 8 cells that are hidden
    annealing: AnnealingConfig = field(default_factory=AnnealingConfig)


@settings
class PicturesConfig:
    """How training pictures are drawn. A share of the pictures is held out for validation, chosen by their place or name."""

    batch: int = 128
    flip: bool = True
    smallest_crop: float = 1.0  # side of the smallest square that is cut out, as a share of the shorter side
    limit: int = 0  # use the first so many pictures of the shuffled set; 0: all
    validation_share: float = 0.05
    validation_most: int = 1024  # pictures
    memory: int = 2048  # megabytes of prepared pictures kept; beyond it they are read again


STRIDE = 8  # pixels a cell and side, of encoders that end after two stages
