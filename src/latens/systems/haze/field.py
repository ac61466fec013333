"""The field of view of an image or a clip: what lies between corners that are no scene.

Letters: H W image size.
"""

from __future__ import annotations

import numpy as np

from latens.data.images import Pixels
from latens.shapes import Bool
from latens.systems.haze.borders import DARKEST, TOLERANCE, UNIFORM
from latens.systems.haze.round_field import round_field
from latens.systems.haze.tilted_field import tilted_field


def field_of_view(pixels: Pixels) -> Bool[np.ndarray, "H W"] | None:
    """True inside of a round field of view or a rotated photograph; None for an image without corners to leave."""
    found = tilted_field(pixels)
    return round_field(pixels) if found is None else found


def corner_note(color: np.ndarray) -> str:
    """A line for people on corners of a color (3,)."""
    return f"{'black' if color.max() <= DARKEST else 'white'} corners left as they are"


class SteadyField:
    """The field of view of a clip: that of its first frame that has one, until a frame has content in the corners."""

    def __init__(self) -> None:
        self.field: np.ndarray | None = None
        self.color = np.zeros(3, np.int16)  # of the corners
        self._corners: np.ndarray | None = None  # without the blurred edge

    def of(self, frame: Pixels) -> Bool[np.ndarray, "H W"] | None:
        """The field of the next frame; None without one. Frames of another size have none."""
        if self._corners is None:
            self.field = field_of_view(frame)
            if self.field is not None:
                self.color = np.median(frame[~self.field], axis=0).astype(np.int16)
                self._corners = ~self.field & (self._distance(frame) <= DARKEST)
        if self.field is None or self._corners is None or self.field.shape != frame.shape[:2]:
            return None
        if (self._distance(frame)[self._corners] > DARKEST + TOLERANCE).mean() > 1 - UNIFORM:
            self.field = None
        return self.field

    def _distance(self, frame: Pixels) -> np.ndarray:
        """Largest difference (H, W) of the channels from the color of the corners."""
        return np.asarray(np.abs(frame - self.color).max(-1))
