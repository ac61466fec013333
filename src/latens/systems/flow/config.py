"""Settings of the flow system (Perugachi-Diaz 2024, chapter 4). This module does not import torch."""

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

    kind: Literal["dense"] = "dense"  # kind of the blocks
    growth: Annotated[int, Ge(2)] = 178  # channels added by a dense layer, after its activation
    depth: Count = 3  # dense layers of a block
    activation: ActivationChoice = "clipswish"  # nonlinearity of the dense layers
    learned: bool = True  # learnable weights of the concatenation (LC); false: equal weights
    budget: Annotated[float, Ge(0), Lt(1)] = 0.0  # Lipschitz bound to which the last layer is scaled; 0: no scaling


@settings
class ResidualBlocks:
    """Blocks of a Residual Flow (Chen et al. 2019): kernels 3, 1, 3, preceded by an activation."""

    kind: Literal["residual"] = "residual"  # kind of the blocks
    width: Annotated[int, Ge(2)] = 512  # inner channels, after the activation
    activation: ActivationChoice = "lipswish"  # nonlinearity
    tail_width: Count = 128  # inner features of the fully connected blocks
    hidden: Count = 4  # inner layers of the blocks of a table; images always have two


@settings
class WideBlocks:
    """Blocks of a Residual Flow with the widths and depth of a dense block, without concatenation (Table B.4)."""

    kind: Literal["wide"] = "wide"  # kind of the blocks
    growth: Count = 124  # increase of the width from layer to layer
    depth: Count = 3  # layers before the last
    activation: ActivationChoice = "lipswish"  # nonlinearity


@settings
class CouplingBlocks:
    """Affine coupling blocks, the baselines of Table 4.4.5."""

    kind: Literal["coupling"] = "coupling"  # kind of the blocks
    width: Count = 512  # channels of the coupling networks
    mixing: bool = False  # an invertible 1 x 1 convolution before every block
    tail_width: Count = 128  # features of the coupling networks of the fully connected end


Blocks: TypeAlias = Annotated[DenseBlocks | ResidualBlocks | WideBlocks | CouplingBlocks, Field(discriminator="kind")]


# ------------------------------------------------------------------------------------------------------------- models


@settings
class VectorFlow:
    """Flow on the rows of a table."""

    kind: Literal["vector"] = "vector"  # kind of the data: rows
    columns: Natural = 0  # dimensions of a row; 0: number of columns of the data
    blocks: Count = 10  # number of residual maps
    block: Blocks = field(default_factory=lambda: DenseBlocks(growth=16, activation="lipswish"))  # kind and sizes of the blocks
    coefficient: Below1 = 0.9  # largest spectral norm of a layer
    mixing: Below1 = 0.98  # Lipschitz constant of a concatenation
    normalize: bool = False  # activation normalization before the first and after every block

    @validator
    def _no_couplings(self) -> VectorFlow:
        if self.block.kind == "coupling":
            raise ValueError("coupling blocks are available for images only; choose dense, residual or wide blocks")
        return self


@settings
class ImageFlow:
    """Multi-scale flow on square images."""

    kind: Literal["image"] = "image"  # kind of the data: images
    channels: Literal[1, 3] = 3  # gray or color
    size: Annotated[int, Ge(4)] = 32  # side in pixels
    scales: Annotated[tuple[Count, ...], MinLen(1)] = (4, 4, 4)  # blocks of every scale; a squeeze between two scales
    block: Blocks = field(default_factory=DenseBlocks)  # kind and sizes of the blocks
    tail: Natural = 4  # fully connected blocks after the last scale
    tail_width: Count = 64  # features to which a fully connected dense or wide block reduces its input
    tail_growth: Annotated[int, Ge(2)] = 32  # features added by each layer of a fully connected block
    coefficient: Below1 = 0.98  # largest spectral norm of a layer
    mixing: Below1 = 0.98  # Lipschitz constant of a concatenation
    input: Literal["logit", "standardize"] = "logit"  # first step: logit, or standardization (hybrid models)
    whiten: bool = False  # start every scale with a learned map of the channels that whitens the first batch (ours)
    alpha: Annotated[float, Gt(0), Lt(0.5)] = 0.05  # margin of the logit at black and white
    classes: Natural = 0  # classes of the classifier on the features of all scales; 0: no classifier
    head_width: Count = 256  # channels of the classifier's convolution at every scale

    @validator
    def _fits(self) -> ImageFlow:
        stride = 2 ** (len(self.scales) - 1)
        if self.size % stride:
            raise ValueError(f"size {self.size} is not a multiple of {stride}, which {len(self.scales)} scales need")
        return self


