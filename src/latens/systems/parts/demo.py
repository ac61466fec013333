"""Section of `latens demo`: where parts occur in the bundled photographs, and patches of every part."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.files import write_atomic
from latens.data.image_output import avif_bytes, png_bytes, write_image
from latens.data.images import Pixels, read_image
from latens.data.samples import Photograph, photographs
from latens.errors import counted
from latens.inference.page import Block, Columns, Figure, Gallery, Layer, Links, Overlays, Part, Section, Summary
from latens.inference.sheet import row_of
from latens.systems.parts.drawing import average, gallery_sheet, marked, occurrence_sheet, painted, part_layer
from latens.systems.parts.gallery import PRESENT, PartGallery, part_colors
from latens.systems.parts.predict import PartCode, Parts

logger = logging.getLogger(__name__)

FINER = 2  # photographs are resized to this multiple of the training size
SHEET, PATCHES, SIDE = 8, 7, 84  # parts on the sheet, patches per part and their side in pixels
LAYERS = 4  # parts on the page: those that cover most cells
INTRO = (
    "A part is a pattern that repeats, within an image or across images. The model was trained on photographs without labels: "
    "for every cell of its map it predicts the probability of each part, and for every part one appearance per image."
)


class Shown(NamedTuple):
    """One photograph: its blocks, the parts that occur in it, and the share of variance that each shown average explains."""

    part: Part
    present: list[int]
    explained: list[float]


def section(parts: Parts, folder: Path) -> Section:
    """Overlays and galleries of the bundled photographs; sheets of them are also written into `folder`."""
    return show(parts, folder, photographs())


def show(parts: Parts, folder: Path, photos: Sequence[Photograph]) -> Section:
    """`section` for given photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    finer = parts.at(FINER * parts.config.size)
    shown = [_photograph(finer, photo, folder, folded=number > 0) for number, photo in enumerate(photos)]
    present = sorted({part for one in shown for part in one.present})
    explained = [share for one in shown for share in one.explained]
    meaning = "learned without labels occur in these photographs"
    if explained:
        meaning += f"; the average of a part explains {100 * np.mean(explained):.0f} % of the variance of its patches"
    summary = Summary(
        counted(len(photos), "photograph"),
        "maps of parts, and a gallery of every part",
        counted(len(present), "part"),
        meaning,
        "latens parts photos/ -o parts/",
    )
    blocks: list[Block] = [INTRO, Links("All files, next to this page:", [folder.name])]
    return Section("Find parts that repeat", blocks, [one.part for one in shown], summary)


def _photograph(parts: Parts, photo: Photograph, folder: Path, *, folded: bool) -> Shown:
    pixels = read_image(photo.path).pixels
    (code,) = parts.encode(pixels)
    galleries = parts.occurrences(pixels, most=PATCHES, code=code)[:SHEET]
    write_image(folder / f"{photo.name}_maps.png", Image.fromarray(occurrence_sheet(pixels, code)))
    write_image(folder / f"{photo.name}.png", Image.fromarray(pixels))
    write_image(folder / f"{photo.name}_painted.png", Image.fromarray(painted(pixels, code)))
    if galleries:
        write_atomic(folder / f"{photo.name}_parts.png", png_bytes(gallery_sheet(galleries)))
    largest = galleries[:LAYERS]
    strips = Gallery([_strip(one, code) for one in largest], columns=1)
    blocks = [Columns([_overlays(photo, pixels, code, [one.part for one in largest]), strips], narrowest=320)]
    logger.info("parts: %s", photo.name)
    part = Part(f"{photo.title} ({photo.credit})", blocks, folded=folded)
    return Shown(part, code.present(), [one.explained for one in galleries])


def _overlays(photo: Photograph, pixels: Pixels, code: PartCode, shown: Sequence[int]) -> Overlays:
    """The photograph with these parts as layers."""
    colors = part_colors(len(code.occurrence))
    parts, rows, columns = code.occurrence.shape
    layers = [
        Layer(Figure(avif_bytes(part_layer(code.occurrence[part], colors[part], pixels.shape[:2])), f"part {part}"), number < 2)
        for number, part in enumerate(shown)
    ]
    caption = f"{len(code.present())} of {parts} parts occur on a map of {rows} × {columns} cells."
    return Overlays(Figure(avif_bytes(pixels), "Where parts occur", caption, alt=photo.title), layers)


def _strip(gallery: PartGallery, code: PartCode) -> Figure:
    """The average of a part, then patches by decreasing probability."""
    tiles = [average(gallery, SIDE), *(marked(patch, SIDE) for patch in gallery.patches)]
    drawn = row_of(tiles)
    width = row_of([tiles[0]] * (1 + PATCHES)).shape[1]
    strip = np.zeros((SIDE, width, 4), dtype=np.uint8)  # transparent where there are fewer patches
    strip[:, : drawn.shape[1]] = np.dstack([drawn, np.full(drawn.shape[:2], 255, np.uint8)])
    caption = f"{counted(cells_of(code)[gallery.part], 'cell')}; average, then patches by decreasing probability."
    return Figure(avif_bytes(strip), f"Part {gallery.part}", caption, alt=f"patches of part {gallery.part}")


def cells_of(code: PartCode) -> list[int]:
    """Number of cells with p > 0.5 of every part."""
    return [int(one.sum()) for one in code.occurrence > PRESENT]
