"""Figures 1, 3, 4 and 5 of Gupta et al. 2020 for a trained model and any images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from latens.contract import Artifact
from latens.data.image_output import png_bytes
from latens.data.images import IMAGE_ENDINGS, Pixels, read_image
from latens.data.inputs import find_inputs
from latens.data.labeled import open_labeled
from latens.data.notes import left_out
from latens.data.samples import photographs
from latens.data.source import Source, one_source
from latens.errors import InputError, LatensError, counted
from latens.experiments.lab import ExperimentRunner
from latens.experiments.report import Report
from latens.inference.page import Block, Figure
from latens.inference.sheet import boxed, column_of, label, row_of, titled
from latens.settings import Count, settings
from latens.systems.parts.drawing import average, gallery_sheet, marked, overlay, swap_sheet
from latens.systems.parts.gallery import PRESENT, PartGallery, part_colors
from latens.systems.parts.predict import PartCode, Parts

logger = logging.getLogger(__name__)

SHOWN_PARTS = 6
HEIGHT, WIDTH = 96, 144  # of an image in figures 1 and 3, in pixels
SIDE = 96  # of a patch in figure 4
LETTERS = 11  # length to which image names above patches are shortened
EXAMPLES = 5  # images per part
CHOICE = "The parts whose average explains most of the variance of their cells are shown."


@settings
class FigureScale:
    """Number of images of a figure."""

    images: Count = 500  # largest number of images, chosen by name from a data set with classes


FIGURE_SCALES: Mapping[str, FigureScale] = MappingProxyType(
    {"tiny": FigureScale(images=48), "cpu": FigureScale(), "paper": FigureScale()}
)


class Album(NamedTuple):
    """Images with their names or classes, and one line for each image that cannot be read."""

    images: list[Pixels]
    names: list[str]
    left_out: list[str]


Draw = Callable[[Parts, Sequence[Pixels], Sequence[str]], list[Block]]


def artifact(name: str, title: str, draw: Draw) -> Artifact[Parts, FigureScale]:
    """A figure for the trained model and the given images, by default the bundled photographs."""

    def make(lab: ExperimentRunner[Parts, FigureScale]) -> Report:
        parts, album = lab.loaded, read_album(one_source(lab.sources), lab.scale.images)
        about = (
            f"{counted(len(album.images), 'image')}; model {parts.name}, weights {parts.model_id[:12]}, "
            f"shorter side {parts.resolution} pixels."
        )
        facts = {"model": parts.name, "model_id": parts.model_id, "recipe": lab.recipe, "images": album.names}
        blocks = draw(parts, album.images, album.names)
        return Report(name=name, title=title, about=about, blocks=blocks, facts=facts, failures=album.left_out)

    return Artifact(make=make, scales=FIGURE_SCALES)


def read_album(source: Source | None, most: int) -> Album:
    """At most `most` images of a data set, with their classes or else their names.

    Images of a data set with classes are chosen by name from its test split, if it has one; of a plain folder, the first are
    taken. Raises the first error if no image can be read.
    """
    if source is None:
        photos = photographs()
        return Album([read_image(photo.path).pixels for photo in photos], [photo.name for photo in photos], [])
    found = open_labeled(source, "test", hold_out=False)
    if not source.kind and source.path.is_dir() and not found.classes and not list(source.path.glob("*.npz")):
        files = find_inputs([source.path], IMAGE_ENDINGS)[:most]
        return _album([file.relative.stem for file in files], lambda i: read_image(files[i].path).pixels)
    chosen = found.first_few(most)
    labeled = zip(chosen.labels, chosen.keys, strict=True)
    return _album([chosen.classes[label] if label >= 0 else key for label, key in labeled], chosen.read)


def _album(names: Sequence[str], read: Callable[[int], Pixels]) -> Album:
    album, errors = Album([], [], []), []
    for number, name in enumerate(names):
        try:
            album.images.append(read(number))
            album.names.append(name)
        except LatensError as error:
            errors.append(error)
            album.left_out.append(left_out(error))
    if errors and not album.images:
        raise errors[0]
    return album


# ----------------------------------------------------------------------------------------------------------- figures


def figure1(parts: Parts, images: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """An image in which a part covers many cells, the map of that part, and patches of it from other images."""
    codes = parts.encode(images)
    rows = []
    for gallery in most_explained(parts, images, codes):
        first, color = images_by_coverage(codes, gallery.part)[0], part_colors(codes[0].occurrence.shape[0])[gallery.part]
        others = [marked(patch, HEIGHT) for patch in gallery.patches if patch.image != first][:EXAMPLES]
        shown = [images[first], overlay(images[first], codes[first].occurrence[gallery.part], color)]
        rows.append(
            row_of([*(boxed(tile, WIDTH, HEIGHT) for tile in shown), label(f"part {gallery.part}", 56, HEIGHT), *others])
        )
    caption = f"Image, map of a part, and cells of the same part in other images. {CHOICE}"
    return [Figure(png_bytes(column_of(rows)), "Figure 1", caption, alt="figure 1")]


def figure3(parts: Parts, images: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Occurrence maps: one row per part, with the images in which it covers most cells."""
    codes = parts.encode(images)
    rows = []
    for gallery in most_explained(parts, images, codes):
        tiles, color = [], part_colors(codes[0].occurrence.shape[0])[gallery.part]
        for number in images_by_coverage(codes, gallery.part)[:EXAMPLES]:
            shown = images[number]
            tiles += [shown, overlay(shown, codes[number].occurrence[gallery.part], color)]
        rows.append(row_of([label(f"part {gallery.part}", 56, HEIGHT), *(boxed(tile, WIDTH, HEIGHT) for tile in tiles)]))
    caption = f"Part occurrences: each row shows one part, in the images where it covers most cells. {CHOICE}"
    return [Figure(png_bytes(column_of(rows)), "Figure 3", caption, alt="figure 3")]


