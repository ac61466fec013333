"""Estimates of haze at working size, one per method, as `latens dehaze` uses them.

The settings are those of the published methods for a shorter side of 480 pixels, halved. Letters: h w working size.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from latens.shapes import Bool, Float
from latens.systems.haze.baselines.boundary import FLOOR as BOUNDARY_FLOOR
from latens.systems.haze.baselines.boundary import BoundaryConfig, solve
from latens.systems.haze.baselines.dark_channel import Blocks, DarkChannelConfig, coarse_transmission
from latens.systems.haze.baselines.dehazenet import FLOOR as NET_FLOOR
from latens.systems.haze.baselines.dehazenet import REFINE_EPSILON, REFINE_RADIUS, DehazeNet
from latens.systems.haze.methods import PHYSICAL_EPSILON, PHYSICAL_FLOOR, PHYSICAL_RADIUS, Coarse, read_physical
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.rules import Working, with_haze_color

DARK_CHANNEL = DarkChannelConfig(patch=15, radius=10)
BOUNDARY_RADIUS, BOUNDARY_EPSILON = 8, 1e-4


def read(working: Working, method: str, model: nn.Module | None) -> Coarse:
    """The estimate of a method, with the rule of the airlight's color; `model` is that of a learned method."""
    image, visible = working.image, working.visible
    if method == "dcp":
        found = dark_channel(image, visible)
    elif method == "bccr":
        t, airlight = solve(image, BoundaryConfig(), visible)
        found = Coarse(t, airlight, 1, BOUNDARY_RADIUS, BOUNDARY_EPSILON, BOUNDARY_FLOOR)
    elif method == "dehazenet":
        net = cast(DehazeNet, model)
        t = net.windows(image)
        found = Coarse(t, net.airlight(image, t, visible), 1, REFINE_RADIUS // 2, REFINE_EPSILON, NET_FLOOR)
    else:
        t, airlight = read_physical(image, cast(PhysicalHaze, model))
        found = Coarse(t, airlight, 1, PHYSICAL_RADIUS, PHYSICAL_EPSILON, PHYSICAL_FLOOR)
    return with_haze_color(found, working)


def dark_channel(image: Float[Tensor, "1 3 h w"], visible: Bool[Tensor, "1 1 h w"] | None) -> Coarse:
    config = DARK_CHANNEL
    t, airlight = coarse_transmission(Blocks(image, image), config, visible)
    return Coarse(t, airlight, 1, config.radius, config.epsilon, config.floor)
