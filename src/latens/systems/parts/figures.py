"""Figures 1, 3, 4 and 5 of 004 from a trained model on any pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from latens.data.images import Pixels
from latens.errors import InputError
from latens.inference.report import Block, Figure
from latens.systems.parts.drawing import (
    column_of,
    gallery_sheet,
    label,
    overlay,
    png,
    resized,
    row_of,
    square,
    swap_sheet,
    titled,
)
from latens.systems.parts.objective import part_colours
from latens.systems.parts.predict import PartGallery, Parts

SHOWN_PARTS = 6
HEIGHT = 96
EXAMPLES = 6


def figure1(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """A picture, where one of its parts is, and patches of the same part from other pictures."""
    rows = []
    for gallery in _common(parts, pictures):
        first = gallery.patches[0]
        (code,) = parts.encode(pictures[first.picture])
        shown = resized(pictures[first.picture], HEIGHT)
        where = overlay(shown, code.occurrence[gallery.part], part_colours(parts.config.parts)[gallery.part])
        others = [square(patch.pixels, HEIGHT) for patch in gallery.patches[1:EXAMPLES]]
        rows.append(row_of([shown, where, label(f"part {gallery.part}", 56, HEIGHT), *others]))
    return [
        Figure(png(column_of(rows)), "Figure 1", "Picture, occurrence of one part, the same part elsewhere.", alt="figure 1")
    ]


def figure3(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Occurrence maps: one row a part, the pictures where it is surest."""
    rows = []
    for gallery in _common(parts, pictures):
        tiles = []
        for patch in gallery.patches[:EXAMPLES]:
            (code,) = parts.encode(pictures[patch.picture])
            shown = resized(pictures[patch.picture], HEIGHT)
            tiles += [shown, overlay(shown, code.occurrence[gallery.part])]
        rows.append(row_of([label(f"part {gallery.part}", 56, HEIGHT), *tiles]))
    return [Figure(png(column_of(rows)), "Figure 3", "Encoded part occurrences; each row is one part.", alt="figure 3")]


def figure4(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Patches around the surest occurrences of every part, and the pictures they come from."""
    galleries = parts.gallery(pictures, most=9)
    if not galleries:
        raise _nothing(parts)
    rows = []
    for gallery in galleries[:12]:
        tiles = [titled(square(patch.pixels, 80), names[patch.picture][:12]) for patch in gallery.patches]
        rows.append(row_of([label(f"part {gallery.part}", 56, 80), *tiles]))
    whole = Figure(png(gallery_sheet(galleries)), "All parts", "One row a part that occurs.", alt="all parts")
    return [Figure(png(column_of(rows)), "Figure 4", "Patches sorted by probability, one a picture.", alt="figure 4"), whole]


def figure5(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Appearance of one part moved from source to target pictures."""
    sheets = []
    for start in range(min(2, len(pictures))):
        sheet = swap_sheet(parts, pictures[start], [p for i, p in enumerate(pictures[:5]) if i != start])
        sheets += [] if sheet is None else [sheet]
    if not sheets:
        raise _nothing(parts)
    caption = "Source and its part, target and its part, the target's picture before and after the swap, and their difference."
    return [Figure(png(column_of(sheets)), "Figure 5", caption, alt="figure 5")]


def _common(parts: Parts, pictures: Sequence[Pixels]) -> list[PartGallery]:
    galleries = parts.gallery(pictures, most=EXAMPLES)[:SHOWN_PARTS]
    if not galleries:
        raise _nothing(parts)
    return galleries


def _nothing(parts: Parts) -> InputError:
    return InputError("no part of this model occurs in these pictures", where=parts.name, hint="give more pictures with --data")


FIGURES: Mapping[str, Callable[[Parts, Sequence[Pixels], Sequence[str]], list[Block]]] = {
    "figure1": figure1, "figure3": figure3, "figure4": figure4, "figure5": figure5
}  # fmt: skip
