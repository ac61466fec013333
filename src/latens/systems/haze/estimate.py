"""What every method that goes through Eq. 1 finds, and the clear picture that follows from it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from latens.shapes import Float
from latens.systems.haze.formation import FLOOR, remove_haze


class HazeEstimate(NamedTuple):
    """Haze of a batch of pictures."""

    transmission: Float[Tensor, "B 1 H W"]  # in (0, 1]
    airlight: Float[Tensor, "B 3"]
    floor: float = FLOOR  # of the transmission, where haze is divided out

    def clear(self, hazy: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The picture without its haze, in [0, 1]."""
        return remove_haze(hazy, self.transmission, self.airlight, floor=self.floor).clamp_(0, 1)
