"""Synthetic clips: photographs that pan, zoom and turn, and cut-out objects that move over them.

Letters: T frames, S side of the clip in pixels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from latens.shapes import Float, UInt8

Outside: TypeAlias = Literal["mirror", "repeat", "black"]
FEATHER = 3  # size in pixels of the blur of the edge of a cut-out


class Motion(NamedTuple):
    """A similarity motion: center, zoom and angle at the first frame, and their change per frame."""

    center: Float[np.ndarray, "2"]  # source pixels
    zoom: float  # source pixels per pixel of the clip
    angle: float  # radians
    velocity: Float[np.ndarray, "2"]  # source pixels per frame
    zoom_rate: float  # relative change per frame
    turn: float  # radians per frame

    def matrix(self, frame: int, side: int) -> Float[np.ndarray, "2 3"]:
        """The affine map from pixels of the clip to source pixels, at a frame."""
        zoom, angle = self.zoom * (1 + self.zoom_rate) ** frame, self.angle + self.turn * frame
        cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        center = self.center + self.velocity * frame
        return np.hstack([rotation, (center - rotation @ np.full(2, (side - 1) / 2))[:, None]])


def random_motion(rng: np.random.Generator, height: int, width: int, side: int, speed: float, zoom: float) -> Motion:
    """A motion that starts inside a source of height x width pixels; `speed` is in sides of the clip per frame."""
    scale = rng.uniform(1, zoom)
    margin = min(side * scale, height, width) / 2
    center = np.array(
        [rng.uniform(margin, max(width - margin, margin + 1)), rng.uniform(margin, max(height - margin, margin + 1))]
    )
    strength = rng.exponential(1.0)
    return Motion(
        center=center,
        zoom=scale,
        angle=rng.uniform(-0.2, 0.2),
        velocity=rng.normal(0, 1, 2) * strength * speed * side * scale,
        zoom_rate=rng.normal(0, 0.01) * strength,
        turn=rng.normal(0, 0.008) * strength,
    )


def view(
    source: UInt8[np.ndarray, "H W ..."], motion: Motion, frame: int, side: int, *, outside: Outside, smooth: bool = True
) -> UInt8[np.ndarray, "S S ..."]:
    """A frame of a moving source; pixels outside it are mirrored, repeated or black. Label maps need `smooth=False`."""
    import cv2  # imported here, as training on real clips does not need it

    borders = {"mirror": cv2.BORDER_REFLECT_101, "repeat": cv2.BORDER_REPLICATE, "black": cv2.BORDER_CONSTANT}
    flags = (cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(source, motion.matrix(frame, side), (side, side), flags=flags, borderMode=borders[outside])


def moving_photograph(
    photograph: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator, frames: int, side: int, speed: float, zoom: float
) -> UInt8[np.ndarray, "T S S 3"]:
    """A photograph that pans, zooms and turns at constant speed."""
    height, width = photograph.shape[:2]
    motion = random_motion(rng, height, width, side, speed, zoom)
    return np.stack([view(photograph, motion, frame, side, outside="mirror") for frame in range(frames)])


class Cutout(NamedTuple):
    """Frames and masks (0 or 255) of a clip, cropped to the bounding box of an object."""

    frames: UInt8[np.ndarray, "T H W 3"]
    masks: UInt8[np.ndarray, "T H W"]


def cut_out(frames: UInt8[np.ndarray, "T H W 3"], masks: UInt8[np.ndarray, "T H W"]) -> Cutout | None:
    """Crop frames and masks to the bounding box of all masks; None if the masks are empty."""
    rows, columns = (np.flatnonzero(masks.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    if len(rows) == 0:
        return None
    box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Cutout(frames[box], masks[box])


class Composite(NamedTuple):
    frames: UInt8[np.ndarray, "T S S 3"]
    ids: UInt8[np.ndarray, "T S S"]  # 0 background, k the k-th object; a later object covers earlier ones


def composite(
    background: UInt8[np.ndarray, "T S S 3"], objects: list[Cutout], rng: np.random.Generator, speed: float
) -> Composite:
    """Objects pasted over a clip, each a third to two thirds of its side, with independent motion."""
    import cv2

    side = background.shape[1]
    frames, ids = background.astype(np.float32), np.zeros(background.shape[:3], np.uint8)
    for number, cutout in enumerate(objects, 1):
        height, width = cutout.masks.shape[1:]
        zoom = max(height, width) / (side * rng.uniform(0.33, 0.67))
        place = rng.uniform(0.2, 0.8, 2) * side
        drift = rng.normal(0, 1, 2) * rng.exponential(1.0) * speed * side
        for index in range(len(frames)):
            target = place + drift * index
            center = np.array([width, height]) / 2 - zoom * (target - (side - 1) / 2)
            motion = Motion(center, zoom, 0.0, np.zeros(2), 0.0, 0.0)
            mask = view(cutout.masks[index], motion, 0, side, outside="black")
            alpha = cv2.GaussianBlur(mask, (FEATHER, FEATHER), 0).astype(np.float32)[..., None] / 255
            pasted = view(cutout.frames[index], motion, 0, side, outside="repeat")
            frames[index] += alpha * (pasted - frames[index])
            ids[index][mask > 127] = number
    return Composite(frames.round().clip(0, 255).astype(np.uint8), ids)
