"""Settings of the video codecs: sizes, methods, clips and objective. Nothing here imports torch, so `--help` stays instant."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Le, MinLen, MultipleOf
from pydantic import Field

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator

# Eight rates, evenly spaced on a logarithmic scale from 0.001 to 0.04: weights of 255^2 * MSE against bits per pixel, those of
# the bundled image codec. The beta of 003 is 1 / (255^2 lambda): 1e-4 * 2^a is lambda = 0.154 / 2^a.
EIGHT_RATES = tuple(round(0.001 * 40 ** (i / 7), 6) for i in range(8))
STRIDE = 16  # image samples per latent sample and side
AMPLIFIER_MAX = 64.0  # largest gain amplifier ga of Eq. D.1

Penalty: TypeAlias = Annotated[float, Ge(1)]
Rates: TypeAlias = Annotated[tuple[Positive, ...], MinLen(2)]


@settings
class CodecSize:
    """Sizes of one autoencoder with its hyperprior."""

    hidden: Count  # N: channels of the transforms at their largest size
    latent: Annotated[int, Ge(3)]  # M: channels of the latent
    hyper: Count  # channels of the hyper-latent and of the first layer of the hyper-synthesis


# ---------------------------------------------------------------------------------------------- methods of Figure 6.4.1


@settings
class Plain:
    """Scale-space flow without a region."""

    kind: Literal["plain"] = "plain"  # which method


@settings
class RoiLoss:
    """The codec is blind to the region, its training loss is not (003, Eq. 6.3.5)."""

    kind: Literal["roi_loss"] = "roi_loss"  # which method
    gamma: Penalty = 30.0  # errors of the background count 1 / gamma


@settings
class Obic:
    """Separate hyper-codecs for region and background; their map is sent (object-based coding, 003, section 6.4.3)."""

    kind: Literal["obic"] = "obic"  # which method
    gamma: Penalty = 30.0  # errors of the background count 1 / gamma


@settings
class Implicit:
    """The three encoders see the mask; nothing is sent (003, section 6.3.1)."""

    kind: Literal["implicit"] = "implicit"  # which method
    gamma: Penalty = 30.0  # errors of the background count 1 / gamma


@settings
class LatentScaling:
    """As implicit, and a transmitted gain coarsens the quantization of the background (003, section 6.3.2)."""

    kind: Literal["latent_scaling"] = "latent_scaling"  # which method
    gamma: Penalty = 30.0  # errors of the background count 1 / gamma, at a gain amplifier of 1
    gain: CodecSize = CodecSize(hidden=32, latent=32, hyper=32)  # the two gain autoencoders
    amplified_share: Share = 0.5  # part of the training clips with a gain amplifier above 1, drawn log-uniformly up to 64


Method: TypeAlias = Annotated[Plain | RoiLoss | Obic | Implicit | LatentScaling, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------------------------------- models


@settings
class ScaleSpaceFlowConfig:
    """Scale-space flow (Agustsson et al. 2020; 003, section 6.3): codecs of first frames, of motion and of residuals."""

    kind: Literal["scale_space_flow"] = "scale_space_flow"  # which model
    transforms: Literal["paper", "compact"] = "compact"  # strided 5 x 5 layers, or work from 1/4 of the size (nn/transforms.py)
    intra: CodecSize = CodecSize(hidden=96, latent=256, hyper=96)  # first frames; compact: sizes of the image codec
    motion: CodecSize = CodecSize(hidden=48, latent=32, hyper=48)  # scale-space flow
    residual: CodecSize = CodecSize(hidden=64, latent=256, hyper=64)  # difference of frame and prediction
    levels: Annotated[int, Ge(1), Le(6)] = 3  # blurred versions of the reference in the scale-space volume
    sigma: Positive = 1.5  # blur of the first of them in pixels
    search: Natural = 4  # reach of the block matching that the motion encoder sees, in 8 pixels; 0: it sees none
    lambdas: Rates = EIGHT_RATES  # weights of distortion, increasing; one for each rate
    group: Count = 12  # frames from one first frame to the next
    method: Method = Plain()  # treatment of the region

    @validator
    def _rates_increase(self) -> ScaleSpaceFlowConfig:
        check_rates(self.lambdas)
        return self

    @validator
    def _paper_has_no_search(self) -> ScaleSpaceFlowConfig:
        if self.transforms == "paper" and self.search:
            raise ValueError("the motion encoder of the paper has no block matching: set search to 0")
        return self

    @property
    def multiple(self) -> int:
        """Sides of coded frames are multiples of this many pixels: those of a hyper-latent sample."""
        return 128 if self.transforms == "paper" else 64


@settings
class ChunkConfig:
    """A codec without motion compensation: one latent at 1/8 of the size for a chunk of frames (chunk_model.py)."""

    kind: Literal["chunk"] = "chunk"  # which model
    frames: Annotated[int, Ge(2), Le(8)] = 4  # of one chunk
    latent: Annotated[int, Ge(3)] = 256  # channels of the latent
    hyper: Count = 96  # channels of the hyper-latent, which has 1/32 of the size
    trunk: Count = 160  # channels of the common layers at 1/8 of the size
    blocks: Count = 3  # residual blocks of the synthesis trunk
    head: Count = 48  # channels of the layers of one frame at 1/8 of the size
    fine: Count = 32  # channels of the layers of one frame at 1/4 of the size
    lambdas: Rates = EIGHT_RATES  # weights of distortion in the region, increasing; one for each rate
    group: Count = 12  # frames from one chunk that is coded by itself to the next
    region_share: Share = 0.5  # part of the training clips with a region; in the others all pixels count alike

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
        """Sides of coded frames are multiples of this many pixels: those of a cell of the quality map."""
        return 64


VideoModel: TypeAlias = Annotated[ScaleSpaceFlowConfig | ChunkConfig, Field(discriminator="kind")]


def check_rates(lambdas: tuple[float, ...]) -> None:
    """Raises ValueError unless the weights increase strictly."""
    if any(after <= before for before, after in itertools.pairwise(lambdas)):
        raise ValueError("lambdas must increase strictly")


# ----------------------------------------------------------------------------------------------------- clips and loss


@settings
class ClipConfig:
    """How training clips are drawn: real ones, photographs in motion, and cut-out objects over photographs in motion."""

    frames: Annotated[int, Ge(2)] = 3  # of a training clip
    crop: Annotated[int, Ge(64), MultipleOf(64)] = 128  # side of a training clip in pixels
    batch: Count = 8  # clips of a training step
    shrink: Annotated[float, Ge(1)] = 1.5  # frames are reduced by this factor when they are read: it hides JPEG artifacts
    zoom: Annotated[float, Ge(1)] = 1.5  # clips are drawn up to this many times larger and reduced again
    skip_share: Share = 0.25  # part of the real clips that take every second frame: twice the motion
    photograph_share: Share = 0.3  # part of the clips that are photographs in motion
    composite_share: Share = 0.2  # part of the clips that are two cut-out objects over a photograph in motion
    speed: Positive = 0.03  # typical motion of photographs from frame to frame, in sides of the crop
    masks: Literal["objects", "perlin"] = "objects"  # regions: annotated objects where there are any, or noise everywhere
    held_out: tuple[str, ...] = ("libby", "scooter-black")  # clips that validate
    never: tuple[str, ...] = ("blackswan", "drift-straight", "horsejump-high", "cows")  # clips that are not read: test clips
    validation_frames: Annotated[int, Ge(2)] = 12  # of a held-out clip, from its first and from its middle
    validation_size: tuple[Count, Count] = (192, 320)  # height and width of the central crop of a held-out clip


@settings
class VideoLoss:
    """Rate plus distortion of a clip (003, Eqs. 6.3.4 and 6.3.5)."""

    # Loss grows with lambda; dividing by lambda^balance keeps the low rates from being drowned by the high ones.
    balance: Share = 0.5
    train_intra: bool = True  # False: the codec of first frames keeps its weights, which are those of --init
    levels: Annotated[tuple[Positive, ...], MinLen(1)] = (1.0, 4.0, 8.0)  # qualities that are validated
    quality: NonNegative = 0.0  # above 0: the only quality that is trained