def figure4(parts: Parts, images: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Patches of every part in order of probability, with the names of their images."""
    galleries = parts.gallery(images, most=9)
    if not galleries:
        raise _no_parts(parts)
    rows = []
    for gallery in galleries[:12]:
        tiles = [titled(marked(patch, SIDE), shortened(names[patch.image])) for patch in gallery.patches]
        rows.append(row_of([label(f"part {gallery.part}", 56, SIDE), titled(average(gallery, SIDE), "average"), *tiles]))
    whole = Figure(
        png_bytes(gallery_sheet(galleries)),
        "All parts",
        "One row per part that occurs: its average, then patches by decreasing probability.",
        alt="all parts",
    )
    return [
        Figure(
            png_bytes(column_of(rows)),
            "Figure 4",
            "Patches by decreasing probability, one per image, with the cell outlined; the average is over up to 256 cells.",
            alt="figure 4",
        ),
        whole,
    ]


def figure5(parts: Parts, images: Sequence[Pixels], names: Sequence[str]) -> list[Block]:
    """Appearance of one part transferred from a source to target images."""
    if len(images) < 2:
        hint = "give a folder of two or more images with --data"
        raise InputError("a swap needs at least two images, one was given", where=parts.name, hint=hint)
    sheets = []
    for start in range(min(2, len(images))):
        sheet = swap_sheet(parts, images[start], [p for i, p in enumerate(images[:5]) if i != start])
        sheets += [] if sheet is None else [sheet]
    if not sheets:
        raise _no_parts(parts)
    caption = (
        "Source and its part, target and its part, reconstruction of the target before and after the swap, their difference."
    )
    return [Figure(png_bytes(column_of(sheets)), "Figure 5", caption, alt="figure 5")]


def shortened(name: str) -> str:
    """The end of a long name, because file names in a folder mostly differ at the end."""
    return name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"


def most_explained(parts: Parts, images: Sequence[Pixels], codes: Sequence[PartCode]) -> list[PartGallery]:
    """The parts whose average explains most variance, among those in several images. Raises InputError if no part occurs."""
    galleries = parts.gallery(images, most=EXAMPLES + 1, codes=codes)
    if not galleries:
        raise _no_parts(parts)
    several = [gallery for gallery in galleries if gallery.occurrences > EXAMPLES]
    return sorted(several or galleries, key=lambda gallery: -gallery.explained)[:SHOWN_PARTS]


def images_by_coverage(codes: Sequence[PartCode], part: int) -> list[int]:
    """The images in which a part occurs, in decreasing order of the cells it covers."""
    share = [float(code.occurrence[part].mean()) for code in codes]
    present = [number for number, code in enumerate(codes) if code.occurrence[part].max() > PRESENT]
    return sorted(present, key=lambda number: -share[number])


def _no_parts(parts: Parts) -> InputError:
    return InputError("no part of this model occurs in these images", where=parts.name, hint="give more images with --data")


FIGURES: Mapping[str, Artifact[Parts, FigureScale]] = MappingProxyType(
    {
        "figure1": artifact("figure1", "Figure 1: parts in images", figure1),
        "figure3": artifact("figure3", "Figure 3: occurrence maps", figure3),
        "figure4": artifact("figure4", "Figure 4: patches of parts", figure4),
        "figure5": artifact("figure5", "Figure 5: appearance swaps", figure5),
    }
)
