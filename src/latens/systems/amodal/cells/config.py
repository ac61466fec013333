"""Settings of the model for nuclei, its losses and its training crops. This module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, MinLen, MultipleOf

from latens.settings import Count, NonNegative, Positive, Share, settings, validator

STRIDE = 2  # pixels of the image per cell of the maps of centers, rays and overlap


@settings
class StarConfig:
    """A U-Net that predicts, for every pixel, the outline of its object as distances along rays (Schmidt et al. 2018)."""

    kind: Literal["star"] = "star"  # model
    classes: tuple[str, ...] = ("nucleus",)  # name of the only class
    rays: Annotated[int, Ge(8), MultipleOf(4)] = 32  # directions in which the distance to the outline is predicted
    widths: Annotated[tuple[Count, ...], MinLen(2)] = (32, 64, 96, 128, 160)  # channels at strides 2, 4, 8, ...
    diameter: Positive = 24.0  # images are resampled until their median object has this diameter, pixels

    @validator
    def _one_class(self) -> StarConfig:
        if len(self.classes) != 1:
            raise ValueError(f"the star model has one class, not {len(self.classes)}")
        return self

    @property
    def coarsest(self) -> int:
        """Stride of the deepest level; both sides of a network image are multiples of it."""
        return STRIDE << (len(self.widths) - 1)


@settings
class StarLossConfig:
    """Loss weights of the star model."""

    center: NonNegative = 1.0  # of the object probability: cross-entropy
    rays: NonNegative = 0.5  # of the outlines: -log of the polar IoU, plus the absolute error of the logarithm
    foreground: NonNegative = 1.0  # of the foreground at full size: cross-entropy
    contact: NonNegative = 1.0  # of the borders between touching objects at full size: cross-entropy
    overlap: NonNegative = 0.5  # of the overlap probability: cross-entropy


@settings
class CropConfig:
    """Training crops of the star model: real fields, composed overlaps, simulated cells, images without cells."""

    batch: Count = 8  # crops
    crop: Annotated[int, Ge(32), MultipleOf(32)] = 128  # side of a crop, pixels
    simulated: Share = 0.12  # share of crops with simulated cells; without annotated images all crops with cells
    empty: Share = 0.2  # share of crops without cells: photographs (given as `negatives:FOLDER`), text, noise, empty slides
    compose: Share = 0.6  # share of real crops into which cut-out nuclei are pasted with overlap
    validation: Count = 96  # held-out crops
