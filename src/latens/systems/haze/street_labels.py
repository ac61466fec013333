"""Depth of street scenes from class labels: the ground is a plane, things stand at their feet, the sky is far.

The labels are those of CamVid (Brostow et al. 2009) in the order of SegNet's copy. The depth is approximate; it teaches the
layout of streets. Letters: H W image size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latens.data.depth import Depth
from latens.data.images import Pixels
from latens.errors import InputError

SKY, VOID = 0, 11
GROUND = (3, 4)  # road, pavement
CAMERA_HEIGHT, FOCAL = 1.5, 1.0  # meters; in image widths
HORIZON_QUANTILE, HORIZON_MARGIN = 0.005, 0.01  # of the rows of the ground; rows between its top and the horizon, in heights
FARTHEST = 150.0  # meters
FEET = 21  # columns of the median of the depth at the feet; a foot behind a post is none
BEHIND = 1.3  # depth of a thing whose foot is hidden, relative to what hides it


def street_depth(labels: Pixels) -> Depth:
    """Depth (H, W) in meters of labels (H, W), infinite for the sky. Raises InputError without ground, or for other labels."""
    ground = np.isin(labels, GROUND)
    if labels.max() > VOID or not ground.any():
        raise InputError("these are not the labels of a street", hint="classes 0 to 11 of CamVid, with road or pavement")
    depth = np.where(ground, ground_plane(ground), np.nan).astype(np.float32)
    for part in things(labels):
        stand(depth, ground, part)
    depth[labels == SKY] = np.inf
    depth[-1] = np.where(np.isnan(depth[-1]), np.nanmin(depth), depth[-1])  # the hood of the car
    for row in range(len(depth) - 2, -1, -1):
        hide(depth[row], depth[row + 1], labels[row] == labels[row + 1])
    return depth


def hide(row: Depth, below: Depth, same: np.ndarray) -> None:
    """Give things with a hidden foot a depth behind what is below them; `same` (W,) where both rows are of one class."""
    known = np.where(np.isfinite(below), below, FARTHEST)
    behind = np.where(same, known, np.minimum(BEHIND * known, FARTHEST))
    row[:] = np.where(np.isnan(row), behind, row)


def ground_plane(ground: np.ndarray) -> Depth:
    """Depth (H, W) of a plane below the camera, with the horizon just above the ground (H, W)."""
    height, width = ground.shape
    top = np.quantile(np.flatnonzero(ground.any(1)), HORIZON_QUANTILE)
    horizon = top - HORIZON_MARGIN * height
    rows = np.maximum(np.arange(height) - horizon, 1e-3)
    meters = np.minimum(FOCAL * width * CAMERA_HEIGHT / rows, FARTHEST)
    return np.repeat(meters[:, None], width, 1).astype(np.float32)


def things(labels: Pixels) -> Iterator[np.ndarray]:
    """Connected parts of one class, as masks (H, W), without sky, ground and void."""
    from scipy import ndimage

    for kind in np.unique(labels):
        if kind in (SKY, VOID, *GROUND):
            continue
        parts, count = ndimage.label(labels == kind)
        for number, place in enumerate(ndimage.find_objects(parts), 1):
            if number <= count and place is not None:
                yield parts == number


def stand(depth: Depth, ground: np.ndarray, part: np.ndarray) -> None:
    """Give a part the depth of the ground at its foot, column by column; columns with a hidden foot are interpolated."""
    foot = part[:-1] & ground[1:]
    columns = np.flatnonzero(foot.any(0))
    if not len(columns):
        return
    from scipy import ndimage

    rows = len(foot) - 1 - foot[::-1, columns].argmax(0)
    feet = ndimage.median_filter(depth[rows + 1, columns], FEET, mode="nearest")
    meters = np.interp(np.arange(depth.shape[1]), columns, feet)
    depth[part] = np.broadcast_to(meters, depth.shape)[part]
