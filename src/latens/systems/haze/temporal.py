"""Haze of a video that does not flicker: transmission follows the motion of the picture, airlight moves slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from latens.systems.haze.methods import Coarse

KEEP = 0.8  # of the past, where the past fits
KEEP_AIRLIGHT = 0.9
TOLERANCE = 0.04  # grey difference at which the past counts little
CUT = 0.35  # mean agreement below which a new scene has begun
SMALLEST_SIDE = 16  # below, motion is not looked for


class TemporalFilter:
    """Give it the frames of one clip in order."""

    def __init__(self) -> None:
        self.grey: np.ndarray[Any, Any] | None = None
        self.past: Coarse | None = None

    def __call__(self, coarse: Coarse, grey: torch.Tensor) -> Coarse:
        """The estimate of this frame, mixed with the past moved along; `grey` is (1, 1, h, w) in [0, 1], as small as it."""
        now = grey[0, 0].cpu().numpy().astype(np.float32)
        if self.past is not None and self.grey is not None and self.past.t.shape == coarse.t.shape:
            moved, agreement = follow(self.grey, now, self.past.t[0, 0].cpu().numpy())
            if float(agreement.mean()) > CUT:
                share = torch.from_numpy(KEEP * agreement).to(coarse.t)
                t = coarse.t + share * (torch.from_numpy(moved).to(coarse.t) - coarse.t)
                airlight = coarse.airlight + KEEP_AIRLIGHT * (self.past.airlight - coarse.airlight)
                coarse = coarse._replace(t=t, airlight=airlight)
        self.grey, self.past = now, coarse
        return coarse


def follow(
    before: np.ndarray[Any, Any], now: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """`values` of the last frame where they are now, and how far grey values agree there, in [0, 1]; all (h, w)."""
    import cv2

    height, width = now.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    if min(height, width) >= SMALLEST_SIDE:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        start = np.zeros((height, width, 2), np.float32)
        flow = np.asarray(search.calc(_bytes(now), _bytes(before), start))  # from here to where it was
        columns, rows = columns + flow[..., 0], rows + flow[..., 1]
    moved, old = (
        cv2.remap(np.ascontiguousarray(x), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for x in (values, before)
    )
    inside = (columns > -1) & (columns < width) & (rows > -1) & (rows < height)
    agreement = np.exp(-(((now - old) / TOLERANCE) ** 2)) * inside
    return moved, agreement.astype(np.float32)


def _bytes(grey: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8)
