"""Downsampling and central windows of training images."""

from __future__ import annotations

import numpy as np

from latens.shapes import UInt8


def reduced(pixels: UInt8[np.ndarray, "H W ..."], factor: float) -> UInt8[np.ndarray, "h w ..."]:
    """An image downsampled by a factor, by area averages."""
    if factor == 1:
        return pixels
    import cv2  # imported here, as training on clips of the right size does not need it

    height, width = (round(side / factor) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def resized(pixels: UInt8[np.ndarray, "H W ..."], side: int) -> UInt8[np.ndarray, "S S ..."]:
    if pixels.shape[0] == side:
        return pixels
    import cv2

    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def center(size: tuple[int, ...], wanted: tuple[int, int]) -> tuple[slice, slice]:
    """The central window (rows, columns) of at most the wanted size."""
    sides = [min(have, want) for have, want in zip(size, wanted, strict=True)]
    starts = [(have - side) // 2 for have, side in zip(size, sides, strict=True)]
    return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])
