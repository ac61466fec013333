"""Rules that make an estimate of haze safe for photographs. `latens dehaze` applies them to every method with an airlight.

Exposure: transmission and airlight are read from an image of usual brightness. Bound: the transmission is large enough that no
color falls below 0. Color: half of the airlight's color is that of the haziest pixels. The methods of Table 1 are without them.

Letters: B batch, h w size of the working image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latens.nn.filters import LUMA, LinearGuide, box_max, box_mean, fit_guide, luminance
from latens.shapes import Bool, Float, UInt8
from latens.systems.haze.formation import remove_haze
from latens.systems.haze.methods import SMALLEST, Coarse

# Pixels; shorter side of the working image, so that an estimate does not depend on the size of the image. A network whose
# `short_side` is smaller has a working image of that side.
WORKING_SIDE = 160
LONGEST, LARGEST_SCALE = 4, 4.0  # longer side of the working image in shorter sides; its size relative to the image
BRIGHT_SHARE, BRIGHT = 0.99, 0.95  # this quantile of the brightest channel of a usual exposure, and its value
ROWS = 256  # rows that are converted to floats at once
DIMMEST = 1 / 255  # smallest exposure
HAZIEST = 0.02  # share of the pixels (of smallest t) that give half of the airlight's color
COLOR_SHARE = 0.5  # of the haziest pixels in the airlight's color
BLACK = 0.03  # the darkest color after removal; above 0, because noise and texture lie around it
SMALLEST_GAMMA, BISECTIONS = 0.3, 12  # of the tone curve
BOUND_RADIUS = 1  # of the maximum and the mean that smooth the bound, in working pixels


class Working(NamedTuple):
    """An image reduced to the working size and divided by its exposure."""

    image: Float[Tensor, "1 3 h w"]
    visible: Bool[Tensor, "1 1 h w"] | None  # None if all pixels count
    exposure: float  # brightness of the image relative to a usual one


class Controls(NamedTuple):
    """What a photographer sets, each in [0, 1]."""

    strength: float = 1.0  # power of the transmission: 0 leaves the image as it is, 1 removes all haze that was found
    keep_brightness: float = 0.0  # share of the lost mean brightness that a tone curve restores; black and white stay


class Plan(NamedTuple):
    """Transmission at working size as a function of the gray values at full size, and airlight in 0..1."""

    fitted: LinearGuide
    bound: Float[Tensor, "1 1 h w"]
    airlight: Float[Tensor, "1 3"]
    exposure: float
    floor: float
    strength: float = 1.0
    gamma: float = 1.0  # of the tone curve, at most 1

    def transmission(self, guide: Tensor, slope: Tensor, offset: Tensor, bound: Tensor) -> Tensor:
        """Transmission to the power `strength`, of gray values of a usual exposure and the maps at their places."""
        t = torch.maximum(torch.addcmul(offset, slope, guide), bound).clamp_(self.floor, 1)
        return t if self.strength == 1 else t.pow_(self.strength)


def working_size(height: int, width: int, side: int = WORKING_SIDE) -> tuple[int, int]:
    """Height and width of the working image: shorter side `side`, unless the image is very small or very long."""
    scale = min(side / min(height, width), LONGEST * side / max(height, width), LARGEST_SCALE)
    return max(round(scale * height), 1), max(round(scale * width), 1)


def working_image(
    pixels: UInt8[Tensor, "H W 3"], visible: Bool[Tensor, "H W"] | None = None, side: int = WORKING_SIDE
) -> Working:
    """The image at working size and usual exposure. Transparent pixels count in no statistic."""
    size = working_size(pixels.shape[0], pixels.shape[1], side)
    small = resized(pixels.permute(2, 0, 1)[None], size).div_(255)
    mask = None if visible is None else resized(visible[None, None], size) > 0.5
    if mask is not None and not bool(mask.any()):
        mask = None
    exposure = exposure_of(small, mask)
    return Working(small / exposure, mask, exposure)


def resized(image: UInt8[Tensor, "B C H W"] | Bool[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """The image at another size, by area means when it is reduced. Only some rows at a time are converted to floats."""
    if image.shape[2:] == size:
        return image.float()
    narrow = torch.cat([scaled(rows.float(), (rows.shape[2], size[1])) for rows in image.split(ROWS, dim=2)], dim=2)
    return scaled(narrow, size)


def scaled(image: Float[Tensor, "B C H W"], size: tuple[int, int]) -> Float[Tensor, "B C h w"]:
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def exposure_of(image: Float[Tensor, "1 3 h w"], visible: Bool[Tensor, "1 1 h w"] | None) -> float:
    """Brightness relative to a usual exposure, at most 1. A quantile of the reduced image ignores lamps and hot pixels."""
    brightest = image.amax(1, keepdim=True)
    counted = brightest.flatten() if visible is None else brightest[visible]
    return min(max(float(counted.quantile(BRIGHT_SHARE)) / BRIGHT, DIMMEST), 1.0)


def with_haze_color(coarse: Coarse, working: Working) -> Coarse:
    """The estimate whose airlight has half of its color from the haziest pixels; its brightness is unchanged."""
    t = coarse.t if working.visible is None else coarse.t.masked_fill(~working.visible, torch.inf)
    known = t.numel() if working.visible is None else int(working.visible.sum())
    chosen = t.flatten().topk(max(round(HAZIEST * known), 1), largest=False).indices
    haziest = working.image.flatten(2)[:, :, chosen].mean(2).clamp_min(1e-3)
    same_brightness = haziest * (brightness(coarse.airlight) / brightness(haziest))
    return coarse._replace(airlight=torch.lerp(coarse.airlight, same_brightness, COLOR_SHARE))


def brightness(color: Float[Tensor, "B 3"]) -> Float[Tensor, "B 1"]:
    return luminance(color[:, :, None, None])[:, :, 0, 0]


def plan_of(coarse: Coarse, working: Working, controls: Controls = Controls()) -> Plan:  # noqa: B008
    """The estimate, bounded and prepared for full size."""
    guide = luminance(working.image)
    airlight = coarse.airlight[:, :, None, None]
    needed = ((airlight - working.image) / (airlight - BLACK).clamp_min(BLACK)).amax(1, keepdim=True)
    bound = box_mean(box_max(needed, BOUND_RADIUS), BOUND_RADIUS)
    fitted = fit_guide(guide, coarse.t, coarse.radius, coarse.epsilon)
    floor = max(SMALLEST, coarse.floor)
    plan = Plan(fitted, bound, coarse.airlight * working.exposure, working.exposure, floor, controls.strength)
    if controls.keep_brightness == 0:
        return plan
    clear = remove_haze(working.image, plan.transmission(guide, *fitted, bound), coarse.airlight).clamp(0, 1)
    shown = torch.ones_like(bound, dtype=torch.bool) if working.visible is None else working.visible
    before, after = (float(luminance(image)[shown].mean()) for image in (working.image, clear))
    wanted = after ** (1 - controls.keep_brightness) * before**controls.keep_brightness
    return plan._replace(gamma=tone(clear.movedim(1, -1)[shown[:, 0]], wanted))


def tone(colors: Float[Tensor, "n 3"], wanted: float) -> float:
    """Power in [SMALLEST_GAMMA, 1] that brings colors in [0, 1] to a mean luminance, by bisection."""
    low, high = SMALLEST_GAMMA, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        mean = float((colors.pow(middle) @ colors.new_tensor(LUMA)).mean())
        low, high = (middle, high) if mean > wanted else (low, middle)
    return (low + high) / 2
