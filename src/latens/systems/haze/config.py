"""Settings of the haze models (Li et al. 2019), their losses and the training data. This module does not import torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, MinLen
from pydantic import Field

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator

CLASSICAL = ("dcp", "bccr")  # methods that need no weights
LEARNED = ("physical", "mmd", "unit", "cyclegan", "dehazenet")  # methods whose weights a model folder holds
TRANSLATORS = ("mmd", "unit", "cyclegan")


@settings
class DiscriminatorConfig:
    """Multi-scale discriminator of one domain (Wang et al. 2018)."""

    channels: Count = 64  # of the first layer
    scales: Count = 3  # number of scales; each has half the size of the one before
    layers: Count = 4  # of stride 2
    norm: bool = False  # instance normalization from the second layer on
    pool: Natural = 0  # generated images in the history (Shrivastava et al. 2017); 0: no history


@settings
class TranslatorConfig:
    """Image-to-image translation between the domains: the model of the paper (Fig. 1), UNIT or CycleGAN."""

    kind: Literal["mmd", "unit", "cyclegan"] = "mmd"  # row of Table 1
    channels: Count = 64  # after the first layer
    blocks: Count = 4  # residual blocks of every encoder and every generator
    shared_blocks: Natural = 0  # residual blocks next to the code that both domains share (UNIT's paper: 1, its code: 0)
    code_channels: Natural = 0  # channels of the code ("8-dimension" in the text of the paper); 0: those of the residual blocks
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    @validator
    def shares_at_most_all(self) -> TranslatorConfig:
        if self.shared_blocks > self.blocks:
            raise ValueError(f"shared_blocks ({self.shared_blocks}) must be at most blocks ({self.blocks})")
        return self


@settings
class PhysicalConfig:
    """The physical model: it predicts depth and haze parameters, and the scattering model (Eq. 1) computes both images."""

    kind: Literal["physical"] = "physical"  # row of Table 1
    channels: Count = 64  # after the first layer
    short_side: Count = 240  # pixels; images are reduced to about this shorter side
    fold: Literal[2, 4] = 4  # side of the pixel blocks of the first layer; 2: maps at half the size, four times the work

    def without_effect(self) -> dict[str, str]:
        return dict.fromkeys((".data.disjoint", ".objective.prior.double_first_prior_term"), "only translators use it")


@settings
class DehazeNetConfig:
    """DehazeNet (Cai et al. 2016), whose sizes are fixed."""

    kind: Literal["dehazenet"] = "dehazenet"  # row of Table 1


HazeModel: TypeAlias = Annotated[TranslatorConfig | PhysicalConfig | DehazeNetConfig, Field(discriminator="kind")]


@settings
class PriorConfig:
    """Loss that matches the distribution of the code to N(0, 1) (Eqs. 8 to 12)."""

    kind: Literal["mmd", "kl", "none"] = "mmd"  # maximum mean discrepancy, KL divergence (UNIT) or none (CycleGAN)
    weight: NonNegative = 0.01  # lambda_m
    bandwidth: NonNegative = 0.0  # sigma of the Gaussian kernel; 0: the square root of the code's channels
    kernels: Annotated[tuple[Positive, ...], MinLen(1)] = (1.0,)  # factors on sigma; the kernels are averaged
    positions: Annotated[int, Ge(2)] = 512  # randomly drawn positions of the code per term; Eq. 8 needs two
    sampled: bool = False  # match the noisy code instead of its mean
    double_first_prior_term: bool = (
        False  # count the first term in Eqs. 9 and 10 and again in 11 and 12, as printed; UNIT counts it once
    )

    def without_effect(self) -> dict[str, str]:
        kernel = ("bandwidth", "kernels", "positions")
        if self.kind == "none":
            return dict.fromkeys(("weight", "sampled", "double_first_prior_term", *kernel), "prior.kind is none")
        return dict.fromkeys(kernel, "the kl divergence has no kernel") if self.kind == "kl" else {}


@settings
class TranslationLossConfig:
    """Loss weights of the translators (Eq. 13; UNIT; CycleGAN)."""

    adversarial: Literal["lsgan", "log"] = "lsgan"  # least squares; "log": Eqs. 2 and 3
    adversarial_weight: NonNegative = 1.0  # of the adversarial terms
    reconstruction_weight: NonNegative = 10.0  # of the reconstruction loss within a domain
    cycle_weight: NonNegative = 10.0  # of the cycle-consistency loss
    identity_weight: NonNegative = 0.0  # of CycleGAN's identity loss: an image of the target domain should not change
    distance: Literal["l1", "l2"] = "l1"  # or "l2": -log p of a unit Laplace or Gaussian
    prior: PriorConfig = field(default_factory=PriorConfig)

    def without_effect(self) -> dict[str, str]:
        return {} if self.adversarial_weight else {"adversarial": "adversarial_weight is 0"}


@settings
class PhysicalLossConfig:
    """Loss weights of the physical model: mean absolute errors; for haze parameters, normalized squared errors."""

    clear_weight: NonNegative = 1.0  # of the dehazed image
    transmission_weight: NonNegative = 1.0  # of t
    parameters_weight: NonNegative = 0.1  # of airlight and beta
    depth_weight: NonNegative = 0.5  # of the depth predicted from either image
    synthesis_weight: NonNegative = 1.0  # of the hazed image
    code_weight: NonNegative = 0.05  # of the difference between the codes of a scene in both domains
    consistency_weight: NonNegative = 0.0  # of the difference between the estimates for an image and for a blurred one
    prior: PriorConfig = field(default_factory=lambda: PriorConfig(weight=0.001))


@settings
class PatchLossConfig:
    """Loss of DehazeNet: squared error of t."""

    airlight: Share = 1.0  # airlight of the training patches; 1 in the paper


@settings
class HazeDataConfig:
    """Training images: resized, cropped, mirrored, and hazed as in section 4.1.1.

    `scenes` simulated streets are added to the folders. Depth d is relative, in [0, 1].
    """

    side: Annotated[int, Ge(32)] = 192  # images are reduced to this short side
    crop: Annotated[int, Ge(16)] = 128  # side of a training crop, pixels; for DehazeNet, smallest side of a scene
    batch: Count = 4  # crops
    scenes: Natural = 240  # number of simulated streets
    max_depth: NonNegative = 0.0  # meters at which relative depth is 1; 0: the farthest point of each crop or scene
    farthest_of: Literal["crop", "scene"] = (
        "crop"  # scene: the whole scene is hazed, and crops are taken from it, as in the paper
    )
    draws: Natural = 0  # fixed draws of airlight and beta per image; 0: a new draw for every crop
    validation_share: Share = 0.1  # the last images of every folder, so that neighboring frames stay together
    disjoint: bool = False  # take hazy and clear images of translators from different halves of the scenes
    color_jitter: NonNegative = 0.0  # strength of jitter in gamma, gain and tint; 1 is the spread between consumer cameras
    border: Natural = 0  # pixels cut off every side of images from folders (12 removes the white frame of NYU)
    borders: tuple[Natural, ...] = ()  # the same, one per folder in their order; empty: `border` for all
    held_out_from: Natural = 0  # scenes with this number or more are left for tests, not even validated on; 0: none
    gray_airlight: Share = 0.0  # share of the draws whose airlight is nearly gray; the others are drawn channel by channel
    dimming: Share = 0.0  # crops are dimmed to a brightness from 1 - dimming to 1 after hazing

    def without_effect(self) -> dict[str, str]:
        return {"farthest_of": "max_depth sets the range of the depth"} if self.max_depth else {}

    @validator
    def crops_fit(self) -> HazeDataConfig:
        if self.crop > self.side:
            raise ValueError(f"crops of {self.crop} pixels do not fit into images reduced to {self.side} (data.side)")
        return self
