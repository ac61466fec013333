"""Colors of parts, and sheets of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latens.data.tensors import to_pixels
from latens.shapes import Float


def sheet(rows: Sequence[Float[Tensor, "B 3 H W"]]) -> np.ndarray:
    """Batches of images as rows of one image (H, W, 3) uint8."""
    joined = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return to_pixels(joined)


def part_colors(parts: int) -> np.ndarray:
    """Colors (N, 3) in [0, 1] that go round the color circle, neighbors in number far apart in hue."""
    hue = (np.arange(parts) * (math.sqrt(5) - 1) / 2 % 1)[:, None]
    wave = np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3])))
    return 0.5 + 0.5 * wave
