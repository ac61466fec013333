"""What `latens parts` writes about a whole request: galleries, swaps, statistics, one page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from latens.data.files import write_atomic
from latens.data.images import read_picture
from latens.data.squares import shrunk
from latens.data.tensors import png_bytes
from latens.errors import OutputExists, UsageError
from latens.inference.page import Block, Figure, Page, Section, Table
from latens.systems.parts.drawing import gallery_sheet, swap_sheet
from latens.systems.parts.gallery import PartCode, PartGallery
from latens.systems.parts.predict import Measured, Parts, statistics_of
from latens.systems.parts.statistics import PartStatistics

GALLERY, SWAPS, PAGE, RECORD = "gallery.png", "swaps.png", "index.html", "parts.json"
SUMMARY = (RECORD, GALLERY, SWAPS, PAGE)
MOST_TARGETS = 4
SWAP_HEIGHT = 112  # pixels of a picture in swaps.png
GALLERY_CAPTION = (
    "One row a part: in how many pictures it occurs; how alike its cells look (share of what varies among all parts that its "
    "average explains); the average of its cells and their neighbours, raised in contrast; its patches, the surest first and "
    "one a picture, with the cell outlined."
)


class PartsReport(NamedTuple):
    """Galleries of all parts that occur, and the statistics of all of them."""

    galleries: list[PartGallery]
    statistics: PartStatistics
    names: list[str]  # of the pictures
    codes: list[PartCode]

    def table(self) -> Table:
        """How often each part occurs and what it costs, the commonest first."""
        s = self.statistics
        order = sorted(range(len(s.share)), key=lambda n: -s.share[n])
        rows = [
            [str(n), f"{100 * s.share[n]:.0f} %", f"{100 * s.occupancy[n]:.1f} %", f"{s.kl_app[n]:.2f}", f"{s.kl_occ[n]:.2f}"]
            for n in order
        ]
        caption = (
            f"{s.active} of {len(s.share)} parts active (in at least 1 % of pictures); {sum(s.occupancy):.2f} parts expected "
            f"at a cell; divergences in nats a picture, means over {len(self.names)} pictures."
        )
        return Table(["part", "in pictures", "of cells", "KL appearance", "KL occurrence"], rows, caption)

    def to_dict(self) -> dict[str, Any]:
        galleries = [
            {
                "part": gallery.part,
                "pictures": gallery.occurrences,
                "alike": round(gallery.alike, 4),
                "patches": [
                    {"picture": self.names[p.picture], "cell": list(p.cell), "score": round(p.score, 5)}
                    for p in gallery.patches
                ],
            }
            for gallery in self.galleries
        ]
        return {**self.statistics.to_dict(), "pictures": self.names, "galleries": galleries}


def is_ours(folder: Path) -> bool:
    """Whether `write_report` made the summary in this folder: its parts.json tells."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and "galleries" in record


def check_folder(folder: Path, inputs: Sequence[Path], *, force: bool) -> None:
    """Raises UsageError where the summary would replace an input, and without `force` OutputExists for files of others."""
    places = [folder / name for name in SUMMARY]
    replaced = {os.path.realpath(place) for place in places} & {os.path.realpath(path) for path in inputs}
    if replaced:
        hint = "choose another folder with -o"
        raise UsageError("the result would replace its input", where=min(replaced), hint=hint)
    there = [place for place in places if place.exists()]
    if there and not force and not is_ours(folder):
        hint = "choose another -o, or add --force"
        raise OutputExists("the file is there already and not of an earlier run", where=str(there[0]), hint=hint)


def describe(
    parts: Parts, paths: Sequence[Path], names: Sequence[str], measured: Sequence[Measured], *, most: int = 9
) -> PartsReport:
    """Collects where every part occurs in the pictures, which are `measured` already."""
    codes = [one.code for one in measured]
    return PartsReport(parts.gallery(list(paths), most=most, codes=codes), statistics_of(measured), list(names), codes)


def write_report(parts: Parts, report: PartsReport, paths: Sequence[Path], out: Path) -> list[Path]:
    """Writes parts.json, gallery.png, swaps.png and index.html into `out`; returns what was written."""
    out.mkdir(parents=True, exist_ok=True)
    blocks: list[Block] = []
    written = [out / RECORD]  # first: by it the next run knows the others, also where this one is stopped
    write_atomic(written[-1], json.dumps(report.to_dict(), indent=1).encode())
    if report.galleries:
        sheet = png_bytes(gallery_sheet(report.galleries))
        written.append(out / GALLERY)
        write_atomic(written[-1], sheet)
        blocks.append(Figure(sheet, "Where every part occurs", GALLERY_CAPTION, alt="gallery"))
    swaps = _swaps(parts, paths, report.codes)
    if swaps is not None:
        written.append(out / SWAPS)
        write_atomic(written[-1], swaps)
        caption = (
            "The appearance of one part of the target replaced by that of the source; occurrences stay. Of the parts in both "
            "pictures, the one that changes most is shown."
        )
        blocks.append(Figure(swaps, "Appearance swaps", caption, alt="swaps"))
    blocks.append(report.table())
    lead = (
        f"{len(report.names)} pictures; model {parts.name}, weights {parts.model_id}, shorter side {parts.resolution} pixels."
    )
    Page("Parts", [Section("Parts found", blocks)], lead).save(out / PAGE)
    return [*written, out / PAGE]


def _swaps(parts: Parts, paths: Sequence[Path], codes: Sequence[PartCode]) -> bytes | None:
    """The first picture as source, the next few as targets."""
    if len(paths) < 2:
        return None
    count = 1 + MOST_TARGETS
    source, *targets = (shrunk(read_picture(path).pixels, SWAP_HEIGHT) for path in paths[:count])
    sheet = swap_sheet(parts, source, targets, height=SWAP_HEIGHT, codes=codes[:count])
    return None if sheet is None else png_bytes(sheet)
