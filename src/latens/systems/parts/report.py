"""Summary of `latens parts` over all images of a request: galleries, swaps, statistics, one page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from latens.data.files import write_atomic
from latens.data.image_output import png_bytes
from latens.data.images import read_image
from latens.data.squares import shrink
from latens.errors import OutputExists, UsageError, counted
from latens.inference.page import Block, Figure, Page, Section, Table
from latens.systems.parts.drawing import gallery_sheet, swap_sheet
from latens.systems.parts.gallery import PartGallery
from latens.systems.parts.predict import Measured, PartCode, Parts, statistics_of
from latens.systems.parts.statistics import PartStatistics

GALLERY, SWAPS, PAGE, RECORD = "gallery.png", "swaps.png", "index.html", "parts.json"
SUMMARY = (RECORD, GALLERY, SWAPS, PAGE)
MAX_TARGETS = 4  # number of targets in swaps.png
SWAP_HEIGHT = 112  # pixels of an image in swaps.png
GALLERY_CAPTION = (
    "One row per part: number of images; share of the variance that its average explains; average of its cells and their "
    "neighbors, with increased contrast; patches by decreasing probability, one per image, with the cell outlined."
)


class PartsReport(NamedTuple):
    """Galleries of all parts that occur, and the statistics of all parts."""

    galleries: list[PartGallery]
    statistics: PartStatistics
    names: list[str]  # of the images
    codes: list[PartCode]

    def table(self) -> Table:
        """Frequency and divergences of every part, by decreasing frequency."""
        s = self.statistics
        rows = [
            [
                f"{r['part']}",
                f"{100 * r['share']:.0f} %",
                f"{100 * r['occupancy']:.1f} %",
                f"{r['kl_app']:.2f}",
                f"{r['kl_occ']:.2f}",
            ]
            for r in s.rows()
        ]
        caption = (
            f"{s.active} of {len(s.share)} parts active (in at least 1 % of images); {sum(s.occupancy):.2f} parts expected "
            f"per cell; divergences in nats per image, means over {counted(len(self.names), 'image')}."
        )
        return Table(["part", "of images", "of cells", "KL appearance", "KL occurrence"], rows, caption)

    def to_dict(self) -> dict[str, Any]:
        galleries = [
            {
                "part": gallery.part,
                "images": gallery.occurrences,
                "explained": round(gallery.explained, 4),
                "patches": [
                    {"image": self.names[p.image], "cell": list(p.cell), "score": round(p.score, 5)} for p in gallery.patches
                ],
            }
            for gallery in self.galleries
        ]
        return {**self.statistics.to_dict(), "images": self.names, "galleries": galleries}


def is_earlier_summary(folder: Path) -> bool:
    """True if an earlier run wrote the summary in this folder, according to parts.json."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "galleries" in record


def check_folder(folder: Path, inputs: Sequence[Path], *, force: bool) -> None:
    """Raises UsageError if the summary would replace an input, and without `force` OutputExists for files of other origin."""
    places = [folder / name for name in SUMMARY]
    replaced = {os.path.realpath(place) for place in places} & {os.path.realpath(path) for path in inputs}
    if replaced:
        hint = "choose another folder with -o"
        raise UsageError("the result would replace its input", where=min(replaced), hint=hint)
    there = [place for place in places if place.exists()]
    if there and not force and not is_earlier_summary(folder):
        hint = "choose another -o, or add --force"
        raise OutputExists("the file exists and was not written by latens parts", where=str(there[0]), hint=hint)


def describe(
    parts: Parts, paths: Sequence[Path], names: Sequence[str], measured: Sequence[Measured], *, most: int = 9
) -> PartsReport:
    """Collect the occurrences of every part in images that are already `measured`."""
    codes = [one.code for one in measured]
    return PartsReport(parts.gallery(list(paths), most=most, codes=codes), statistics_of(measured), list(names), codes)


def write_report(parts: Parts, report: PartsReport, paths: Sequence[Path], out: Path) -> list[Path]:
    """Write parts.json, gallery.png, swaps.png and index.html into `out`; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    earlier = [out / name for name in (GALLERY, SWAPS) if (out / name).is_file()] if is_earlier_summary(out) else []
    blocks: list[Block] = []
    written = [out / RECORD]  # written first: if this run is interrupted, the next one recognizes the folder by this file
    write_atomic(written[-1], json.dumps(report.to_dict(), indent=1).encode())
    if report.galleries:
        sheet = png_bytes(gallery_sheet(report.galleries))
        written.append(out / GALLERY)
        write_atomic(written[-1], sheet)
        blocks.append(Figure(sheet, "Occurrences of every part", GALLERY_CAPTION, alt="gallery"))
    swaps = _swaps(parts, paths, report.codes)
    if swaps is not None:
        written.append(out / SWAPS)
        write_atomic(written[-1], swaps)
        caption = (
            "The appearance of one part of the target is replaced by that of the source; occurrences do not change. Of the "
            "parts in both images, the one that changes the reconstruction most is shown."
        )
        blocks.append(Figure(swaps, "Appearance swaps", caption, alt="swaps"))
    blocks.append(report.table())
    images = counted(len(report.names), "image")
    lead = f"{images}; model {parts.name}, weights {parts.model_id}, shorter side {parts.resolution} pixels."
    Page("Parts", [Section("Parts found", blocks)], lead).save(out / PAGE)
    for path in earlier:
        if path not in written:  # of other images
            path.unlink(missing_ok=True)
    return [*written, out / PAGE]


def _swaps(parts: Parts, paths: Sequence[Path], codes: Sequence[PartCode]) -> bytes | None:
    """Swaps with the first image as source and the next `MAX_TARGETS` as targets."""
    if len(paths) < 2:
        return None
    count = 1 + MAX_TARGETS
    source, *targets = (shrink(read_image(path).pixels, SWAP_HEIGHT) for path in paths[:count])
    sheet = swap_sheet(parts, source, targets, height=SWAP_HEIGHT, codes=codes[:count])
    return None if sheet is None else png_bytes(sheet)
