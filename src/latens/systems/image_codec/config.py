"""Settings of the image codec (003, section 5.4.1): sizes, rates, loss, crops. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, MinLen, MultipleOf

from latens.settings import Count, NonNegative, Positive, Share, settings, validator

LAMBDAS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.04,
    0.08,
)  # 003, section 5.4.1: weight of 255^2 * MSE against bits per pixel


Lambdas = Annotated[tuple[Positive, ...], MinLen(1)]
CropSide = Annotated[int, Ge(64), MultipleOf(64)]


@settings
class ImageCodecConfig:
    """Sizes of the transforms and the rates one model serves.

    With one entry in `lambdas` the model is the plain one of the paper; with several it learns a gain vector for each, and
    any real-valued quality between them (1 is the first entry) selects a rate.
    """

    hidden: Count = 192  # N: channels of every hidden layer and of the hyper-latent z
    latent: Count = 192  # M: channels of the latent y
    hyper: Count = 192  # channels of the first layer of the hyper-synthesis; the paper's is M
    lambdas: Lambdas = (0.01,)  # weights of 255^2 * MSE against bits per pixel, rising
    # "paper": four strided 5 x 5 layers; "compact": work starts at 1/4 of the size, see model.py
    transforms: Literal["paper", "compact"] = "paper"

    @validator
    def rates_rise(self) -> ImageCodecConfig:
        if any(low >= high for low, high in zip(self.lambdas, self.lambdas[1:], strict=False)):
            raise ValueError(f"lambdas {list(self.lambdas)} do not rise")
        return self

    @property
    def variable_rate(self) -> bool:
        return len(self.lambdas) > 1


STRIDE = 16  # image samples per latent sample and side
HYPER_STRIDE = 64  # image samples per hyper-latent sample and side
# How far the wider of the two kinds of transforms looks: picture rows that reach a latent row (52, rounded up to the hyper
# stride), and latent rows beyond its own that reach a picture row (3.25, rounded up).
ANALYSIS_HALO = 64
SYNTHESIS_HALO = 4


ROUNDING_WEIGHT = 20.0  # of squared error against bits when the encoder rounds: 5 % fewer bits than plain rounding


@settings
class RateDistortionConfig:
    """The rate-distortion loss, and the substitute for rounding in training.

    "mixed": rates of noisy latents, pictures of rounded ones (Minnen and Singh 2020). "noise": noisy latents for both, as in
    003. "hard", a second phase: the symbols that the encoder writes, from an encoder that is held still, so that the
    decoder and the entropy model learn what they will meet (as Guo et al. 2021, "Soft then hard").
    """

    rounding: Literal["mixed", "noise", "hard"] = "mixed"  # see above
    balance: NonNegative = 0.5  # the loss is divided by lambda^balance, or the high rates would drown the low ones


@settings
class CropConfig:
    """Training crops."""

    crop: CropSide = 128  # side in pixels, a multiple of 64
    batch: Count = 8  # crops
    shrink: Annotated[float, Ge(1)] = (
        2.0  # crops are drawn from up to this many times their side and reduced: no JPEG artifacts
    )
    shrink_share: Share = 0.5  # part of the crops that are reduced
    validation_share: Share = 0.05  # of the photographs is held out, chosen by file name
    validation_crop: CropSide = 256  # largest side of a held-out crop
