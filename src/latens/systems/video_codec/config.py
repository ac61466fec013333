"""Settings of the video codecs: sizes, methods, clips and objective. Nothing here imports torch, so `--help` stays instant."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Le, MinLen, MultipleOf
from pydantic import Field

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator

# Eight rates, evenly spaced on a logarithmic scale from 0.001 to 0.04: weights of 255^2 * MSE relative to bits per pixel, as in
# the bundled image codec. The beta of Perugachi-Diaz 2024 is 1 / (255^2 lambda): 1e-4 * 2^a is lambda = 0.154 / 2^a.
EIGHT_RATES = tuple(round(0.001 * 40 ** (i / 7), 6) for i in range(8))
STRIDE = 16  # image pixels per latent sample, in each direction
AMPLIFIER_MAX = 64.0  # largest gain amplifier ga of Eq. D.1

Penalty: TypeAlias = Annotated[float, Ge(1)]
Rates: TypeAlias = Annotated[tuple[Positive, ...], MinLen(2)]


@settings
class CodecSize:
    """Sizes of one autoencoder with its hyperprior."""

    hidden: Count  # N: channels of the transforms
    latent: Annotated[int, Ge(3)]  # M: channels of the latent
    hyper: Count  # channels of the hyper-latent and of the first layer of the hyper-synthesis


# ---------------------------------------------------------------------------------------------- methods of Figure 6.4.1


@settings
class Plain:
    """Scale-space flow without a region."""

    kind: Literal["plain"] = "plain"  # which method


@settings
class RoiLoss:
    """The training loss weights the region (Perugachi-Diaz 2024, Eq. 6.3.5); the codec has no input for it."""

    kind: Literal["roi_loss"] = "roi_loss"  # which method
    gamma: Penalty = 30.0  # errors of the background have the weight 1 / gamma


@settings
class Obic:
    """Separate hyper-codecs for region and background; the map is transmitted (object-based coding, section 6.4.3)."""

    kind: Literal["obic"] = "obic"  # which method
    gamma: Penalty = 30.0  # errors of the background have the weight 1 / gamma


@settings
class Implicit:
    """The mask is an input of the three encoders and is not transmitted (section 6.3.1)."""

    kind: Literal["implicit"] = "implicit"  # which method
    gamma: Penalty = 30.0  # errors of the background have the weight 1 / gamma


@settings
class LatentScaling:
    """Implicit, with a transmitted gain that coarsens the quantization of the background (section 6.3.2)."""

    kind: Literal["latent_scaling"] = "latent_scaling"  # which method
    gamma: Penalty = 30.0  # errors of the background have the weight 1 / gamma, at a gain amplifier of 1
    gain: CodecSize = CodecSize(hidden=32, latent=32, hyper=32)  # the two gain autoencoders
    amplified_share: Share = 0.5  # share of the training clips with a gain amplifier above 1, drawn log-uniformly up to 64


Method: TypeAlias = Annotated[Plain | RoiLoss | Obic | Implicit | LatentScaling, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------------------------------- models


@settings
class ScaleSpaceFlowConfig:
    """Scale-space flow (Agustsson et al. 2020; section 6.3): codecs of first frames, motion and residuals."""

    kind: Literal["scale_space_flow"] = "scale_space_flow"  # which model
    transforms: Literal["paper", "compact"] = "compact"  # strided 5 x 5 layers, or layers at 1/4 of the resolution and below
    intra: CodecSize = CodecSize(hidden=96, latent=256, hyper=96)  # first frames; compact: sizes of the image codec
    motion: CodecSize = CodecSize(hidden=48, latent=32, hyper=48)  # scale-space flow
    residual: CodecSize = CodecSize(hidden=64, latent=256, hyper=64)  # difference between frame and prediction
    levels: Annotated[int, Ge(1), Le(6)] = 3  # blurred versions of the reference in the scale-space volume
    sigma: Positive = 1.5  # standard deviation of the blur of the first of them, in pixels
    search: Natural = 4  # radius of the block matching for the motion encoder, in units of 8 pixels; 0: none
    lambdas: Rates = EIGHT_RATES  # weights of distortion, increasing, one per rate
    group: Count = 12  # frames from one first frame to the next
    method: Method = Plain()  # coding of the region

    @validator
    def _rates_increase(self) -> ScaleSpaceFlowConfig:
        check_rates(self.lambdas)
        return self

    @validator
    def _paper_has_no_search(self) -> ScaleSpaceFlowConfig:
        if self.transforms == "paper" and self.search:
            raise ValueError("paper transforms have no block matching: set search to 0")
        return self

    @property
    def multiple(self) -> int:
        """Coded frames are padded to multiples of this many pixels, the side of a hyper-latent sample."""
        return 128 if self.transforms == "paper" else 64


@settings
class ChunkConfig:
    """A codec without motion compensation: a chunk of frames has one latent at 1/8 of the resolution (chunk_model.py)."""

    kind: Literal["chunk"] = "chunk"  # which model
    frames: Annotated[int, Ge(2), Le(8)] = 4  # frames per chunk
    latent: Annotated[int, Ge(3)] = 256  # channels of the latent
    hyper: Count = 96  # channels of the hyper-latent, at 1/32 of the resolution
    trunk: Count = 160  # channels of the layers of a chunk at 1/8 of the resolution
    blocks: Count = 3  # residual blocks of the synthesis trunk
    head: Count = 48  # channels of the layers of one frame at 1/8 of the resolution
    fine: Count = 32  # channels of the layers of one frame at 1/4 of the resolution
    lambdas: Rates = EIGHT_RATES  # weights of distortion in the region, increasing, one per rate
    group: Count = 12  # frames from one independently coded chunk to the next
    region_share: Share = 0.5  # share of the training clips with a region; in the others all pixels have equal weight

    @validator
    def _rates_increase(self) -> ChunkConfig:
        check_rates(self.lambdas)
        return self

    @validator
    def _groups_hold_whole_chunks(self) -> ChunkConfig:
        if self.group % self.frames:
            raise ValueError(f"a group of {self.group} frames does not hold whole chunks of {self.frames}")
        return self

    @property
    def multiple(self) -> int:
        """Coded frames are padded to multiples of this many pixels, the side of a cell of the quality map."""
        return 64


VideoModel: TypeAlias = Annotated[ScaleSpaceFlowConfig | ChunkConfig, Field(discriminator="kind")]


def check_rates(lambdas: tuple[float, ...]) -> None:
    """Raise ValueError unless the weights increase strictly."""
    if any(after <= before for before, after in itertools.pairwise(lambdas)):
        raise ValueError("lambdas must increase strictly")


# ----------------------------------------------------------------------------------------------------- clips and loss


@settings
class ClipConfig:
    """Training clips: real ones, photographs in motion, and composites of cut-out objects over photographs in motion."""

    frames: Annotated[int, Ge(2)] = 3  # frames per training clip
    crop: Annotated[int, Ge(64), MultipleOf(64)] = 128  # side of a training clip in pixels
    batch: Count = 8  # clips per training step
    shrink: Annotated[float, Ge(1)] = 1.5  # frames are downsampled by this factor at reading, which hides JPEG artifacts
    zoom: Annotated[float, Ge(1)] = 1.5  # clips are drawn up to this many times larger and downsampled
    skip_share: Share = 0.25  # share of the real clips that take every second frame, for twice the motion
    photograph_share: Share = 0.3  # share of the clips that are photographs in motion
    composite_share: Share = 0.2  # share of the clips that are composites of two objects
    speed: Positive = 0.03  # typical motion of photographs per frame, in sides of the crop
    masks: Literal["objects", "perlin"] = "objects"  # regions; clips without annotated objects have noise in either case
    held_out: tuple[str, ...] = ("libby", "scooter-black")  # clips for validation
    never: tuple[str, ...] = ("blackswan", "drift-straight", "horsejump-high", "cows")  # test clips, never read
    validation_frames: Annotated[int, Ge(2)] = 12  # frames of a held-out clip, at its start and in its middle
    validation_size: tuple[Count, Count] = (192, 320)  # height and width of the central crop of a held-out clip


@settings
class VideoLoss:
    """Rate plus distortion of a clip (Eqs. 6.3.4 and 6.3.5)."""

    # The loss is divided by lambda^balance; with 0 the high rates dominate the low ones.
    balance: Share = 0.5
    train_intra: bool = True  # False: the codec of first frames keeps the weights of --init
    levels: Annotated[tuple[Positive, ...], MinLen(1)] = (1.0, 4.0, 8.0)  # qualities for validation
    quality: NonNegative = 0.0  # above 0: the only quality in training
