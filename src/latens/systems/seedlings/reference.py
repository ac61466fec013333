"""The grid of a photograph with too few plants: from another day of the same tray, or from the rim of trays of its kind."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latens.systems.seedlings.foreground import Foreground
from latens.systems.seedlings.lattice import BAD_SUPPORT, STRAY, Lattice, NoLattice, project
from latens.systems.seedlings.rim import Rim, find_rim, lattice_in

ENOUGH = 6  # plants that place the grid of another day
LARGE = 0.3  # of the 95 % point of the areas: blobs that may be plants
PLANTED = 0.3  # of the cells with such a blob: the tray is planted, and its plants have to agree
VERIFIED = 0.2  # of a pitch: median distance of plants from their cells, up to which they confirm a grid


class Reference(NamedTuple):
    """What is known of a tray before its photograph is read."""

    lattice: Lattice | None  # of another day of the same tray
    rim: Rim | None  # of that day, or of other trays


def place_reference(
    reference: Reference, foreground: Foreground, rows: int, cols: int, reason: str, notes: list[str]
) -> Lattice:
    """The grid of a photograph whose plants do not give one, for this `reason`. Raises NoLattice where the reference does not
    help.
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
    """A note on whether the few plants lie on the grid. Raises NoLattice where a planted tray does not."""
    places = project(np.linalg.inv(lattice.homography), foreground.blobs)
    inside = ((places >= -0.5) & (places < [lattice.cols - 0.5, lattice.rows - 0.5])).all(axis=1)
    if inside.sum() < ENOUGH:
        return ", not verified by plants"
    areas = foreground.areas[inside]
    large = areas >= LARGE * np.percentile(areas, 95)  # of an empty tray: its moss
    off = np.linalg.norm(places[inside] - np.rint(places[inside]), axis=1)
    if np.median(off[large]) <= VERIFIED and (off[large] < STRAY).mean() >= BAD_SUPPORT:
        return ", its plants agree"
    if len(np.unique(np.rint(places[inside][large]), axis=0)) >= PLANTED * lattice.rows * lattice.cols:
        raise NoLattice(f"{reason}; nor does the grid of other photographs")
    return ", its few plants, moss or specks do not lie on it: look at the overlay"


def register(reference: Lattice, foreground: Foreground) -> Lattice:
    """The reference moved so that its nodes meet the few plants of this photograph; the very reference where there are too few.

    Searches shifts within half a pitch and turns within 5 degrees around the middle.
    """
    if len(foreground.blobs) < ENOUGH:
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
