"""The result of the star model: a box and a small mask for every object, so that fields of thousands fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from latens.data.instances import Layers, Placed, Scene, label_map, layers_of_placed, scene_of_placed
from latens.data.soft_maps import Maps
from latens.errors import LimitExceeded, counted
from latens.shapes import Bool, Float, Int

MAX_DENSE = 2**31  # bytes of dense masks


@dataclass(frozen=True, kw_only=True)
class CellSegmentation:
    """The objects of one image by decreasing score.

    Score: probability that the object has an IoU of at least 0.5 with a true one, which includes the probability that the
    image is of a kind that the model knows (`known`). The order in depth is not known.
    """

    size: tuple[int, int]  # height and width of the image
    placed: Sequence[Placed]  # masks of every object in a window around it
    scores: Float[np.ndarray, "N"]
    classes: tuple[str, ...]
    diameter: float  # median diameter for which the image was resampled, pixels
    inverted: bool = False  # the image is gray with a light background, so light and dark were exchanged
    known: float = 1.0  # probability that the image is of a kind that the model knows, a factor of every score
    warnings: tuple[str, ...] = field(default=())  # reasons to doubt the result
    maps: Maps = field(default_factory=dict)  # soft maps by name, if they were asked for: foreground and overlap

    def __len__(self) -> int:
        return len(self.placed)

    def __repr__(self) -> str:
        return f"CellSegmentation({counted(len(self), 'object')}, {self.size[1]} x {self.size[0]})"

    @property
    def facts(self) -> dict[str, Any]:
        """The diameter, the inversion, the probability of a known image and the warnings, for files."""
        return {
            "diameter": round(self.diameter, 2),
            "inverted": self.inverted,
            "known": round(self.known, 4),
            "warnings": list(self.warnings),
        }

    @property
    def boxes(self) -> Int[np.ndarray, "N 4"]:
        """Boxes (x0, y0, x1, y1) in pixels."""
        rows = [(p.left, p.top, p.left + p.amodal.shape[1], p.top + p.amodal.shape[0]) for p in self.placed]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)

    @property
    def labels(self) -> Int[np.ndarray, "H W"]:
        """Label map: the number of the object (from 1, by decreasing score) that a pixel belongs to first; 0: none."""
        return label_map(self.placed, self.size)[0]

    @property
    def coverage(self) -> Int[np.ndarray, "H W"]:
        """Number of objects that cover every pixel; above 1 they overlap."""
        return label_map(self.placed, self.size)[1]

    @cached_property
    def occlusion(self) -> Bool[np.ndarray, "H W"]:
        """Pixels that two or more objects cover."""
        return self.coverage > 1

    @property
    def layers(self) -> Layers:
        """Dense masks (N, H, W). Raises LimitExceeded above 2 GB: use `placed`, `labels` and `coverage`."""
        if 2 * len(self) * self.size[0] * self.size[1] > MAX_DENSE:
            what = f"dense masks of {counted(len(self), 'object')} would exceed 2 GB"
            raise LimitExceeded(what, hint="use the attributes placed, labels and coverage")
        return layers_of_placed(self.placed, self.size)

    def scene(self, file: str = "") -> Scene:
        """The objects with run-length coded masks, for files and evaluation."""
        return scene_of_placed(self.placed, self.size, file, self.scores.tolist())
