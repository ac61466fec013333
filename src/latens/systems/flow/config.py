"""Settings of the flow system. Nothing here imports torch, so `--help` stays instant."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import Field

from latens.settings import Count, Natural, NonNegative, Positive, Share, settings, validator

# ------------------------------------------------------------------------------------------------------------- blocks

ActivationChoice: TypeAlias = Literal["clipswish", "lipswish", "leakylswish", "crelu", "relu", "elu", "tanh"]
Below1: TypeAlias = Annotated[float, Gt(0), Lt(1)]


@settings
class DenseBlocks:
    """Dense blocks of an i-DenseNet (section 4.3)."""

    kind: Literal["dense"] = "dense"  # which blocks
    growth: Annotated[int, Ge(2)] = 178  # channels that a dense layer adds, after its activation
    depth: Count = 3  # dense layers of a block
    activation: ActivationChoice = "clipswish"  # nonlinearity of the dense layers
    learned: bool = True  # learnable weights of the concatenation (LC); false: equal weights
    budget: Annotated[float, Ge(0), Lt(1)] = 0.0  # Lipschitz bound that a block's last layer fills up; 0: coefficient alone


@settings
class ResidualBlocks:
    """Blocks of a Residual Flow (Chen et al. 2019): kernels 3, 1, 3, an activation in front."""

    kind: Literal["residual"] = "residual"  # which blocks
    width: Annotated[int, Ge(2)] = 512  # inner channels, after the activation
    activation: ActivationChoice = "lipswish"  # nonlinearity
    tail_width: Count = 128  # inner features of the fully connected blocks
    hidden: Count = 4  # inner layers of the blocks of a table; images always have two


@settings
class WideBlocks:
    """A Residual Flow with the widths and depth of a dense block, without its concatenation (Table B.4)."""

    kind: Literal["wide"] = "wide"  # which blocks
    growth: Count = 124  # channels that every layer adds
    depth: Count = 3  # layers before the last
    activation: ActivationChoice = "lipswish"  # nonlinearity


@settings
class CouplingBlocks:
    """Affine couplings, the baselines of Table 4.4.5."""

    kind: Literal["coupling"] = "coupling"  # which blocks
    width: Count = 512  # channels of the coupling networks
    mixing: bool = False  # an invertible 1 x 1 convolution before every block
    tail_width: Count = 128  # features of the coupling networks of the fully connected end


Blocks: TypeAlias = Annotated[DenseBlocks | ResidualBlocks | WideBlocks | CouplingBlocks, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------------------------------- models


@settings
class VectorFlow:
    """A flow on rows of a table."""

    kind: Literal["vector"] = "vector"  # what it models
    columns: Natural = 0  # dimensions of a row; 0: as many as the data have
    blocks: Count = 10  # residual maps behind each other
    block: Blocks = field(default_factory=lambda: DenseBlocks(growth=16, activation="lipswish"))  # their kind and sizes
    coefficient: Below1 = 0.9  # largest spectral norm of a layer
    mixing: Below1 = 0.98  # Lipschitz constant of a concatenation
    normalize: bool = False  # activation normalization before the first and after every block

    @validator
    def _no_couplings(self) -> VectorFlow:
        if self.block.kind == "coupling":
            raise ValueError("couplings are baselines for images; choose dense, residual or wide blocks")
        return self


@settings
class ImageFlow:
    """A multi-scale flow on square images."""

    kind: Literal["image"] = "image"  # what it models
    channels: Literal[1, 3] = 3  # gray or color
    size: Annotated[int, Ge(4)] = 32  # pixels of a side
    scales: Annotated[tuple[Count, ...], MinLen(1)] = (4, 4, 4)  # blocks of every scale; a squeeze between two scales
    block: Blocks = field(default_factory=DenseBlocks)  # kind and sizes of the blocks
    tail: Natural = 4  # fully connected blocks behind the last scale
    tail_width: Count = 64  # features that a fully connected dense or wide block reduces its input to
    tail_growth: Annotated[int, Ge(2)] = 32  # features that its layers add
    coefficient: Below1 = 0.98  # largest spectral norm of a layer
    mixing: Below1 = 0.98  # Lipschitz constant of a concatenation
    input: Literal["logit", "standardize"] = "logit"  # first step: logit, or mean and deviation of CIFAR-10 (hybrid models)
    whiten: bool = False  # start every scale with a learned linear map of the channels that whitens the first batch (ours)
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.05  # margin of the logit at black and white
    classes: Natural = 0  # of a classifier on the features of all scales; 0: none
    head_width: Count = 256  # channels of the classifier's convolution at every scale

    @validator
    def _fits(self) -> ImageFlow:
        stride = 2 ** (len(self.scales) - 1)
        if self.size % stride:
            raise ValueError(f"size {self.size} is not a multiple of {stride}, which {len(self.scales)} scales need")
        return self


@settings
class IntegerFlow:
    """The packer: a flow on integers, for lossless coding of images of any size."""

    kind: Literal["integer"] = "integer"  # what it models
    levels: Count = 3  # levels with networks of their own; the last serves all coarser ones
    width: Count = 64  # channels of the networks
    depth: Count = 2  # hidden layers of the networks


DensityFlow: TypeAlias = VectorFlow | ImageFlow
FlowConfig: TypeAlias = Annotated[DensityFlow | IntegerFlow, Field(discriminator="kind")]


# --------------------------------------------------------------------------------------------------------------- data


@settings
class PointsConfig:
    """How rows are drawn: of a table, of a simulated distribution, or colors of images."""

    kind: Literal["points"] = "points"  # rows of a table
    batch: Annotated[int, Ge(2)] = 500  # rows
    validation_share: Share = 0.1  # share of a table that is held out
    validation_limit: Count = 10_000  # most rows that are held out, and number of fresh points of a simulated distribution


@settings
class ImagesConfig:
    """How training images are drawn. Names decide which images are held out for validation."""

    kind: Literal["images"] = "images"  # squares of one size
    batch: Annotated[int, Ge(2)] = 64  # images
    flip: bool = True  # mirror half of the images
    pad: Natural = 0  # pixels by which images are extended by reflection before a random crop
    limit: Natural = 0  # use so many images of each data set, chosen by name; 0: all
    validation_share: Share = 0.05  # share of the images that is held out
    validation_limit: Natural = 256  # most images that are held out


@settings
class CropsConfig:
    """How crops for the packer are drawn. Names decide which images are held out for validation."""

    kind: Literal["crops"] = "crops"  # squares cut out of images of any size
    batch: Count = 32  # crops
    size: Annotated[int, Ge(2)] = 32  # pixels of a side
    crops: Count = 24  # most crops of one image
    large: Natural = 0  # a side of the larger crops that every step takes too, as many pixels as the others; 0: none
    validation_share: Share = 0.03  # share of the images that is held out
    validation_limit: Count = 128  # most crops that are held out of each data set


DataConfig: TypeAlias = Annotated[PointsConfig | ImagesConfig | CropsConfig, Field(discriminator="kind")]


# ---------------------------------------------------------------------------------------------------------- objective


@settings
class LikelihoodConfig:
    """The loss: bits per dimension of images, nats of rows, with a classifier's cross-entropy where there is one."""

    log_det: Literal["poisson", "geometric", "exact"] = "poisson"  # estimate in training; exact only for few dimensions
    rate: Positive = 2.0  # mean of Poisson, or success probability of the geometric distribution
    exact_terms: Count = 2  # terms of the series before the roulette
    probes: Count = 1  # Rademacher vectors of an estimate
    validation_terms: Count = 12  # terms of the series in validation and evaluation
    generative_weight: NonNegative | Literal["1/D"] = 1.0  # lambda of a hybrid model: weight of the log-likelihood in nats
    equal_share: Share = 0.125  # first part of the steps, in which the weights of concatenations stay equal
    power_iterations: Count = 1  # after every update
    recompute: bool = False  # compute blocks twice in training, for about half of the memory

    @validator
    def _geometric(self) -> LikelihoodConfig:
        if self.log_det == "geometric" and self.rate >= 1:
            raise ValueError(f"rate {self.rate:g} is no probability; set objective.rate=0.5")
        return self
