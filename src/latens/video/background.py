"""Low-pass filter of the background, for encoders without regions; the region is dilated and feathered."""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np

from latens.data.clips.color import color_of, tag
from latens.data.regions.masks import Weights
from latens.shapes import Float

REFERENCE_HEIGHT = 480  # pixels; sigma is given for this height and scales with it
DILATION, FEATHER = 10, 13  # pixels at that height: radius of the dilation, side of the box filter that feathers
BOXED = 2.0  # pixels; from this sigma on, two box filters replace the Gaussian


class LowPass:
    """Low-pass filter of yuv420p and yuv420p10le frames outside their regions. `sigma` is in pixels at a height of 480."""

    def __init__(self, sigma: float, height: int) -> None:
        scale = height / REFERENCE_HEIGHT
        self.sigma = sigma * scale
        self.radius = max(1, round(DILATION * scale))
        self.feather = odd(FEATHER * scale)
        self._last: tuple[Weights, Float[np.ndarray, "H W"]] | None = None

    def __call__(self, frame: Any, weights: Weights) -> Any:
        """The filtered frame, with the same tags."""
        planes = frame.to_ndarray()
        height, width = frame.height, frame.width
        if self._last is None or self._last[0] is not weights:  # a fixed region is the same array in every frame
            self._last = weights, self.kept(weights, height, width)
        keep = self._last[1]
        _blend(planes[:height], keep, self.sigma)
        half = np.ascontiguousarray(keep[::2, ::2])
        chroma = planes[height:].reshape(2, height // 2, width // 2)
        for plane in chroma:
            _blend(plane, half, self.sigma / 2)
        return tag(av.VideoFrame.from_ndarray(planes, format=frame.format.name), color_of(frame))

    def kept(self, weights: Weights, height: int, width: int) -> Float[np.ndarray, "H W"]:
        """Weight of the original at every pixel, 0 to 1, for frames that may be padded."""
        import cv2

        below, right = height - weights.shape[0], width - weights.shape[1]
        if below or right:
            weights = np.pad(weights, ((0, below), (0, right)), mode="edge")
        kernel = np.ones((2 * self.radius + 1, 2 * self.radius + 1), dtype=np.uint8)
        grown = cv2.dilate(np.ascontiguousarray(weights), kernel)
        soft = cv2.blur(grown, (self.feather, self.feather))
        return cast("Float[np.ndarray, 'H W']", soft.astype(np.float32) / 255)


def _low_passed(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian for a small sigma; otherwise two box filters, whose cost does not depend on sigma."""
    import cv2

    if sigma < BOXED:
        return cast(np.ndarray, cv2.GaussianBlur(plane, (odd(6 * sigma), odd(6 * sigma)), sigma))
    side = odd(np.sqrt(6 * sigma**2 + 1))
    return cast(np.ndarray, cv2.blur(cv2.blur(plane, (side, side)), (side, side)))


def odd(length: float) -> int:
    """The nearest odd integer, at least 1."""
    return 2 * round((max(1.0, length) - 1) / 2) + 1


def _blend(plane: np.ndarray, keep: Float[np.ndarray, "H W"], sigma: float) -> None:
    """Blend the plane with its low-passed version, with weight 1 - keep, in place."""
    import cv2

    smooth = _low_passed(plane, sigma)
    if plane.dtype == np.uint8:
        plane[:] = cv2.blendLinear(np.ascontiguousarray(plane), smooth, keep, 1 - keep)
    else:
        plane[:] = np.rint(plane * keep + smooth * (1 - keep))
