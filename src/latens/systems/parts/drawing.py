"""Pictures of parts: occurrence maps over the picture, galleries of patches, appearance swaps (004, Figs. 1, 3, 4 and 5)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latens.data.images import Pixels
from latens.systems.parts.objective import part_colours
from latens.systems.parts.predict import PRESENT, PartCode, PartGallery, Parts, up_to

if TYPE_CHECKING:
    from jaxtyping import Float

DIM = 0.25  # brightness that is left where a part is not
LINE = 18  # height of a line of text, in pixels
GAP = 4
PAPER = 255


def overlay(pixels: Pixels, maps: Float[np.ndarray, "h w"], colour: Float[np.ndarray, "3"] | None = None) -> Pixels:
    """The picture, dark where the part is unlikely; with a colour, tinted where it is likely."""
    heat = up_to(maps[None], *pixels.shape[:2])[0][..., None]
    shown = pixels * (DIM + (1 - DIM) * heat)
    if colour is not None:
        shown = shown * (1 - 0.35 * heat) + 255 * 0.35 * heat * colour
    return np.rint(shown.clip(0, 255)).astype(np.uint8)


def painted(pixels: Pixels, code: PartCode) -> Pixels:
    """The picture in grey with every cell in the colour of its likeliest part, where one is likelier there than not."""
    colours = part_colours(len(code.occurrence))
    strongest, surest = code.occurrence.argmax(0), code.occurrence.max(0)
    cells = np.where((surest > PRESENT)[..., None], colours[strongest], 0.0)
    size = (pixels.shape[1], pixels.shape[0])
    tint = np.asarray(Image.fromarray(np.rint(cells * 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    there = np.asarray(Image.fromarray((surest > PRESENT).astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST))
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    mixed = np.where((there > 0)[..., None], 0.5 * grey + 0.5 * tint, grey * 0.6)
    return np.rint(mixed).astype(np.uint8)


def occurrence_sheet(pixels: Pixels, code: PartCode, *, most: int = 6, height: int = 160) -> Pixels:
    """The picture, all its parts in colours, and the maps of the surest of them."""
    reduced = resized(pixels, height)
    tiles = [("picture", reduced), ("all parts", painted(reduced, code))]
    colours = part_colours(len(code.occurrence))
    for part in code.present()[:most]:
        tiles.append((f"part {part}", overlay(reduced, code.occurrence[part], colours[part])))
    return row_of([titled(tile, text) for text, tile in tiles])


def gallery_sheet(galleries: Sequence[PartGallery], *, side: int = 72, columns: int = 9) -> Pixels:
    """One row a part: its number, then its patches from the surest on."""
    rows = []
    for gallery in galleries:
        patches = [square(patch.pixels, side) for patch in gallery.patches[:columns]]
        blank = np.full((side, side, 3), PAPER, np.uint8)
        rows.append(row_of([label(f"part {gallery.part}", 56, side), *patches, *[blank] * (columns - len(patches))]))
    return column_of(rows)


def swap_sheet(parts: Parts, source: Pixels, targets: Sequence[Pixels], *, height: int = 112) -> Pixels | None:
    """Figure 5: source and its part, target and its part, the target's picture of parts before and after the swap.

    Of every pair the part is swapped that is surest in both; None where no pair shares one.
    """
    (code,) = parts.encode(source)
    rows = []
    for target in targets:
        (other,) = parts.encode(target)
        shared = np.minimum(code.occurrence.max((1, 2)), other.occurrence.max((1, 2)))
        part = int(shared.argmax())
        if shared[part] <= PRESENT:
            continue
        colour = part_colours(len(shared))[part]
        shown = [(f"source, part {part}", overlay(resized(source, height), code.occurrence[part], colour))]
        shown += [("target", resized(target, height))]
        shown += [(f"its part {part}", overlay(resized(target, height), other.occurrence[part], colour))]
        before, after = (np.asarray(parts.decode(each)) for each in (other, parts.swap(other, code, part)))
        shown += [("before", resized(before, height)), ("after", resized(after, height))]
        change = np.abs(after.astype(int) - before).max(axis=2, keepdims=True).repeat(3, 2).astype(np.uint8)
        shown += [("change", resized(change, height))]
        rows.append(row_of([titled(tile, text) for text, tile in shown]))
    return column_of(rows) if rows else None


# ------------------------------------------------------------------------------------------------------------ tiles


def resized(pixels: Pixels, height: int) -> Pixels:
    """The picture at this height."""
    width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
    kind = Image.Resampling.NEAREST if pixels.shape[0] < height else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), kind))


def square(pixels: Pixels, side: int) -> Pixels:
    kind = Image.Resampling.BICUBIC if max(pixels.shape[:2]) < side else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), kind))


def label(text: str, width: int, height: int) -> Pixels:
    """Black text in the middle of a white tile."""
    tile = Image.new("RGB", (width, height), (PAPER,) * 3)
    ImageDraw.Draw(tile).text((width / 2, height / 2), text, fill=0, anchor="mm", font=ImageFont.load_default(13))
    return np.asarray(tile)


def titled(pixels: Pixels, text: str) -> Pixels:
    return np.concatenate([label(text, pixels.shape[1], LINE), pixels])


def row_of(tiles: Sequence[Pixels]) -> Pixels:
    """Tiles side by side, shorter ones filled up below."""
    height = max(tile.shape[0] for tile in tiles)
    filled = [np.pad(t, ((0, height - t.shape[0]), (0, GAP), (0, 0)), constant_values=PAPER) for t in tiles]
    return np.concatenate(filled, axis=1)


def column_of(rows: Sequence[Pixels]) -> Pixels:
    width = max(row.shape[1] for row in rows)
    filled = [np.pad(r, ((0, GAP), (0, width - r.shape[1]), (0, 0)), constant_values=PAPER) for r in rows]
    return np.concatenate(filled)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
