"""Drawings of parts: occurrence maps, galleries of patches and appearance swaps (Gupta et al. 2020, Figs. 1, 3, 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from latens.data.images import Pixels
from latens.inference.sheet import BACKGROUND, boxed, column_of, label, resized, row_of, titled
from latens.shapes import Float, UInt8
from latens.systems.parts.gallery import PATCH_CELLS, PRESENT, PartGallery, Patch, part_colors
from latens.systems.parts.predict import PartCode, Parts

DIM = 0.3  # brightness where a part is absent
LAYER = 140  # alpha of a layer where a part is certain
TINT = 0.35  # opacity of the color of a part where it is present
CONTRAST = 3  # factor on the differences of averages and of swaps
MARK = (255, 255, 0)  # outline of the cell within a patch
OUTSIDE = 215  # gray level of a patch outside its image


def overlay(pixels: Pixels, maps: Float[np.ndarray, "h w"], color: Float[np.ndarray, "3"] | None = None) -> Pixels:
    """The image, dark gray where the part is unlikely; with a color, tinted where the part is likely."""
    heat = _resized_map(maps, *pixels.shape[:2])[..., None]
    base = pixels.astype(np.float64)
    if color is not None:
        base = base * (1 - TINT) + 255 * TINT * color
    shown = heat * base + (1 - heat) * DIM * pixels.mean(axis=2, keepdims=True)
    return np.rint(shown.clip(0, 255)).astype(np.uint8)


def part_layer(
    maps: Float[np.ndarray, "h w"], color: Float[np.ndarray, "3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA layer of `size` (H, W) in one color, as opaque as the part is likely."""
    layer = np.empty((*size, 4))
    layer[..., :3] = 255 * color
    layer[..., 3] = LAYER * _resized_map(maps, *size)
    return np.rint(layer).astype(np.uint8)


def _resized_map(cells: Float[np.ndarray, "h w"], height: int, width: int) -> Float[np.ndarray, "H W"]:
    """A map of cells at the size of an image, interpolated linearly."""
    small = torch.from_numpy(cells)[None, None].float()
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def painted(pixels: Pixels, code: PartCode) -> Pixels:
    """The image in gray; every cell in which some part has p > 0.5 is tinted with the color of its most likely part."""
    colors = part_colors(len(code.occurrence))
    strongest, highest = code.occurrence.argmax(0), code.occurrence.max(0)
    cells = np.where((highest > PRESENT)[..., None], colors[strongest], 0.0)
    size = (pixels.shape[1], pixels.shape[0])
    tint = np.asarray(Image.fromarray(np.rint(cells * 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    present = np.asarray(Image.fromarray((highest > PRESENT).astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST))
    gray = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    mixed = np.where((present > 0)[..., None], 0.5 * gray + 0.5 * tint, gray * 0.6)
    return np.rint(mixed).astype(np.uint8)


def occurrence_sheet(pixels: Pixels, code: PartCode, *, most: int = 6, height: int = 160) -> Pixels:
    """The image, all its parts in colors, and the maps of the parts that cover most cells."""
    reduced = resized(pixels, height)
    tiles = [titled(reduced, "image"), titled(painted(reduced, code), "all parts")]
    colors = part_colors(len(code.occurrence))
    covered = (code.occurrence > PRESENT).sum((1, 2))
    for part in sorted(code.present(), key=lambda part: -covered[part])[:most]:
        shown = overlay(reduced, code.occurrence[part], colors[part])
        tiles.append(titled(shown, f"part {part}, {100 * covered[part] / code.occurrence[part].size:.0f} %", colors[part]))
    return row_of(tiles)


def gallery_sheet(galleries: Sequence[PartGallery], *, side: int = 84) -> Pixels:
    """One row per part: number of occurrences, variance explained by the average, the average, patches by decreasing score."""
    columns, rows = max(len(gallery.patches) for gallery in galleries), []
    for gallery in galleries:
        patches = [marked(patch, side) for patch in gallery.patches]
        blank = np.full((side, side, 3), BACKGROUND, np.uint8)
        name = label(f"part {gallery.part}\n{gallery.occurrences} times\nexpl. {100 * gallery.explained:.0f} %", 72, side)
        rows.append(row_of([name, average(gallery, side), *patches, *[blank] * (columns - len(patches))]))
    return column_of(rows)


def marked(patch: Patch, side: int) -> Pixels:
    """The patch with its cell outlined at the center; light gray beyond the image border."""
    left, top, right, bottom = patch.box
    height, width = patch.pixels.shape[:2]
    scale = side / (PATCH_CELLS * max(1, min(right - left, bottom - top)))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    drawn = Image.fromarray(patch.pixels).resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    middle = (side / 2 - (left + right) / 2 * scale, side / 2 - (top + bottom) / 2 * scale)
    tile = Image.new("RGB", (side, side), (OUTSIDE,) * 3)
    tile.paste(drawn, (round(middle[0]), round(middle[1])))
    half = side / PATCH_CELLS / 2
    ImageDraw.Draw(tile).rectangle([side / 2 - half, side / 2 - half, side / 2 + half, side / 2 + half], outline=MARK)
    return np.asarray(tile)


def average(gallery: PartGallery, side: int) -> Pixels:
    """The average of the occurrences of a part, with its contrast increased up to threefold."""
    mean = gallery.mean.astype(np.float64)
    middle = mean.mean()
    gain = min(CONTRAST, 127 / max(1.0, float(np.abs(mean - middle).max())))
    return square(np.rint((middle + gain * (mean - middle)).clip(0, 255)).astype(np.uint8), side)


def swap_sheet(
    parts: Parts, source: Pixels, targets: Sequence[Pixels], *, height: int = 112, codes: Sequence[PartCode] | None = None
) -> Pixels | None:
    """Fig. 5: source and its part, target and its part, reconstruction of the target before and after the swap.

    Of the parts present in both images, the one that changes the reconstruction most is swapped. None if no target shares a
    part with the source. `codes` are those of source and targets if already known.
    """
    code, *others = parts.encode([source, *targets]) if codes is None else codes
    rows = []
    for target, other in zip(targets, others, strict=True):
        before = np.asarray(parts.decode(other)).astype(int)
        swapped = {part: np.asarray(parts.decode(parts.swap(other, code, part))) for part in shared_parts(code, other)}
        if not swapped:
            continue
        part = max(swapped, key=lambda part: int(np.abs(swapped[part] - before).sum()))
        color, change = part_colors(len(code.occurrence))[part], np.abs(swapped[part] - before) * CONTRAST
        tiles = {
            f"source, part {part}": source,
            "where it occurs": overlay(source, code.occurrence[part], color),
            "target": target,
            f"its part {part}": overlay(target, other.occurrence[part], color),
            "decoded": before.astype(np.uint8),
            "swapped": swapped[part],
            f"change x {CONTRAST}": change.clip(0, 255).astype(np.uint8),
        }
        rows.append(row_of([titled(boxed(tile, 3 * height // 2, height), text) for text, tile in tiles.items()]))
    return column_of(rows) if rows else None


def shared_parts(one: PartCode, other: PartCode) -> list[int]:
    """Parts that are present in both."""
    return sorted(set(one.present()) & set(other.present()))


def square(pixels: Pixels, side: int) -> Pixels:
    kind = Image.Resampling.BICUBIC if max(pixels.shape[:2]) < side else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), kind))
