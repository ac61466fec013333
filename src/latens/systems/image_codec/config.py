"""Settings of the image codec (Perugachi-Diaz 2024, section 5.4.1): sizes, rates, loss, crops. Nothing here imports torch."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, MinLen, MultipleOf
from pydantic import Field

from latens.settings import Count, NonNegative, Positive, Share, settings, validator

# Weights of 255^2 * MSE relative to bits per pixel (section 5.4.1).
LAMBDAS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
BLOCK_CHANNELS = 768  # samples of a block of 16 x 16 color pixels

Lambdas = Annotated[tuple[Positive, ...], MinLen(1)]
CropSide = Annotated[int, Ge(64), MultipleOf(64)]


def check_lambdas(lambdas: tuple[float, ...]) -> None:
    """Raise ValueError unless the lambdas increase."""
    if any(low >= high for low, high in itertools.pairwise(lambdas)):
        raise ValueError(f"lambdas {list(lambdas)} do not increase")


class Rates(ABC):
    """Settings of a codec with one rate or several."""

    @property
    @abstractmethod
    def lambdas(self) -> Lambdas:
        """Weights of 255^2 * MSE relative to bits per pixel, increasing, one per rate."""

    @property
    def variable_rate(self) -> bool:
        return len(self.lambdas) > 1

    def without_effect(self) -> dict[str, str]:
        return {} if self.variable_rate else {".objective.balance": "model.lambdas has one rate"}


@settings
class HyperpriorConfig(Rates):
    """Sizes and rates of a mean-scale hyperprior (section 5.4.1).

    With one entry in `lambdas` the model has one rate, as in the paper. With several entries it learns a gain vector for each
    of them, and real-valued qualities (1 is the first entry) select a rate between them.
    """

    kind: Literal["hyperprior"] = "hyperprior"  # which model
    hidden: Count = 192  # N: channels of every hidden layer and of the hyper-latent z
    latent: Count = 192  # M: channels of the latent y
    hyper: Count = 192  # channels of the first layer of the hyper-synthesis; the paper's is M
    lambdas: Lambdas = (0.01,)  # weights of 255^2 * MSE relative to bits per pixel, increasing, one per rate
    # "paper": four strided 5 x 5 layers; "compact": layers at 1/4 of the resolution and below, see model.py
    transforms: Literal["paper", "compact"] = "paper"

    @validator
    def rates_increase(self) -> HyperpriorConfig:
        check_lambdas(self.lambdas)
        return self

    @validator
    def blocks_hold_the_latent(self) -> HyperpriorConfig:
        if self.transforms == "compact" and self.latent > BLOCK_CHANNELS:
            raise ValueError(f"compact transforms have at most {BLOCK_CHANNELS} latent channels, not {self.latent}")
        return self


@settings
class ContextConfig(Rates):
    """Sizes and rates of the context codec (latens): transforms without divisive normalization, and a context of four phases.

    The widths of all layers are multiples of `width`.
    """

    kind: Literal["context"] = "context"  # which model
    width: Annotated[int, Ge(4), MultipleOf(4)] = 64  # channels of the narrowest layers; the widest have 4 times as many
    latent: Annotated[int, Ge(2)] = 320  # M: channels of the latent y
    hyper: Count = 96  # channels of the hyper-latent z
    strong: Count = 64  # latent channels that are coded before the others of their phase
    lambdas: Lambdas = (0.01,)  # weights of 255^2 * MSE relative to bits per pixel, increasing, one per rate

    @validator
    def rates_increase(self) -> ContextConfig:
        check_lambdas(self.lambdas)
        return self

    @validator
    def channels_fit(self) -> ContextConfig:
        if self.latent > BLOCK_CHANNELS:
            raise ValueError(f"there are at most {BLOCK_CHANNELS} latent channels, not {self.latent}")
        if self.strong >= self.latent:
            raise ValueError(f"of {self.latent} latent channels, at most {self.latent - 1} are strong, not {self.strong}")
        return self


@settings
class ContextHyperpriorConfig(Rates):
    """A mean-scale hyperprior with a context model (latens), which is fitted while the other weights stay as they are."""

    kind: Literal["context_hyperprior"] = "context_hyperprior"  # which model
    base: HyperpriorConfig = HyperpriorConfig()  # the hyperprior
    features: Count = 64  # channels of the features of the context model
    strong: Count = 64  # latent channels that are coded before the others of their phase
    slice_width: Count = 48  # hidden channels of the layers from the strong to the other channels

    @validator
    def channels_fit(self) -> ContextHyperpriorConfig:
        if self.strong >= self.base.latent:
            raise ValueError(f"of {self.base.latent} latent channels, {self.strong} cannot come before the others")
        return self

    @property
    def lambdas(self) -> Lambdas:
        return self.base.lambdas


ImageModel: TypeAlias = Annotated[HyperpriorConfig | ContextConfig | ContextHyperpriorConfig, Field(discriminator="kind")]


STRIDE = 16  # image pixels per latent sample, in each direction
HYPER_STRIDE = 64  # image pixels per hyper-latent sample, in each direction

ROUNDING_WEIGHT = 20.0  # weight of squared errors relative to bits in rate-aware rounding: 5 % fewer bits than plain rounding

DISTORTION = "distortion"  # key of config.json: the distortion that the transforms were trained for, if not MSE


@settings
class RateDistortionConfig:
    """The rate-distortion loss, and the substitute for rounding in training.

    "mixed": rate of noisy latents, distortion of rounded latents (Minnen and Singh 2020). "noise": noisy latents for both
    (Perugachi-Diaz 2024). "hard": a second phase that freezes the encoder and trains the decoder and the entropy model on the
    symbols that the encoder writes (Guo et al. 2021). "entropy": the same symbols; only the context model is trained, by the
    rate. "encoder": the distortion of the same symbols, with the gradient of the identity, and the rate of noisy latents; the
    entropy model is frozen.

    "structure" minimizes log(bits per pixel) times the slope of the rate, plus the logarithms of the distortion of `structure`
    and, with the weight `coarse_share`, of the MSE of images at an eighth of the size. At slopes of
    -d log(distortion) / d log(bits per pixel), the model does not move along its curve.
    """

    rounding: Literal["mixed", "noise", "hard", "entropy", "encoder"] = "mixed"  # substitute for rounding in training
    distortion: Literal["mse", "structure"] = "mse"  # that is minimized
    slopes: tuple[Positive, ...] = ()  # of "structure", one per rate
    # Weight of the log coarse MSE in "structure", whose other terms hardly change with a shift of brightness or color
    coarse_share: Share = 0.3
    balance: NonNegative = 0.5  # the loss is divided by lambda^balance; with 0 the high rates dominate the low ones
    rates_per_crop: Count = 1  # rates at which every crop is coded, from one analysis

    def without_effect(self) -> dict[str, str]:
        unused = ("balance",) if self.distortion == "structure" else ("slopes", "coarse_share")
        return dict.fromkeys(unused, f"distortion is '{self.distortion}'")


@settings
class CropConfig:
    """Training crops."""

    crop: CropSide = 128  # side in pixels, a multiple of 64
    batch: Count = 8  # crops per training step
    # Half of the crops are drawn up to this many times larger and downsampled, which hides JPEG artifacts; 1: none
    shrink: Annotated[float, Ge(1)] = 2.0
    validation_share: Share = 0.05  # share of the photographs that is held out, chosen by a hash of the file name
    validation_crop: CropSide = 256  # largest side of a held-out crop in pixels, a multiple of 64
