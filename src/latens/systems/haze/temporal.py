"""Haze of a video that does not flicker: transmission follows the motion of the image, airlight moves slowly."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from latens.systems.haze.methods import Coarse

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

KEEP = 0.8  # of the past, where the past fits
KEEP_AIRLIGHT = 0.9
TOLERANCE = 0.04  # grey difference at which the past counts little; half of it, as noise makes, counts nearly nothing
CUT = 0.35  # mean agreement below which a new scene has begun
SMALLEST_SIDE = 16  # below, motion is not looked for
PLAIN = 1e-3  # squared slope of the grey values below which a place does not tell its own motion


class TemporalFilter:
    """Give it the frames of one clip in order: first the estimate, then the image it was made from."""

    def __init__(self) -> None:
        self.grey: Array | None = None
        self.past: Coarse | None = None
        self.picture: Array | None = None
        self.motion: Motion | None = None

    def estimate(self, coarse: Coarse, grey: torch.Tensor) -> Coarse:
        """The estimate of this frame, mixed with the past moved along; `grey` is (1, 1, h, w) in [0, 1], as small as it."""
        now = grey[0, 0].cpu().numpy().astype(np.float32)
        self.motion = None
        if self.past is not None and self.grey is not None and self.past.t.shape == coarse.t.shape:
            motion = motion_between(self.grey, now)
            agreement = motion.agreement(self.grey, now)
            if float(agreement.mean()) > CUT:
                self.motion = motion
                share = torch.from_numpy(KEEP * agreement).to(coarse.t)
                moved = torch.from_numpy(motion.follow(self.past.t[0, 0].cpu().numpy())).to(coarse.t)
                airlight = coarse.airlight + KEEP_AIRLIGHT * (self.past.airlight - coarse.airlight)
                coarse = coarse._replace(t=coarse.t + share * (moved - coarse.t), airlight=airlight)
        self.grey, self.past = now, coarse
        return coarse

    def denoise(self, hazy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The hazy image (1, 3, H, W), averaged along the motion by a share of 1 - t where the past agrees.

        Dividing by t multiplies noise by 1 / t; the average takes about as much away, and leaves what is near alone.
        """
        now = np.ascontiguousarray(hazy[0].permute(1, 2, 0).cpu().numpy())
        if self.motion is not None and self.picture is not None and self.picture.shape == now.shape:
            motion = self.motion.enlarged(now.shape[0], now.shape[1])
            moved = motion.follow(self.picture)
            difference = box_blur(np.abs(now - moved).mean(2))
            share = alike(difference) * motion.inside() * (1 - t[0, 0].cpu().numpy())
            now = now + share[..., None].astype(np.float32) * (moved - now)
        self.picture = now
        return torch.from_numpy(now).permute(2, 0, 1)[None].to(hazy)


class Motion(NamedTuple):
    """Where every pixel was in the frame before, in pixels."""

    columns: Array  # (h, w)
    rows: Array

    def follow(self, values: Array) -> Array:
        """Values (h, w) or (h, w, 3) of the frame before where they are now."""
        import cv2

        source = np.ascontiguousarray(values)
        return np.asarray(cv2.remap(source, self.columns, self.rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))

    def inside(self) -> Array:
        """1 where the pixel was in the frame before, else 0."""
        height, width = self.rows.shape
        within = (self.columns > -0.5) & (self.columns < width - 0.5) & (self.rows > -0.5) & (self.rows < height - 0.5)
        return within.astype(np.float32)

    def agreement(self, before: Array, now: Array) -> Array:
        """How far grey values along the motion are the same, in [0, 1]."""
        agreement: Array = alike(now - self.follow(before)) * self.inside()
        return agreement.astype(np.float32)

    def enlarged(self, height: int, width: int) -> Motion:
        """The same motion for a larger image."""
        import cv2

        down, across = height / self.rows.shape[0], width / self.rows.shape[1]
        columns, rows = _grid(*self.rows.shape)
        big_columns, big_rows = _grid(height, width)
        shift = [cv2.resize(part, (width, height)) for part in ((self.columns - columns) * across, (self.rows - rows) * down)]
        return Motion(big_columns + np.asarray(shift[0]), big_rows + np.asarray(shift[1]))


def motion_between(before: Array, now: Array) -> Motion:
    """Dense flow of grey images (h, w) in [0, 1]; none is looked for in tiny ones.

    Skies and walls of fog show noise only, which has no motion to find: they move as what is around them, or as all.
    """
    import cv2

    columns, rows = _grid(*now.shape)
    if min(now.shape) < SMALLEST_SIDE:
        return Motion(columns, rows)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    start = np.zeros((*now.shape, 2), np.float32)
    flow = np.asarray(search.calc(_bytes(now), _bytes(before), start))  # from here to where it was
    slope = steepness(now)
    weight, spread = slope**2, max(now.shape) / 16
    overall = (flow * weight).sum((0, 1)) / max(float(weight.sum()), 1e-12)
    known, total = (cv2.GaussianBlur(part, (0, 0), spread) for part in (flow * weight, weight))
    around = (known + PLAIN**2 * overall) / (total[..., None] + PLAIN**2)
    flow = around + slope / (slope + PLAIN) * (flow - around)
    return Motion(columns + flow[..., 0].astype(np.float32), rows + flow[..., 1].astype(np.float32))


def steepness(grey: Array) -> Array:
    """Squared slope of the grey values (h, w, 1), without that of the noise of single pixels."""
    import cv2

    smooth = cv2.GaussianBlur(grey, (0, 0), 2.0)
    down, across = cv2.Sobel(smooth, -1, 0, 1), cv2.Sobel(smooth, -1, 1, 0)
    return np.asarray(down**2 + across**2)[..., None]


def alike(difference: Array) -> Array:
    """How far grey values that differ so much are the same, in [0, 1]."""
    result: Array = np.exp(-((difference / TOLERANCE) ** 4))
    return result


def box_blur(values: Array) -> Array:
    """Means of 5 x 5 windows: single noisy pixels do not decide."""
    import cv2

    return np.asarray(cv2.blur(values, (5, 5)))


def _grid(height: int, width: int) -> tuple[Array, Array]:
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return columns, rows


def _bytes(grey: Array) -> Array:
    return np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8)
