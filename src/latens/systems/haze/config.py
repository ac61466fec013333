"""Settings of the haze system (002): one class for each model, its losses and its data. No torch here."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, MinLen
from pydantic import Field

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator

CLASSICAL = ("dcp", "bccr")  # methods that need no weights
LEARNED = ("physical", "mmd", "unit", "cyclegan", "dehazenet")  # what a model folder may hold
TRANSLATORS = ("mmd", "unit", "cyclegan")


@settings
class DiscriminatorConfig:
    """Discriminator of one domain: the same network at several scales (Wang et al. 2018)."""

    channels: Count = 64  # of the first layer
    scales: Count = 3  # each half as large as the one before
    layers: Count = 4  # of stride 2
    norm: bool = False  # instance normalization from the second layer on
    pool: Natural = 0  # above 0: fakes come from a history of so many (Shrivastava et al. 2017)


@settings
class TranslatorConfig:
    """A translator between the domains (002, Fig. 2), or a baseline of its table: `kind` names the row of Table 1."""

    kind: Literal["mmd", "unit", "cyclegan"] = "mmd"  # row of Table 1
    channels: Count = 64  # after the first layer
    blocks: Count = 4  # residual blocks of every encoder and every generator
    shared_blocks: Natural = 0  # of them, how many both domains share next to the code (UNIT of 2017: 1, its code of 2018: 0)
    code_channels: Natural = 0  # above 0: the code has so many channels; "8-dimension" in the text of 002
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    @validator
    def shares_at_most_all(self) -> TranslatorConfig:
        if self.shared_blocks > self.blocks:
            raise ValueError(f"{self.shared_blocks} shared blocks of {self.blocks}")
        return self


@settings
class PhysicalConfig:
    """The physical head: depth and haze parameters, from which both images follow by the scattering model."""

    kind: Literal["physical"] = "physical"  # row of Table 1
    channels: Count = 64  # after the first layer
    short_side: Count = 240  # images are reduced to about this shorter side

    def without_effect(self) -> dict[str, str]:
        return dict.fromkeys((".data.disjoint", ".objective.prior.double_first_prior_term"), "it is for translators")


@settings
class DehazeNetConfig:
    """DehazeNet has one size."""

    kind: Literal["dehazenet"] = "dehazenet"  # row of Table 1


HazeModel: TypeAlias = Annotated[TranslatorConfig | PhysicalConfig | DehazeNetConfig, Field(discriminator="kind")]


@settings
class PriorConfig:
    """The term that keeps the code close to N(0, 1) (002, Eqs. 8 to 12)."""

    kind: Literal["mmd", "kl", "none"] = "mmd"  # discrepancy, divergence (UNIT) or nothing (CycleGAN)
    weight: NonNegative = 0.01  # lambda_m
    bandwidth: NonNegative = 0.0  # sigma of the Gaussian kernel; 0: the square root of the code's channels
    kernels: Annotated[tuple[Positive, ...], MinLen(1)] = (1.0,)  # factors on sigma, whose kernels are averaged
    positions: Annotated[int, Ge(2)] = 512  # of the code, drawn at random for each term; Eq. 8 needs two
    sampled: bool = False  # match the noisy code instead of its mean
    double_first_prior_term: bool = (
        False  # count the first term in Eqs. 9 and 10 and again in 11 and 12, as printed; UNIT counts it once
    )

    def without_effect(self) -> dict[str, str]:
        kernel = ("bandwidth", "kernels", "positions")
        if self.kind == "none":
            return dict.fromkeys(("weight", "sampled", "double_first_prior_term", *kernel), "the kind of prior is none")
        return dict.fromkeys(kernel, "the kl divergence has no kernel") if self.kind == "kl" else {}


@settings
class TranslationLossConfig:
    """Weights of 002, Eq. 13, and what the baselines have instead."""

    adversarial: Literal["lsgan", "log"] = "lsgan"  # least squares; "log": Eqs. 2 and 3 as printed
    adversarial_weight: NonNegative = 1.0  # of the adversarial terms
    reconstruction_weight: NonNegative = 10.0  # of an image that is encoded and rendered in its own domain
    cycle_weight: NonNegative = 10.0  # of an image that is translated there and back
    identity_weight: NonNegative = 0.0  # CycleGAN: an image of the target domain stays as it is
    distance: Literal["l1", "l2"] = "l1"  # or "l2": -log p of a unit Laplace or Gaussian
    prior: PriorConfig = field(default_factory=PriorConfig)

    def without_effect(self) -> dict[str, str]:
        return {} if self.adversarial_weight else {"adversarial": "adversarial_weight is 0"}


@settings
class PhysicalLossConfig:
    """Weights of the physical head's terms: mean absolute differences; of haze parameters, squares over their spread."""

    clear_weight: NonNegative = 1.0  # of the dehazed image
    transmission_weight: NonNegative = 1.0  # of t
    parameters_weight: NonNegative = 0.1  # of airlight and beta
    depth_weight: NonNegative = 0.5  # of the depth that is read in both domains
    synthesis_weight: NonNegative = 1.0  # of the hazed image
    code_weight: NonNegative = 0.05  # agreement of the codes of a scene in both domains
    prior: PriorConfig = field(default_factory=lambda: PriorConfig(weight=0.001))


@settings
class PatchLossConfig:
    """DehazeNet minimizes the squared error of t."""

    airlight: Share = 1.0  # of training patches; 1 in the paper


@settings
class HazeDataConfig:
    """Training images: reduced to a short side, cropped, mirrored, and hazed by 002, section 4.1.1.

    Without folders `scenes` simulated streets are made. Depth d is in [0, 1]: of the reach in metres, or with reach 0 of each
    crop's own.
    """

    side: Annotated[int, Ge(32)] = 192  # images are reduced to this short side
    crop: Annotated[int, Ge(16)] = 128  # side of a training crop in pixels; DehazeNet takes patches of 16 from scenes as large
    batch: Count = 4  # crops
    scenes: Natural = 240  # simulated streets
    reach: NonNegative = 0.0  # meters at which relative depth is 1; 0: the own farthest point of each crop
    draws: Natural = 0  # above 0: so many draws of airlight and beta for every image, fixed; 0: a new one each time
    validation_share: Share = 0.1  # the last images of every folder, so that neighboring frames stay together
    disjoint: bool = False  # hazy and clear images of translators come from different halves of the scenes
    color_jitter: NonNegative = 0.0  # strength of jitter in gamma, gain and tint; 1 is the spread between consumer cameras
    border: Natural = 0  # pixels cut off every side of images from folders (12 removes the white frame of NYU)

    @validator
    def crops_fit(self) -> HazeDataConfig:
        if self.crop > self.side:
            raise ValueError(f"crops of {self.crop} pixels do not fit into images reduced to {self.side} (data.side)")
        return self
