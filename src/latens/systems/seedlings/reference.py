"""Grid of a photograph with too few plants, from another day of the same tray or from the rim of other trays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.systems.seedlings.foreground import Foreground
from latens.systems.seedlings.lattice import BAD_SUPPORT, STRAY, Lattice, NoLattice, project
from latens.systems.seedlings.rim import Rim, find_rim, lattice_in

MIN_PLANTS = 6  # minimum number of plants that align the grid of another day
LARGE = 0.3  # minimum area of a plant, relative to the 95 % quantile of the blob areas
PLANTED = 0.3  # minimum share of cells with such a blob in a planted tray, whose plants must confirm the grid
VERIFIED = 0.2  # maximum median distance of plants from cell centers, in pitches, that confirms a grid


class Reference(NamedTuple):
    """Known lattice or rim of a tray, from other photographs."""

    lattice: Lattice | None  # lattice of another day of the same tray
    rim: Rim | None  # rim on that day, or of other trays


def place_reference(
    reference: Reference, foreground: Foreground, rows: int, cols: int, reason: str, notes: list[str]
) -> Lattice:
    """Places the grid of a photograph whose plants do not determine it, for the given `reason`.

    Adds a note on the source of the grid. Raises NoLattice if the reference does not fit.
    """
    rim, lattice = reference.rim, reference.lattice
    source = "another day of this tray" if lattice is not None else "the other trays"
    corners = find_rim(foreground.gray, foreground.mask) if rim is not None and (rim.rows, rim.cols) == (rows, cols) else None
    if rim is not None and corners is not None:
        placed = lattice_in(rim, corners)
        if placed is not None:
            notes.append(f"{reason}; grid placed by the rim as on {source}{_verified(placed, foreground, reason)}")
            return placed
    if lattice is not None and (lattice.rows, lattice.cols) == (rows, cols):
        moved = register(lattice, foreground)
        notes.append(f"{reason}; grid taken from {source}{_verified(moved, foreground, reason)}")
        return moved
    raise NoLattice(f"{reason}, and no rim was found as on {source}")


def _verified(lattice: Lattice, foreground: Foreground, reason: str) -> str:
    """Note on the agreement of the few plants with the grid. Raises NoLattice if a planted tray does not agree."""
    places = project(np.linalg.inv(lattice.homography), foreground.blobs)
    inside = ((places >= -0.5) & (places < [lattice.cols - 0.5, lattice.rows - 0.5])).all(axis=1)
    if inside.sum() < MIN_PLANTS:
        return ", not verified by plants"
    areas = foreground.areas[inside]
    large = areas >= LARGE * np.percentile(areas, 95)  # in an empty tray these are moss
    off = np.linalg.norm(places[inside] - np.rint(places[inside]), axis=1)
    if np.median(off[large]) <= VERIFIED and (off[large] < STRAY).mean() >= BAD_SUPPORT:
        return ", confirmed by its plants"
    if len(np.unique(np.rint(places[inside][large]), axis=0)) >= PLANTED * lattice.rows * lattice.cols:
        raise NoLattice(f"{reason}; nor does the grid of other photographs")
    return ", but its few plants, moss or specks do not lie on it: check the overlay"


def register(reference: Lattice, foreground: Foreground) -> Lattice:
    """Aligns the reference with the few plants of a photograph; returns it unchanged for fewer than MIN_PLANTS.

    Searches shifts within half a pitch and rotations within 5 degrees around the middle.
    """
    if len(foreground.blobs) < MIN_PLANTS:
        return reference
    middle = reference.centers().reshape(-1, 2).mean(axis=0)
    best, chosen = -1.0, reference
    inverse = np.linalg.inv(reference.homography)
    steps = np.linspace(-0.5, 0.5, 21) * reference.pitch
    for angle in np.deg2rad(np.linspace(-5, 5, 21)):
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        turned = (foreground.blobs - middle) @ turn.T + middle
        for dx in steps:
            for dy in steps:
                places = project(inverse, turned + np.array([dx, dy]))
                off = np.linalg.norm(places - np.rint(places), axis=1)
                score = float(np.exp(-((off / 0.12) ** 2)).sum())
                if score > best + 1e-9:
                    back = np.eye(3)
                    back[:2, :2] = turn.T
                    back[:2, 2] = middle - turn.T @ (middle + np.array([dx, dy]))
                    best, chosen = score, reference._replace(homography=back @ reference.homography)
    return chosen
