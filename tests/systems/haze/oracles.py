"""Reference implementations that only tests and benchmarks use."""

from __future__ import annotations

from torch import Tensor

from latens.nn.filters import guided_filter, luminance
from latens.shapes import Float
from latens.systems.haze.baselines.boundary import FLOOR, BoundaryConfig, solve
from latens.systems.haze.baselines.dark_channel import DarkChannelConfig, airlight_of, dark_channel
from latens.systems.haze.formation import HazeEstimate


def dark_channel_prior(hazy: Float[Tensor, "B 3 H W"], config: DarkChannelConfig | None = None) -> HazeEstimate:
    """The dark channel prior with every step at full size, as published (He et al. 2009); `config.shrink` is 1."""
    config = config or DarkChannelConfig()
    radius = (config.patch - 1) // 2
    airlight = airlight_of(hazy, dark_channel(hazy, radius), config.brightest)
    t = 1 - config.omega * dark_channel(hazy / airlight[:, :, None, None], radius)
    refined = guided_filter(luminance(hazy), t, config.radius, config.epsilon)
    return HazeEstimate(refined.clamp(config.floor, 1), airlight, config.floor)


def boundary_constraint(hazy: Float[Tensor, "B 3 H W"], config: BoundaryConfig | None = None) -> HazeEstimate:
    """The boundary constraint solved at full size, without a guided filter (Meng et al. 2013)."""
    t, airlight = solve(hazy, config or BoundaryConfig())
    return HazeEstimate(t, airlight, FLOOR)


def measure_beta(
    hazy: Float[Tensor, "3 H W"], clear: Float[Tensor, "3 H W"], depth: Float[Tensor, "1 H W"], airlight: Float[Tensor, "3"]
) -> float:
    """Beta of an image with known clear version, depth and airlight, by least squares of -log t over depth.

    Pixels are weighted by (J - A)^2, because colors near the airlight carry no information. Infinite depth is skipped. Raises
    ValueError if no pixel remains.
    """
    contrast = (clear - airlight[:, None, None]).double()
    veiled = (hazy - airlight[:, None, None]).double()
    energy = contrast.square().sum(0)
    t = (contrast * veiled).sum(0) / energy.clamp_min(1e-12)
    distance = depth[0].double()
    kept = distance.isfinite() & (distance > 0) & (energy > 1e-3) & (t > 0.02) & (t <= 1.05)
    if not bool(kept.any()):
        raise ValueError("no pixel determines the scattering coefficient")
    # The error of log t is proportional to 1 / t, and that of t to 1 / contrast.
    weight = energy[kept] * t[kept].square()
    optical = -t[kept].log()
    return float((weight * distance[kept] * optical).sum() / (weight * distance[kept].square()).sum())
