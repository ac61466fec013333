"""Temporal filtering of haze estimates against flicker: transmission follows the optical flow, airlight is smoothed."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from latens.systems.haze.methods import Coarse

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

KEEP = 0.8  # weight of the previous transmission where the frames agree
KEEP_AIRLIGHT = 0.9  # weight of the previous airlight
TOLERANCE = 0.04  # gray difference at which the weight of the previous frame is 1/e; noise causes about half of it
CUT = 0.35  # mean consistency below which a cut is assumed
SMALLEST_SIDE = 16  # pixels; for smaller images no motion is estimated
PLAIN = 1e-3  # squared gradient of the gray values; below it motion is undetermined (aperture problem)


class TemporalFilter:
    """Filter for the frames of one clip, in order: `estimate` first, then `denoise` of the same frame."""

    def __init__(self) -> None:
        self.gray: Array | None = None
        self.past: Coarse | None = None
        self.image: Array | None = None
        self.motion: Motion | None = None
        self.gamma = 1.0

    def estimate(self, coarse: Coarse, gray: torch.Tensor) -> Coarse:
        """The estimate of this frame, mixed with the motion-compensated previous one.

        `gray` (1, 1, h, w) in [0, 1] is the frame at the size of the estimate.
        """
        now = gray[0, 0].cpu().numpy().astype(np.float32)
        self.motion = None
        if self.past is not None and self.gray is not None and self.past.t.shape == coarse.t.shape:
            motion = motion_between(self.gray, now)
            consistency = motion.consistency(self.gray, now)
            if float(consistency.mean()) > CUT:
                self.motion = motion
                share = torch.from_numpy(KEEP * consistency).to(coarse.t)
                moved = torch.from_numpy(motion.follow(self.past.t[0, 0].cpu().numpy())).to(coarse.t)
                airlight = coarse.airlight + KEEP_AIRLIGHT * (self.past.airlight - coarse.airlight)
                coarse = coarse._replace(t=coarse.t + share * (moved - coarse.t), airlight=airlight)
        self.gray, self.past = now, coarse
        return coarse

    def tone(self, gamma: float) -> float:
        """The power of the tone curve of this frame, mixed with the previous one; after a cut it is the frame's own."""
        self.gamma = gamma if self.motion is None else gamma + KEEP_AIRLIGHT * (self.gamma - gamma)
        return self.gamma

    def denoise(self, hazy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The hazy image (1, 3, H, W) in 0..255, averaged with the previous frames along their motion.

        The weight of the previous frames is 1 - t where they agree.
        Division by t amplifies noise by 1 / t. The average reduces noise by about the same factor; near objects are unchanged.
        """
        now = np.ascontiguousarray(hazy[0].permute(1, 2, 0).cpu().numpy())
        if self.motion is not None and self.image is not None and self.image.shape == now.shape:
            motion = self.motion.enlarged(now.shape[0], now.shape[1])
            moved = motion.follow(self.image)
            difference = box_blur(np.abs(now - moved).mean(2))
            share = similarity(difference / 255) * motion.inside() * (1 - t[0, 0].cpu().numpy())
            now = now + share[..., None].astype(np.float32) * (moved - now)
        self.image = now
        return torch.from_numpy(now).permute(2, 0, 1)[None].to(hazy)


class Motion(NamedTuple):
    """Position of every pixel in the previous frame, in pixels."""

    columns: Array  # (h, w)
    rows: Array

    def follow(self, values: Array) -> Array:
        """Values (h, w) or (h, w, 3) of the previous frame, warped to this one."""
        import cv2

        source = np.ascontiguousarray(values)
        return np.asarray(cv2.remap(source, self.columns, self.rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))

    def inside(self) -> Array:
        """1 where the position lies inside the previous frame, else 0."""
        height, width = self.rows.shape
        within = (self.columns > -0.5) & (self.columns < width - 0.5) & (self.rows > -0.5) & (self.rows < height - 0.5)
        return within.astype(np.float32)

    def consistency(self, before: Array, now: Array) -> Array:
        """Consistency of gray values along the motion, in [0, 1]."""
        consistency: Array = similarity(now - self.follow(before)) * self.inside()
        return consistency.astype(np.float32)

    def enlarged(self, height: int, width: int) -> Motion:
        """The motion at a larger size."""
        import cv2

        down, across = height / self.rows.shape[0], width / self.rows.shape[1]
        columns, rows = _grid(*self.rows.shape)
        big_columns, big_rows = _grid(height, width)
        shift = [cv2.resize(part, (width, height)) for part in ((self.columns - columns) * across, (self.rows - rows) * down)]
        return Motion(big_columns + np.asarray(shift[0]), big_rows + np.asarray(shift[1]))


def motion_between(before: Array, now: Array) -> Motion:
    """Dense optical flow of gray images (h, w) in [0, 1]; zero for images below `SMALLEST_SIDE`.

    In sky and dense fog the flow is undetermined. It is replaced by the flow of the surroundings or of the whole image.
    """
    import cv2

    columns, rows = _grid(*now.shape)
    if min(now.shape) < SMALLEST_SIDE:
        return Motion(columns, rows)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    start = np.zeros((*now.shape, 2), np.float32)
    flow = np.asarray(search.calc(_bytes(now), _bytes(before), start))  # from now to before
    slope = steepness(now)
    weight, spread = slope**2, max(now.shape) / 16
    overall = (flow * weight).sum((0, 1)) / max(float(weight.sum()), 1e-12)
    known, total = (cv2.GaussianBlur(part, (0, 0), spread) for part in (flow * weight, weight))
    around = (known + PLAIN**2 * overall) / (total[..., None] + PLAIN**2)
    flow = around + slope / (slope + PLAIN) * (flow - around)
    return Motion(columns + flow[..., 0].astype(np.float32), rows + flow[..., 1].astype(np.float32))


def steepness(gray: Array) -> Array:
    """Squared gradient (h, w, 1) of the smoothed gray values."""
    import cv2

    smooth = cv2.GaussianBlur(gray, (0, 0), 2.0)
    down, across = cv2.Sobel(smooth, -1, 0, 1), cv2.Sobel(smooth, -1, 1, 0)
    return np.asarray(down**2 + across**2)[..., None]


def similarity(difference: Array) -> Array:
    """Similarity in [0, 1] of gray values with this difference."""
    result: Array = np.exp(-((difference / TOLERANCE) ** 4))
    return result


def box_blur(values: Array) -> Array:
    """Mean over 5 x 5 windows, which reduces pixel noise."""
    import cv2

    return np.asarray(cv2.blur(values, (5, 5)))


def _grid(height: int, width: int) -> tuple[Array, Array]:
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return columns, rows


def _bytes(gray: Array) -> Array:
    return np.rint(255 * np.clip(gray, 0, 1)).astype(np.uint8)
