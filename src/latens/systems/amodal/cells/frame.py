"""The network on an image of any size: tiles with context, whose maps are the same as those of the whole image.

The image is resampled to a "frame" in which the median object has the diameter that the network knows. Only the maps at full
size are kept, in bytes; centers, rays and overlap are reduced to candidates tile by tile, so memory is a few bytes a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from latens.shapes import Float, UInt8
from latens.systems.amodal.cells.config import STRIDE
from latens.systems.amodal.cells.decode import Candidates, candidates_of, suppressed
from latens.systems.amodal.cells.fields import Contrast
from latens.systems.amodal.cells.network import StarMaps, StarNet

TILE = 768  # side of the part of a tile that is kept, pixels of the frame
CONTEXT = 128  # context on every side; beyond it the network barely reacts
LARGEST_FRAME = 2**27  # pixels: larger frames are scaled down
SCALES = (1 / 16, 6.0)  # smallest and largest factor between image and frame


class Frame(NamedTuple):
    """Candidates that remain after suppression, and maps of an image; maps are probabilities from 0 to 255."""

    scale: tuple[float, float]  # rows and columns of the frame per row and column of the image
    candidates: Candidates
    foreground: UInt8[np.ndarray, "h w"]
    contact: UInt8[np.ndarray, "h w"]
    overlap: UInt8[np.ndarray, "h2 w2"]  # at stride 2


class Tile(NamedTuple):
    """[start, stop) is kept of [low, high), on each axis of the frame."""

    start: tuple[int, int]
    stop: tuple[int, int]
    low: tuple[int, int]
    high: tuple[int, int]


def tiles_of(height: int, width: int) -> Iterator[Tile]:
    """The tiles of a frame, in rows."""
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            stop = (min(y + TILE, height), min(x + TILE, width))
            low = (max(y - CONTEXT, 0), max(x - CONTEXT, 0))
            yield Tile((y, x), stop, low, (min(stop[0] + CONTEXT, height), min(stop[1] + CONTEXT, width)))


def frame_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Sides of the frame for a factor, which is reduced where the frame would exceed LARGEST_FRAME."""
    factor = min(max(scale, SCALES[0]), SCALES[1], math.sqrt(LARGEST_FRAME / (height * width)))
    return max(1, round(height * factor)), max(1, round(width * factor))


@torch.no_grad()
def computed(
    network: StarNet,
    pixels: UInt8[np.ndarray, "H W 3"],
    contrast: Contrast,
    scale: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Frame:
    """Maps and candidates of an image at a scale."""
    height, width = frame_size(pixels.shape[0], pixels.shape[1], scale)
    foreground = np.empty((height, width), dtype=np.uint8)
    contact = np.empty((height, width), dtype=np.uint8)
    overlap = np.empty((-(-height // STRIDE), -(-width // STRIDE)), dtype=np.uint8)
    found: list[Candidates] = []
    for tile in tiles_of(height, width):
        part = resampled(pixels, (height, width), tile)
        maps = _maps(network, contrast.apply(part), device, dtype)
        found.append(_keep(maps, tile, foreground, contact, overlap))
    together = Candidates(*(np.concatenate(each) for each in zip(*found, strict=True)))
    kept = together.take(suppressed(together, overlap, (height, width)))
    factors = (height / pixels.shape[0], width / pixels.shape[1])
    return Frame(factors, kept, foreground, contact, overlap)


def resampled(pixels: np.ndarray, size: tuple[int, int], tile: Tile) -> UInt8[np.ndarray, "h w 3"]:
    """The part of the resampled image that a tile needs: area sampling where it shrinks, bicubic where it grows."""
    if size == pixels.shape[:2]:
        return pixels[tile.low[0] : tile.high[0], tile.low[1] : tile.high[1]]
    factors = [size[axis] / pixels.shape[axis] for axis in (0, 1)]
    reach = [math.ceil(3 / factor) + 3 for factor in factors]
    low = [max(math.floor(tile.low[axis] / factors[axis]) - reach[axis], 0) for axis in (0, 1)]
    high = [min(math.ceil(tile.high[axis] / factors[axis]) + reach[axis], pixels.shape[axis]) for axis in (0, 1)]
    part = pixels[low[0] : high[0], low[1] : high[1]]
    if min(factors) < 0.9:
        blur = [max(0.5 / factor - 0.4, 0.05) for factor in factors]
        part = cv2.GaussianBlur(part, (0, 0), sigmaX=blur[1], sigmaY=blur[0])
    matrix = np.array(
        [
            [1 / factors[1], 0, (tile.low[1] + 0.5) / factors[1] - 0.5 - low[1]],
            [0, 1 / factors[0], (tile.low[0] + 0.5) / factors[0] - 0.5 - low[0]],
        ]
    )
    smooth = cv2.INTER_CUBIC if max(factors) > 1 else cv2.INTER_LINEAR
    shape = (tile.high[1] - tile.low[1], tile.high[0] - tile.low[0])
    flags = smooth | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, matrix, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _maps(network: StarNet, pixels: Float[np.ndarray, "h w 3"], device: torch.device, dtype: torch.dtype) -> StarMaps:
    """Maps of a part of the frame, which is mirrored at the right and the bottom up to the next multiple of the stride."""
    stride = network.config.coarsest
    height, width = pixels.shape[:2]
    padded = cv2.copyMakeBorder(pixels, 0, -height % stride, 0, -width % stride, cv2.BORDER_REFLECT)
    image = torch.from_numpy(padded).permute(2, 0, 1)[None].to(device)  # channels last already
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        maps: StarMaps = network(image)
    return maps


def _keep(maps: StarMaps, tile: Tile, foreground: np.ndarray, contact: np.ndarray, overlap: np.ndarray) -> Candidates:
    """Write the kept part of the maps of a tile into those of the frame; return its candidates."""
    place = tuple(slice(a, b) for a, b in zip(tile.start, tile.stop, strict=True))
    inner = tuple(slice(a - c, b - c) for a, b, c in zip(tile.start, tile.stop, tile.low, strict=True))
    foreground[place] = _bytes(maps.foreground[0])[inner]
    contact[place] = _bytes(maps.contact[0])[inner]
    coarse = tuple(slice(s.start // STRIDE, -(-s.stop // STRIDE)) for s in place)
    within = tuple(slice(s.start // STRIDE, -(-s.stop // STRIDE)) for s in inner)
    whole = _bytes(maps.overlap[0])
    overlap[coarse] = whole[within]
    height, width = (-(-(b - c) // STRIDE) for b, c in zip(tile.high, tile.low, strict=True))
    center = maps.center[0, :height, :width].sigmoid().cpu().numpy()
    found = candidates_of(center, whole[:height, :width].astype(np.float32) / 255, maps.log_rays[0].cpu().numpy())
    y, x = found.center[:, 0], found.center[:, 1]
    mine = (y >= inner[0].start) & (y < inner[0].stop) & (x >= inner[1].start) & (x < inner[1].stop)
    found = found.take(np.flatnonzero(mine))
    return found._replace(center=found.center + np.array(tile.low, dtype=np.float32))


def _bytes(logits: Tensor) -> UInt8[np.ndarray, "h w"]:
    return (logits.sigmoid() * 255).round().to(torch.uint8).cpu().numpy()
