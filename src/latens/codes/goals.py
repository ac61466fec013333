"""Measurements of rounded latents and objectives of a refinement."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from latens.shapes import Float, Int

PEAK = 255.0**2  # lambda weights the squared error of 8-bit values


class Measurement(NamedTuple):
    """Rate and distortion of rounded latents, per image."""

    y: Int[Tensor, "B M h w"]  # round(y - mean)
    z: Int[Tensor, "B N hz wz"]  # round(z - median)
    bits_y: Float[Tensor, "B"]
    bits_z: Float[Tensor, "B"]
    mse: Float[Tensor, "B"]  # intensities in [0, 1]

    def bpp(self, pixels: int) -> Float[Tensor, "B"]:
        return (self.bits_y + self.bits_z) / pixels

    def psnr(self) -> Float[Tensor, "B"]:
        """PSNR in dB, for a peak of 1."""
        return -10 * self.mse.log10()


@runtime_checkable
class Goal(Protocol):
    """Objective of a refinement. `observe` receives every measurement and may change the weight."""

    def weight(self) -> Float[Tensor, "B"]:
        """The lambda of the next steps."""

    def score(self, found: Measurement) -> Float[Tensor, "B"]:
        """Score of a measurement; lower is better, and the best measurement is kept."""

    def observe(self, found: Measurement, step: int) -> None:
        """Called with the measurement after `step` steps."""


class Lagrangian:
    """Minimal bpp + lambda * 255^2 * MSE at a fixed lambda (Perugachi-Diaz 2024, Eq. 5.2.1)."""

    def __init__(self, weight: Float[Tensor, "B"], pixels: int) -> None:
        self._weight = weight
        self._pixels = pixels

    def weight(self) -> Float[Tensor, "B"]:
        return self._weight

    def score(self, found: Measurement) -> Float[Tensor, "B"]:
        return found.bpp(self._pixels) + self._weight * PEAK * found.mse

    def observe(self, found: Measurement, step: int) -> None:
        pass
