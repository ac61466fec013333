"""Settings of the seedling system (003, chapter 3). No torch here."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Le, Lt, MinLen

from latens.settings import Count, Natural, NonNegative, Share, settings, validator

Backbone = Literal[
    "small", "logistic", "mlp500", "mlp1000-500", "alexnet", "densenet121", "resnet101", "vgg16"
]  # fmt: skip
TORCHVISION = ("alexnet", "densenet121", "resnet101", "vgg16")
DAYS = (4, 5, 6, 7)  # of the photographs of 003
Side: TypeAlias = Annotated[int, Ge(32), Le(256)]


@settings
class GraderConfig:
    """A classifier of plant crops."""

    backbone: Backbone = "small"  # the network; all but `small` are those of 003
    size: Side = 64  # side of the crops in pixels
    channels: Annotated[int, Ge(1), Le(3)] = 1  # of the crops: 1 for gray, 3 for color
    days: tuple[Natural, ...] = ()  # days after sowing that the model takes as an input, one-hot; empty: no such input
    seen: bool = False  # a second output: whether the plant has emerged
    width: Count = 16  # channels of the first layer of `small`
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1  # in the head of `small`
    init: Literal["torch", "he"] = "torch"  # start of torchvision networks: their own, or He-normal
    pretrained: str = ""  # file with torchvision weights (a state dict) to start from

    @validator
    def one_or_three(self) -> GraderConfig:
        if self.channels == 2:
            raise ValueError("crops have 1 or 3 channels")
        return self


@settings
class CropsConfig:
    """Where crops come from, how they are split, balanced and augmented."""

    batch: Count = 128  # crops
    days: Annotated[tuple[Natural, ...], MinLen(1)] = DAYS  # photographs that are used
    split: Literal["tray", "plant", "leaky"] = "tray"  # what stays together; `leaky` draws anew each day, as 003 does
    train_share: Share = 0.6  # of trays or plants
    validation_share: Share = 0.2  # of trays or plants
    split_seed: Natural = 0  # of the order that is cut into parts
    fold: Natural = 0  # the order starts so many test parts later: folds 0 to 4 test every plant once
    oversample: bool = True  # copy random crops of the smaller class until both are equal
    augment: bool = True  # rotations, flips and affine maps
    rotation: Literal["quarter", "any"] = "quarter"  # "90 degrees random rotations": quarter turns, or any angle up to 90
    shift: Share = 0.06  # largest shift of the affine map, in crop sides
    scale: Annotated[float, Ge(0), Le(0.5)] = 0.1  # largest relative change of size
    shear: Annotated[float, Ge(0), Le(45)] = 8.0  # largest angle of the affine map in degrees
    contrast: Share = 0.0  # largest relative change of brightness and contrast; 003 has none
    padding: Literal["border", "zeros"] = "border"  # beyond the crop; `zeros` paints mid-gray corners on dark soil
    method: Literal["lattice", "thesis", "truth"] = "lattice"  # how trays are read; `truth` for simulated ones alone
    trays: Count = 88  # simulated, where no data are given
    preset: Literal["easy", "thesis", "hard"] = "thesis"  # of the simulator
    rows: Count = 10  # of a tray
    cols: Count = 15  # of a tray
    simulated_seed: Natural = 0  # of the simulated trays

    @validator
    def leaves_a_test_set(self) -> CropsConfig:
        if self.train_share + self.validation_share >= 1:
            raise ValueError("train_share and validation_share leave nothing to test on")
        return self


@settings
class GradingLossConfig:
    """Cross-entropy of the grade, and of emergence where the model has that output (003, Eqs. 3.3 and 3.4)."""

    weighted: bool = False  # Eq. 3.4: weight 1 for failures, minority / majority for successes
    divisor: Literal["count", "weights"] = "count"  # of a weighted sum: number of crops (Eq. 3.4), or sum of weights (torch)
    seen_weight: NonNegative = 1.0  # of the loss of emergence
    select: Literal["corrected", "raw"] = "corrected"  # validation loss: after prior correction, or as trained


@settings
class GridOptions:
    """How a photograph is read."""

    rows: Count = 10  # of the tray
    cols: Count = 15  # of the tray
    method: Literal["lattice", "thesis"] = "lattice"  # robust fit, or Algorithm 1 of 003
    corners: tuple[float, ...] | None = None  # centers of the corner cells, x,y clockwise from the top left
    trays: Count = 1  # in a photograph; each gets the name of the photograph and #1, #2 in reading order
    tray: Natural = 0  # take the tray of this number alone, from 1; 0: all

    @validator
    def four_corners(self) -> GridOptions:
        if self.corners is not None and len(self.corners) != 8:
            raise ValueError(f"{len(self.corners)} numbers where four corners have eight")
        return self
