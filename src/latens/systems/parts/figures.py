"""Figures 1, 3, 4 and 5 of 004 from a trained model on any pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from latens.data.images import Pixels
from latens.data.tensors import png_bytes
from latens.errors import InputError
from latens.inference.page import Block, Figure
from latens.systems.parts.drawing import (
    average,
    boxed,
    column_of,
    gallery_sheet,
    label,
    marked,
    overlay,
    row_of,
    swap_sheet,
    titled,
)
from latens.systems.parts.gallery import PRESENT, PartCode, PartGallery
from latens.systems.parts.palette import part_colors
from latens.systems.parts.predict import Parts

SHOWN_PARTS = 6
HEIGHT, WIDTH = 96, 144
SIDE = 96
LETTERS = 11  # of a picture's name that fit above its patch
EXAMPLES = 5
CHOICE = "Shown are the parts whose cells look most alike."


def figure1(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """A picture with much of a part, where it is, and patches of the same part from other pictures."""
    codes = parts.encode(pictures)
    rows = []
    for gallery in clearest(parts, pictures, codes):
        first, colour = fullest(codes, gallery.part)[0], part_colors(parts.config.parts)[gallery.part]
        others = [marked(patch, HEIGHT) for patch in gallery.patches if patch.picture != first][:EXAMPLES]
        shown = [pictures[first], overlay(pictures[first], codes[first].occurrence[gallery.part], colour)]
        rows.append(
            row_of([*(boxed(tile, WIDTH, HEIGHT) for tile in shown), label(f"part {gallery.part}", 56, HEIGHT), *others])
        )
    caption = f"Picture, where a part occurs in it, and the cells of the same part elsewhere. {CHOICE}"
    return [Figure(png_bytes(column_of(rows)), "Figure 1", caption, alt="figure 1")]


def figure3(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Occurrence maps: one row a part, the pictures with most of it."""
    codes = parts.encode(pictures)
    rows = []
    for gallery in clearest(parts, pictures, codes):
        tiles, colour = [], part_colors(parts.config.parts)[gallery.part]
        for number in fullest(codes, gallery.part)[:EXAMPLES]:
            shown = pictures[number]
            tiles += [shown, overlay(shown, codes[number].occurrence[gallery.part], colour)]
        rows.append(row_of([label(f"part {gallery.part}", 56, HEIGHT), *(boxed(tile, WIDTH, HEIGHT) for tile in tiles)]))
    caption = f"Encoded part occurrences: each row is one part, in the pictures with most of it. {CHOICE}"
    return [Figure(png_bytes(column_of(rows)), "Figure 3", caption, alt="figure 3")]


def figure4(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Patches around the surest occurrences of every part, and the pictures they come from."""
    galleries = parts.gallery(pictures, most=9)
    if not galleries:
        raise _nothing(parts)
    rows = []
    for gallery in galleries[:12]:
        tiles = [titled(marked(patch, SIDE), shortened(names[patch.picture])) for patch in gallery.patches]
        rows.append(row_of([label(f"part {gallery.part}", 56, SIDE), titled(average(gallery, SIDE), "average"), *tiles]))
    whole = Figure(
        png_bytes(gallery_sheet(galleries)),
        "All parts",
        "One row a part that occurs: its average, then its surest patches.",
        alt="all parts",
    )
    return [
        Figure(
            png_bytes(column_of(rows)),
            "Figure 4",
            "Patches sorted by probability, one a picture, the cell outlined; the average is of up to 256 cells.",
            alt="figure 4",
        ),
        whole,
    ]


def figure5(parts: Parts, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Appearance of one part moved from source to target pictures."""
    if len(pictures) < 2:
        hint = "give a folder of two or more with --data"
        raise InputError("an appearance is moved between two pictures, and there is one", where=parts.name, hint=hint)
    sheets = []
    for start in range(min(2, len(pictures))):
        sheet = swap_sheet(parts, pictures[start], [p for i, p in enumerate(pictures[:5]) if i != start])
        sheets += [] if sheet is None else [sheet]
    if not sheets:
        raise _nothing(parts)
    caption = "Source and its part, target and its part, the target's picture before and after the swap, and their difference."
    return [Figure(png_bytes(column_of(sheets)), "Figure 5", caption, alt="figure 5")]


def shortened(name: str) -> str:
    """The end of a long name: what tells pictures of one folder apart mostly stands there."""
    return name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"


def clearest(parts: Parts, pictures: Sequence[Pixels], codes: Sequence[PartCode]) -> list[PartGallery]:
    """Of the parts in several pictures, those whose cells look most alike. Raises InputError where no part occurs."""
    galleries = parts.gallery(pictures, most=EXAMPLES + 1, codes=codes)
    if not galleries:
        raise _nothing(parts)
    several = [gallery for gallery in galleries if gallery.occurrences > EXAMPLES]
    return sorted(several or galleries, key=lambda gallery: -gallery.alike)[:SHOWN_PARTS]


def fullest(codes: Sequence[PartCode], part: int) -> list[int]:
    """The pictures in which a part occurs, that with most of it first."""
    share = [float(code.occurrence[part].mean()) for code in codes]
    there = [number for number, code in enumerate(codes) if code.occurrence[part].max() > PRESENT]
    return sorted(there, key=lambda number: -share[number])


def _nothing(parts: Parts) -> InputError:
    return InputError("no part of this model occurs in these pictures", where=parts.name, hint="give more pictures with --data")


FIGURES: Mapping[str, Callable[[Parts, Sequence[Pixels], Sequence[str]], list[Block]]] = {
    "figure1": figure1, "figure3": figure3, "figure4": figure4, "figure5": figure5
}  # fmt: skip