@settings
class IntegerFlow:
    """Flow on integers, for lossless coding of images of any size (`latens density pack`)."""

    kind: Literal["integer"] = "integer"  # kind of the data: integers
    levels: Count = 3  # levels with separate networks; the last set serves all coarser levels
    width: Count = 64  # channels of the networks
    depth: Count = 2  # hidden layers of the networks


DensityFlow: TypeAlias = VectorFlow | ImageFlow
FlowConfig: TypeAlias = Annotated[DensityFlow | IntegerFlow, Field(discriminator="kind")]


# --------------------------------------------------------------------------------------------------------------- data


@settings
class PointsConfig:
    """Training rows: rows of a table, points of a simulated distribution, or colors of images."""

    kind: Literal["points"] = "points"  # kind of the data: rows
    batch: Annotated[int, Ge(2)] = 500  # rows of a batch
    validation_share: Share = 0.1  # share of the rows of a table that is held out
    validation_limit: Count = 10_000  # maximum number of held-out rows; number of validation points of a simulated distribution


@settings
class ImagesConfig:
    """Training images. A hash of its name decides whether an image is held out for validation."""

    kind: Literal["images"] = "images"  # kind of the data: squares of one size
    batch: Annotated[int, Ge(2)] = 64  # images of a batch
    flip: bool = True  # mirror each drawn image with probability 1/2
    pad: Natural = 0  # pixels of reflection padding before a random crop; 0: no crop
    limit: Natural = 0  # maximum number of images of each data set, chosen by a hash of the name; 0: all
    validation_share: Share = 0.05  # share of the images that is held out
    validation_limit: Natural = 256  # maximum number of held-out images


@settings
class CropsConfig:
    """Training crops of the packer. A hash of its name decides whether an image is held out for validation."""

    kind: Literal["crops"] = "crops"  # kind of the data: squares cropped from images of any size
    batch: Count = 32  # crops of a batch
    size: Annotated[int, Ge(2)] = 32  # side in pixels
    crops: Count = 24  # maximum number of crops of one image
    large: Natural = 0  # side in pixels of additional larger crops, equally many pixels per batch; 0: none
    validation_share: Share = 0.03  # share of the images that is held out
    validation_limit: Count = 128  # maximum number of held-out crops of each data set


DataConfig: TypeAlias = Annotated[PointsConfig | ImagesConfig | CropsConfig, Field(discriminator="kind")]


# ---------------------------------------------------------------------------------------------------------- objective


@settings
class LikelihoodConfig:
    """Loss: bits per dimension of images or nats of rows, plus the cross-entropy of a classifier in hybrid models."""

    log_det: Literal["poisson", "geometric", "exact"] = "poisson"  # estimator in training; exact only for few dimensions
    rate: Positive = 2.0  # mean of the Poisson, or success probability of the geometric distribution
    exact_terms: Count = 2  # terms of the series computed before the Russian roulette
    probes: Count = 1  # Rademacher vectors per estimate
    validation_terms: Count = 12  # terms of the series in validation and evaluation
    generative_weight: NonNegative | Literal["1/D"] = 1.0  # lambda of a hybrid model: weight of the log-likelihood in nats
    equal_share: Share = 0.125  # initial share of the steps during which the concatenation weights stay equal
    power_iterations: Count = 1  # power iterations after every update
    recompute: bool = False  # recompute blocks in the backward pass (gradient checkpointing), for about half of the memory

    @validator
    def _geometric(self) -> LikelihoodConfig:
        if self.log_det == "geometric" and self.rate >= 1:
            raise ValueError(
                f"the rate of a geometric distribution is a probability, not {self.rate:g}; set objective.rate=0.5"
            )
        return self
