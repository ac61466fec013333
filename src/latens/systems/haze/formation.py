"""The atmospheric scattering model (Li et al. 2019, Eq. 1): I = J t + A (1 - t), t = exp(-beta d).

Letters: B batch, H W image size; I hazy, J clear, t transmission, A airlight, d distance, beta scattering coefficient.
Images and airlight are in [0, 1]. The product beta d is dimensionless: beta is per meter for d in meters, and per largest depth
of the scene for relative d.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latens.arguments import real
from latens.data.tensors import decode_srgb, encode_srgb
from latens.errors import UsageError
from latens.shapes import Float

CONTRAST = 0.05  # contrast of a black object against the horizon at the visibility (meteorological optical range)
AIRLIGHT = (0.8, 1.0)  # range of each color (section 4.1.1)
BETA = (0.8, 1.6)  # range, per largest depth of the scene (section 4.1.1)
MEAN_AIRLIGHT, MEAN_BETA = 0.9, 1.2  # means of those uniform distributions
GRAY_SPREAD = 0.02  # largest deviation of a color of a nearly gray airlight
FLOOR = 0.1  # smallest transmission in the division that removes haze (He et al. 2009)


class HazeParameters(NamedTuple):
    """Airlight and scattering coefficient of a batch of images."""

    airlight: Float[Tensor, "B 3"]
    beta: Float[Tensor, "B"]


def transmission(depth: Float[Tensor, "B 1 H W"], beta: Float[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
    """exp(-beta d): the share of the light that reaches the camera, in [0, 1]. For infinite depth (sky) it is 0 if beta > 0."""
    return torch.exp(-beta[:, None, None, None] * depth)


def add_haze(
    clear: Float[Tensor, "B 3 H W"],
    t: Float[Tensor, "B 1 H W"],
    airlight: Float[Tensor, "B 3"],
    *,
    linear_light: bool = False,
) -> Float[Tensor, "B 3 H W"]:
    """The hazy image of Eq. 1. The literature mixes gamma-encoded values; `linear_light` mixes linear light instead."""
    a = airlight[:, :, None, None]
    if linear_light:
        return encode_srgb(decode_srgb(clear) * t + decode_srgb(a) * (1 - t))
    return clear * t + a * (1 - t)


def remove_haze(
    hazy: Float[Tensor, "B 3 H W"],
    t: Float[Tensor, "B 1 H W"],
    airlight: Float[Tensor, "B 3"],
    *,
    floor: float = FLOOR,
) -> Float[Tensor, "B 3 H W"]:
    """Eq. 1 solved for J, not clamped. t is clamped to `floor` or more, which limits the amplification of noise."""
    a = airlight[:, :, None, None]
    return torch.addcmul(a, hazy - a, t.clamp_min(floor).reciprocal())


def beta_of_visibility(meters: float) -> float:
    """Scattering coefficient per meter at which contrast falls to 5 % over the visibility: ln(20) / `meters`."""
    return -math.log(CONTRAST) / meters


def visibility_of_beta(beta: float) -> float:
    """The inverse of `beta_of_visibility`."""
    return -math.log(CONTRAST) / beta


def scattering(visibility: float | None, beta: float | None, max_depth: float) -> float:
    """Scattering coefficient per meter. Raises UsageError if both are given, and for values that are not positive."""
    if visibility is not None and beta is not None:
        raise UsageError("--visibility and --beta exclude each other", hint="give one of them")
    for name, value in (("visibility", visibility), ("beta", beta), ("max_depth", max_depth)):
        if (value is not None or name == "max_depth") and not 0 < real(value, name) < float("inf"):
            raise UsageError(f"{name} must be above 0", where=f"--{name} {value:g}")
    if visibility is not None:
        return beta_of_visibility(visibility)
    return float(beta) if beta is not None else MEAN_BETA / max_depth


def draw_haze_parameters(
    rng: np.random.Generator,
    count: int,
    *,
    airlight: tuple[float, float] = AIRLIGHT,
    beta: tuple[float, float] = BETA,
    gray: float = 0.0,
) -> HazeParameters:
    """Independent uniform draws for `count` images: three components of airlight and one beta each (section 4.1.1).

    A share `gray` of them has nearly gray airlight, unlike in the paper: real haze is.
    """
    colors = rng.uniform(*airlight, size=(count, 3)).astype(np.float32)
    coefficients = rng.uniform(*beta, size=count).astype(np.float32)
    if gray:
        nearly = colors[:, :1] + rng.uniform(-GRAY_SPREAD, GRAY_SPREAD, (count, 3)).astype(np.float32)
        colors = np.where(rng.random((count, 1)) < gray, np.clip(nearly, 0, 1), colors)
    return HazeParameters(torch.from_numpy(colors), torch.from_numpy(coefficients))


class HazeEstimate(NamedTuple):
    """Estimated transmission and airlight of a batch of images."""

    transmission: Float[Tensor, "B 1 H W"]  # in (0, 1]
    airlight: Float[Tensor, "B 3"]
    floor: float = FLOOR  # lower bound of the transmission in `remove_haze`

    def clear(self, hazy: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The dehazed image, in [0, 1]."""
        return remove_haze(hazy, self.transmission, self.airlight, floor=self.floor).clamp_(0, 1)
