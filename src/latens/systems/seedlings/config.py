"""Settings of the seedling system (Perugachi-Diaz 2024, chapter 3). This module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Le, Lt, MinLen

from latens.settings import Count, Natural, NonNegative, Share, settings, validator

Backbone = Literal[
    "small", "logistic", "mlp500", "mlp1000-500", "alexnet", "densenet121", "resnet101", "vgg16"
]  # fmt: skip
TORCHVISION = ("alexnet", "densenet121", "resnet101", "vgg16")
DAYS = (4, 5, 6, 7)  # days of the photographs in the thesis
Side: TypeAlias = Annotated[int, Ge(32), Le(256)]


@settings
class GraderConfig:
    """Classifier of plant crops."""

    backbone: Backbone = "small"  # network; all but `small` are networks of the thesis
    size: Side = 64  # side of the crops in pixels
    channels: Annotated[int, Ge(1), Le(3)] = 1  # channels of the crops: 1 for gray, 3 for color
    days: tuple[Natural, ...] = ()  # days after sowing of the one-hot input of the day; empty: no such input
    seen: bool = False  # add an output for emergence
    width: Count = 16  # channels of the first layer of `small`
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1  # dropout in the head of `small`
    init: Literal["torch", "he"] = "torch"  # initialization of torchvision networks: torchvision's, or He-normal
    pretrained: str = ""  # file with torchvision weights (a state dict) as initialization

    @validator
    def one_or_three(self) -> GraderConfig:
        if self.channels == 2:
            raise ValueError("channels must be 1 or 3")
        return self


@settings
class CropsConfig:
    """Source, split, class balance and augmentation of the training crops."""

    batch: Count = 128  # crops of a batch
    days: Annotated[tuple[Natural, ...], MinLen(1)] = DAYS  # days of the photographs that are used
    sown: str = ""  # date of sowing (2024-03-01) of all trays whose photographs have a date in their name or EXIF
    split: Literal["tray", "plant", "leaky"] = "tray"  # unit of the split; leaky: redrawn for each day, as in the thesis
    train_share: Share = 0.6  # share of trays or plants for training
    validation_share: Share = 0.2  # share of trays or plants for validation
    split_seed: Natural = 0  # seed of the split
    fold: Natural = 0  # fold of a cross-validation: folds 0 to 4 test every plant once
    oversample: bool = True  # repeat random crops of smaller classes until all classes are equal
    augment: bool = True  # random rotations, flips and affine maps
    rotation: Literal["quarter", "any"] = "quarter"  # quarter turns, or any angle up to 90 degrees
    shift: Share = 0.06  # maximum shift of the affine map, in crop sides
    scale: Annotated[float, Ge(0), Le(0.5)] = 0.1  # maximum relative change of size
    shear: Annotated[float, Ge(0), Le(45)] = 8.0  # maximum shear angle in degrees
    contrast: Share = 0.0  # strength of random brightness and contrast; 0, as in the thesis: none
    padding: Literal["border", "zeros"] = "border"  # values beyond the crop: border pixels, or mid-gray (`zeros`)
    method: Literal["lattice", "thesis", "truth"] = "lattice"  # grid fit of trays; `truth` for simulated trays only
    trays: Count = 88  # number of simulated trays without data
    preset: Literal["easy", "thesis", "hard"] = "thesis"  # difficulty of the simulated trays
    rows: Count = 10  # rows of cells in a tray
    cols: Count = 15  # columns of cells in a tray
    simulated_seed: Natural = 0  # seed of the simulated trays

    @validator
    def leaves_a_test_set(self) -> CropsConfig:
        if self.train_share + self.validation_share >= 1:
            raise ValueError("train_share + validation_share must be below 1, to leave a test set")
        return self


@settings
class GradingLossConfig:
    """Cross-entropy of success (Eqs. 3.3 and 3.4), plus that of emergence for models with this output."""

    weighted: bool = False  # Eq. 3.4: weight 1 for failures, minority / majority for successes
    divisor: Literal["count", "weights"] = "count"  # of a weighted sum: number of crops (Eq. 3.4), or sum of weights
    seen_weight: NonNegative = 1.0  # weight of the loss of emergence
    select: Literal["corrected", "raw"] = "corrected"  # validation loss of the selection: after prior correction, or as trained


@settings
class GridOptions:
    """Grid of cells in a photograph."""

    rows: Count = 10  # rows of cells in a tray
    cols: Count = 15  # columns of cells in a tray
    method: Literal["lattice", "thesis"] = "lattice"  # robust fit, or Algorithm 1 of the thesis
    corners: tuple[float, ...] | None = None  # centers of the corner cells, x,y clockwise from the top left
    trays: Count = 1  # trays in a photograph, named NAME#1, NAME#2 in reading order
    tray: Natural = 0  # number of the only tray to grade, from 1; 0: all trays

    @validator
    def four_corners(self) -> GridOptions:
        if self.corners is not None and len(self.corners) != 8:
            raise ValueError(f"four corners are eight numbers, not {len(self.corners)}")
        return self
