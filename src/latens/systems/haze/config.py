"""Sizes, losses and data of the haze system (002). Nothing here imports torch, so `--help` stays instant."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from latens.settings import settings

Kind = Literal["mmd", "unit", "cyclegan", "physical", "dehazenet"]

CLASSICAL = ("dcp", "bccr")  # methods that need no weights
LEARNED = ("physical", "mmd", "unit", "cyclegan", "dehazenet")  # what a model folder may hold
TRANSLATORS = ("mmd", "unit", "cyclegan")


@settings
class HazeConfig:
    """Sizes of a model; `kind` names the row of Table 1 it belongs to, or the physical head.

    The first six fields are those of the translators; the physical head uses `channels` and `work`.
    """

    kind: str = "mmd"
    channels: int = 64  # after the first layer
    blocks: int = 4  # residual blocks of every encoder and every generator
    shared_blocks: int = 0  # of them, how many both domains share next to the code (UNIT of 2017: 1, its code of 2018: 0)
    code_channels: int = 0  # above 0: the code has so many channels; "8-dimension" in the text of 002
    judge: JudgeConfig = field(default_factory=lambda: JudgeConfig())
    work: int = 240  # the physical head looks at pictures reduced to about this shorter side


@settings
class JudgeConfig:
    """Discriminator of one domain: the same network at several scales (Wang et al. 2018)."""

    channels: int = 64
    scales: int = 3
    layers: int = 4  # of stride 2
    norm: bool = False  # instance normalisation from the second layer on
    pool: int = 0  # above 0: judged fakes come from a history of so many (Shrivastava et al. 2017)


@settings
class PriorConfig:
    """What holds the code to N(0, 1) (002, Eqs. 8 to 12)."""

    kind: str = "mmd"  # "mmd", "kl" or "none"
    weight: float = 0.01  # lambda_m
    bandwidth: float = 0.0  # sigma of the Gaussian kernel; 0: the square root of the code's channels
    kernels: tuple[float, ...] = (1.0,)  # factors on sigma, whose kernels are averaged
    positions: int = 512  # of the code, drawn at random for each term
    sampled: bool = False  # match the noisy code instead of its mean
    twice: bool = False  # count the first term in Eqs. 9 and 10 and again in 11 and 12, as printed; UNIT counts it once


@settings
class TranslationLossConfig:
    """Weights of 002, Eq. 13, and what the baselines have instead."""

    adversarial: str = "lsgan"  # or "log": Eqs. 2 and 3 as printed
    adversarial_weight: float = 1.0
    reconstruction_weight: float = 10.0
    cycle_weight: float = 10.0
    identity_weight: float = 0.0  # CycleGAN: a picture of the target domain stays as it is
    distance: str = "l1"  # or "l2": -log p of a unit Laplace or Gaussian
    prior: PriorConfig = field(default_factory=PriorConfig)


@settings
class PhysicalLossConfig:
    """Weights of the physical head's terms: mean absolute differences, of the weather squares in units of its spread."""

    clear_weight: float = 1.0
    transmission_weight: float = 1.0
    weather_weight: float = 0.1
    depth_weight: float = 0.5
    synthesis_weight: float = 1.0
    code_weight: float = 0.05  # agreement of the codes of a scene in both domains
    prior: PriorConfig = field(default_factory=lambda: PriorConfig(weight=0.001))


@settings
class PatchLossConfig:
    """DehazeNet minimises the squared error of t; there is nothing to set but its airlight (1 in the paper)."""

    airlight: float = 1.0


@settings
class HazeDataConfig:
    """Training pictures: reduced to a short side, cropped, mirrored, and hazed by 002, section 4.1.1.

    Without folders `scenes` simulated streets are made. Depth d is in [0, 1]: of the reach in metres, or with reach 0 of each
    crop's own.
    """

    side: int = 192  # pictures are reduced to this short side
    crop: int = 128
    batch: int = 4
    scenes: int = 240
    reach: float = 0.0
    draws: int = 0  # above 0: so many weathers for every picture, fixed; 0: a new one each time
    validation_share: float = 0.1  # the last pictures of every folder, so that neighbouring frames stay together
    disjoint: bool = False  # hazy and clear pictures of translators come from different halves of the scenes
    tones: float = 0.0  # how far gamma, exposure and colours of a crop are moved, 1: as far as cameras differ
    border: int = 0  # pixels cut off every side of pictures from folders (12 removes the white frame of NYU)
