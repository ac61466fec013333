"""The parts system's part of `latens demo`: where which part is in a photograph, and what the parts look like there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from latens.data.files import write_atomic
from latens.data.images import read_picture, write_image
from latens.data.samples import Photograph, photographs
from latens.data.tensors import png_bytes
from latens.inference.page import Block, Figure, Links, Part, Section, Table
from latens.systems.parts.drawing import gallery_sheet, occurrence_sheet
from latens.systems.parts.gallery import PRESENT, PartCode, PartGallery
from latens.systems.parts.predict import Parts

FINER = 2  # photographs are reduced to so many times the side the model was trained at; its crops were as large
SHOWN = 8  # parts with patches
PATCHES = 9  # of a part

INTRO = (
    "A part is something that repeats, in one picture or across many, at places that are found together with it. The model "
    "was given photographs and no labels: every cell of its map says how likely each part is there, and a part has one "
    "appearance in a picture, wherever it is. Patches are where a part "
    "is surest; what the model sees of the outlined cell ends with its neighbours."
)


def section(parts: Parts, folder: Path, *, photos: Sequence[Photograph] | None = None) -> Section:
    """Maps and galleries of photographs (by default the bundled ones), written into `folder` as well."""
    folder.mkdir(parents=True, exist_ok=True)
    finder = parts.at(FINER * parts.config.size)
    shown = [_photograph(finder, photo, folder) for photo in (photographs() if photos is None else photos)]
    return Section("Parts that repeat, found without labels", [INTRO], shown)


def _photograph(parts: Parts, photo: Photograph, folder: Path) -> Part:
    pixels = read_picture(photo.path).pixels
    (code,) = parts.encode(pixels)
    galleries = parts.places(pixels, most=PATCHES, code=code)[:SHOWN]
    maps = occurrence_sheet(pixels, code)
    names = [f"{photo.name}_maps.png"]
    write_image(folder / names[0], Image.fromarray(maps))
    blocks: list[Block] = [Figure(png_bytes(maps), "Where the parts are", _caption(code), alt="occurrence maps")]
    if galleries:
        sheet = png_bytes(gallery_sheet(galleries))
        names.append(f"{photo.name}_parts.png")
        write_atomic(folder / names[1], sheet)
        blocks += [
            Figure(
                sheet,
                "What they look like here",
                "A row is a part, the commonest first: the average of its places, then the surest, cells outlined.",
                alt="parts",
            ),
            occurrences(code, galleries),
        ]
    blocks.append(Links(f"Files in {folder.name}, next to this page:", [f"{folder.name}/{name}" for name in names]))
    return Part(f"{photo.title} ({photo.credit})", blocks)


def _caption(code: PartCode) -> str:
    parts, rows, columns = code.occurrence.shape
    return (
        f"{len(code.present())} of {parts} parts occur on a map of {rows} × {columns} cells. All parts: every cell in the "
        "colour of its likeliest part. Then single parts, those that cover most first."
    )


def occurrences(code: PartCode, galleries: Sequence[PartGallery]) -> Table:
    """How much of the picture each part covers, and how sure the model is of its surest cell."""
    rows = []
    for gallery in galleries:
        there = code.occurrence[gallery.part] > PRESENT
        rows.append([str(gallery.part), str(int(there.sum())), f"{100 * there.mean():.1f}", f"{gallery.patches[0].score:.3f}"])
    return Table(["part", "cells", "% of the picture", "surest"], rows, "Cells in which the part is likelier there than not.")
