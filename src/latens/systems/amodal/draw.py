"""Overlays: outlines, solid where an object is visible and dashed where it is hidden; hidden parts in color."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from latens.data.instances import Layers, Placed, placed_of
from latens.shapes import Bool, UInt8

GOLDEN = 0.61803398875  # fraction of the color circle between consecutive objects
TINT = 128  # alpha of the color of hidden parts
DASH = 5  # length of a dash in pixels, for an image of 500 pixels


def overlay(pixels: UInt8[np.ndarray, "H W 3"], layers: Layers) -> UInt8[np.ndarray, "H W 3"]:
    """The image with the outlines of all objects, those in front drawn last."""
    return overlay_placed(pixels, placed_of(layers))


def overlay_placed(pixels: UInt8[np.ndarray, "H W 3"], placed: Sequence[Placed]) -> UInt8[np.ndarray, "H W 3"]:
    """The same for objects in windows."""
    drawn = pixels.copy()
    side = max(pixels.shape[:2])
    dash = max(2, round(DASH * side / 500))
    width = max(1, min(round(side / 400), round(np.median([min(each.amodal.shape) for each in placed]) / 12))) if placed else 1
    for index in np.argsort([-each.layer for each in placed], kind="stable"):
        each = placed[int(index)]
        rows, columns = np.ogrid[each.window]
        gaps = (rows // dash + columns // dash) % 2 == 0
        line = outline(each.amodal, width)
        behind = line & ~each.visible
        drawn[each.window][(line & ~behind) | (behind & gaps)] = color(int(index))
    return drawn


def hidden_parts(layers: Layers) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA layer with the hidden part of every object in the color of its outline, transparent elsewhere."""
    drawn = np.zeros((*layers.occlusion.shape, 4), dtype=np.uint8)
    for index, (amodal, visible) in enumerate(zip(layers.amodal, layers.visible, strict=True)):
        drawn[amodal & ~visible] = (*color(index), TINT)
    return drawn


def outline(mask: Bool[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """The outermost `width` pixels of a mask."""
    inner = np.pad(mask, 1)
    for _ in range(width):
        grown = inner.copy()
        for axis in (0, 1):
            grown &= np.roll(inner, 1, axis) & np.roll(inner, -1, axis)
        inner = grown
    return np.asarray(mask & ~inner[1:-1, 1:-1])


def color(index: int) -> tuple[int, int, int]:
    """A bright color; consecutive indices differ strongly in hue."""
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
