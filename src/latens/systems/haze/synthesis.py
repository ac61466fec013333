"""Synthesis of haze on 8-bit images in bands of rows, so that only one band is in memory as floats.

Letters: H W image size, R rows of a band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from latens.arguments import real
from latens.data.depth import DepthFormat, default_format, max_depth_of, read_depth
from latens.data.tensors import to_bytes
from latens.errors import UsageError
from latens.nn.filters import block_mean, enlarge, fit_guide, guided_filter, luminance
from latens.shapes import Float, UInt8
from latens.systems.haze.bands import Band, bands
from latens.systems.haze.formation import add_haze, transmission
from latens.systems.haze.methods import PHYSICAL_EPSILON, PHYSICAL_RADIUS, reduced_depth, shrinkage_to
from latens.systems.haze.physical import PhysicalHaze

REFINE_RADIUS, REFINE_EPSILON = 20, 1e-3  # for measured depth: window of 41 as in Foggy Cityscapes (Sakaridis et al. 2018)

Rows: TypeAlias = Callable[[Band], Float[Tensor, "1 1 R W"]]
"""Depth or transmission at the rows of a band, whose colors are in [0, 1]."""


def predicted_depth(pixels: UInt8[Tensor, "H W 3"], model: PhysicalHaze) -> Rows:
    """Relative depth in [0, 1] of a clear image: `methods.physical_depth`, row by row."""
    size = (pixels.shape[0], pixels.shape[1])
    factor = shrinkage_to(model.config.short_side, size)
    small = torch.cat([block_mean(band.colors, factor) for band in unit_bands(pixels, factor)], dim=2)
    depth = reduced_depth(small, model)
    if factor == 1:
        return of_whole(depth)
    fitted = fit_guide(luminance(small), depth, PHYSICAL_RADIUS, PHYSICAL_EPSILON)
    # At full size, because the interpolation rounds by the place in the whole image.
    slope, offset = enlarge(fitted.slope, factor, size), enlarge(fitted.offset, factor, size)

    def rows(band: Band) -> Tensor:
        own = slice(band.first, band.last)
        return torch.addcmul(offset[:, :, own], slope[:, :, own], luminance(band.colors)).clamp_(0, 1)

    return rows


def whole(pixels: UInt8[Tensor, "H W 3"], rows: Rows) -> Float[Tensor, "1 1 H W"]:
    """Depth or transmission of all rows."""
    made = torch.empty((1, 1, *pixels.shape[:2]), device=pixels.device)
    for band in unit_bands(pixels):
        made[:, :, band.first : band.last] = rows(band)
    return made


def of_whole(values: Float[Tensor, "1 1 H W"]) -> Rows:
    """The rows of a map."""
    return lambda band: values[:, :, band.first : band.last]


def hazed(
    pixels: UInt8[Tensor, "H W 3"], t: Rows, airlight: Float[Tensor, "1 3"], *, linear_light: bool = False
) -> UInt8[Tensor, "H W 3"]:
    """The image with haze of a transmission; see `add_haze`."""
    result = torch.empty_like(pixels)
    for band in unit_bands(pixels):
        hazy = add_haze(band.colors, t(band), airlight, linear_light=linear_light)
        result[band.first : band.last] = to_bytes(hazy[0]).permute(1, 2, 0)
    return result


def unit_bands(pixels: UInt8[Tensor, "H W 3"], factor: int = 1) -> Iterator[Band]:
    """`bands` with colors in [0, 1]."""
    return (band._replace(colors=band.colors.div_(255)) for band in bands(pixels, factor))


@torch.no_grad()
def with_haze(
    clear: UInt8[Tensor, "H W 3"],
    meters: Rows,
    beta: float,
    airlight: Float[Tensor, "1 3"],
    *,
    refine: bool,
    linear_light: bool,
) -> UInt8[Tensor, "H W 3"]:
    """The image with haze of a coefficient per meter; `refine` aligns the transmission with the edges of the image."""
    coefficient = torch.tensor([beta], device=clear.device)

    def measured(band: Band) -> Tensor:
        return transmission(meters(band), coefficient)

    t: Rows = measured
    if refine:
        guide = whole(clear, lambda band: luminance(band.colors))
        t = of_whole(guided_filter(guide, whole(clear, measured), REFINE_RADIUS, REFINE_EPSILON).clamp_(0, 1))
    return hazed(clear, t, airlight, linear_light=linear_light)


def given_depth(depth: object, form: DepthFormat | None, max_depth: float, size: tuple[int, int], device: torch.device) -> Rows:
    """Distance in meters from a file or an array of an image of `size`; relative depth ends at `max_depth`.

    Raises UsageError for other objects and formats, InputError for depth that does not fit the image.
    """
    if not isinstance(depth, str | Path | np.ndarray):
        what = f"an object of the type {type(depth).__name__} is no depth map"
        raise UsageError(what, where="depth", hint="give a file or an array (H, W)")
    if form is not None and not isinstance(form, DepthFormat):
        what = f"{form!r} is no format of depth"
        raise UsageError(what, where="depth_format", hint="give one of latens.data.depth.FORMATS")
    form = form or default_format(depth)
    values = read_depth(depth, form, size=size)
    if form.relative:
        values *= np.float32(max_depth / max_depth_of(values))
    return of_whole(torch.from_numpy(values)[None, None].to(device))


def color_of(airlight: Any) -> list[float]:
    """Red, green, blue in [0, 1]. Raises UsageError for anything else."""
    try:
        color = [real(value, "airlight") for value in airlight]
    except TypeError:  # not iterable
        color = []
    if len(color) != 3 or not all(0 <= value <= 1 for value in color):
        raise UsageError("the airlight is not a color", where="airlight", hint="give red, green, blue in 0..1: (0.9, 0.9, 0.9)")
    return color
