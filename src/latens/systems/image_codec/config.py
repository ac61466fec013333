"""Sizes and rates of the image codec (003, section 5.4.1). Nothing here imports torch, so `--help` stays instant."""

from __future__ import annotations

from latens.settings import settings

LAMBDAS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.04,
    0.08,
)  # 003, section 5.4.1: weight of 255^2 * MSE against bits per pixel


@settings
class ImageCodecConfig:
    """Sizes of the transforms and the rates one model serves.

    With one entry in `lambdas` the model is the plain one of the paper; with several it learns a gain vector for each, and
    any real-valued quality between them (1 is the first entry) selects a rate.
    """

    hidden: int = 192  # N: channels of every hidden layer and of the hyper-latent z
    latent: int = 192  # M: channels of the latent y
    hyper: int = 192  # channels of the first layer of the hyper-synthesis; the paper's is M
    lambdas: tuple[float, ...] = (0.01,)
    transforms: str = "paper"  # "paper": four strided 5 x 5 layers; "compact": work starts at 1/4 of the size, see model.py

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
    """What stands in for rounding in training.

    "mixed": rates of noisy latents, pictures of rounded ones (Minnen and Singh 2020). "noise": noisy latents for both, as in
    003. "hard", a second phase: the symbols that the encoder writes, from an encoder that is held still, so that the
    decoder and the entropy model learn what they will meet (as Guo et al. 2021, "Soft then hard").
    """

    rounding: str = "mixed"
    # Loss grows with lambda; dividing by lambda^balance keeps the low rates from being drowned by the high ones.
    balance: float = 0.5


@settings
class CropConfig:
    """How training crops are drawn. A share `validation_share` of the photographs is held out, chosen by file name."""

    crop: int = 128
    batch: int = 8
    shrink: float = 2.0  # crops are drawn from up to this many times their side and reduced, which hides JPEG artefacts
    shrink_share: float = 0.5  # part of the crops that are reduced
    validation_share: float = 0.05
    validation_crop: int = 256
