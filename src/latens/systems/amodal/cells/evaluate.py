"""Evaluation of the star model on held-out fields, next to the classical baseline, and on images without cells."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from latens.data.image_output import write_image
from latens.data.images import IMAGE_ENDINGS
from latens.data.inputs import files_under
from latens.data.instances import Placed, layers_of_placed
from latens.data.origins import without_drawn
from latens.data.source import Source
from latens.data.stacks import read_frame
from latens.errors import counted
from latens.experiments.report import Report
from latens.inference.page import Table
from latens.metrics.instances import mask_iou, match
from latens.systems.amodal.cells.baseline import otsu_watershed, three_classes
from latens.systems.amodal.cells.batches import chosen
from latens.systems.amodal.cells.calibrate import right_objects
from latens.systems.amodal.cells.compose import real_canvas
from latens.systems.amodal.cells.fields import FieldImage, of_split, read_fields
from latens.systems.amodal.cells.measure import Counts, calibration_error, compare, quality_of
from latens.systems.amodal.cells.predict import CellSegmenter
from latens.systems.amodal.cells.result import CellSegmentation
from latens.systems.amodal.cells.simulate import empty_images
from latens.systems.amodal.draw import overlay_placed
from latens.systems.amodal.order import SCORE_THRESHOLD

logger = logging.getLogger(__name__)

EMPTY, EMPTY_SEED = 40, 20_120  # simulated images without cells, which are not those of the fit
COMPOSED, COMPOSED_SIDE, SHARED = 40, 192, 0.1  # composed scenes, their side without margins, smallest shared part
LEAST = 0.05  # smallest score of the objects whose calibration is measured
BASELINE, CONTROL = "Otsu + watershed", "three classes + watershed"
COLUMNS = ["images", "method", "F1 at IoU .5", ".7", ".9", "AP", "calibration error", "warned"]


class Row(NamedTuple):
    """One kind of image and one method."""

    kind: str
    method: str
    counts: list[Counts]
    scores: np.ndarray
    right: np.ndarray
    warned: int


def evaluate_fields(segmenter: CellSegmenter, sources: Sequence[Source], folder: Path | None = None) -> Report:
    """Evaluate on the test fields of `labels:FOLDER` sources and on the images of `negatives:FOLDER`.

    Overlays go into `folder`. Raises InputError for unusable files.
    """
    labeled = [source for source in sources if source.kind == "labels"]
    images = [image for source in labeled for image in of_split(read_fields(source.path), "test", str(source.path))]
    rows: list[Row] = []
    for kind in sorted({image.kind for image in images}):
        of_kind = [image for image in images if image.kind == kind]
        logger.info("%s: %s", kind, counted(len(of_kind), "image"))
        rows += [measured(segmenter, of_kind, folder), control(segmenter, of_kind), baseline(of_kind)]
    table = [described(row) for row in rows]
    facts = {f"{row.kind}, {row.method}": quality_of(row.counts)._asdict() for row in rows}
    overlaps = overlapping(segmenter, images) if images else None
    folders = [source for source in sources if source.kind == "negatives"]
    simulated = empty_images(np.random.default_rng(EMPTY_SEED), EMPTY)
    negatives = {"simulated empty slides and noise": confident_objects(segmenter, simulated)}
    for source in folders:
        paths = sorted(without_drawn(files_under(source.path, IMAGE_ENDINGS), source.path))
        negatives[str(source)] = confident_objects(segmenter, map(read_frame, paths))
    blocks = [Table(COLUMNS, table, "Standard deviations by a bootstrap over fields.")] if table else []
    if overlaps is not None:
        row = [str(overlaps.objects), f"{overlaps.found:.3f}", f"{overlaps.whole:.3f}", f"{overlaps.label:.3f}"]
        blocks.append(Table(["objects in composed overlaps", "found", "IoU of whole masks", "of the label map"], [row]))
    lines = [[name, *(str(value) for value in each)] for name, each in negatives.items()]
    blocks.append(Table(["images without cells", "images", "warned", "with confident objects", "confident objects"], lines))
    return Report(
        name="report",
        title="Nuclei",
        about=f"{segmenter.name}, weights {segmenter.model_id[:12]}: {counted(len(images), 'image')}",
        blocks=blocks,
        facts={
            "model": segmenter.name,
            "model_id": segmenter.model_id,
            "measures": facts,
            "overlaps": overlaps,
            "negatives": negatives,
        },
    )


class Overlaps(NamedTuple):
    """Objects of composed scenes that share at least SHARED of their pixels with another one."""

    objects: int
    found: float  # share with an IoU of at least 0.5
    whole: float  # mean IoU of the found ones: whole masks
    label: float  # and pixels of the label map, against the whole true masks


def overlapping(segmenter: CellSegmenter, images: Sequence[FieldImage]) -> Overlaps:
    """Nuclei of the images, cut out and pasted over others: how well their whole masks are found."""
    rng = np.random.default_rng(EMPTY_SEED)
    usable = [image for image in images if image.whole]
    total, whole, label = 0, [], []
    for _ in range(COMPOSED):
        canvas = real_canvas(rng, chosen(rng, usable), COMPOSED_SIDE, paste=True)
        side = len(canvas.pixels)
        true = layers_of_placed([Placed(t.top, t.left, t.mask, t.mask) for t in canvas.things], (side, side)).amodal
        shared = true & (true.sum(axis=0) > 1)
        wanted = true[shared.sum((1, 2)) >= SHARED * true.sum((1, 2))]
        found = segmenter.segment_pixels(np.clip(canvas.pixels * 180 + 30, 0, 255).astype(np.uint8)).layers
        iou = mask_iou(wanted, found.amodal)
        pairs = match(iou)
        total += len(wanted)
        whole += [float(iou[pair]) for pair in pairs]
        seen = mask_iou(wanted, found.visible)
        label += [float(seen[pair]) for pair in pairs]
    mean = [float(np.mean(values)) if values else 0.0 for values in (whole, label)]
    return Overlaps(total, len(whole) / max(total, 1), *mean)


def measured(segmenter: CellSegmenter, images: Sequence[FieldImage], folder: Path | None) -> Row:
    """The model on the images of one kind."""
    counts, scores, right, warned = [], [], [], 0
    for number, image in enumerate(images):
        found = segmenter.segment_pixels(image.pixels, least_score=LEAST)
        sure = confident(found)
        counts.append(compare(image.field, image.labels, sure.labels.astype(np.int32)))
        scores.append(found.scores)
        right.append(right_objects(image.labels, found.placed))
        warned += bool(found.warnings)
        if folder is not None:
            name = f"image-{image.kind}-{number}-{Path(image.name).stem}.png"  # day1/a.png and day2/a.png have one name
            write_image(folder / name, Image.fromarray(overlay_placed(image.pixels, sure.placed)))
    return Row(images[0].kind, segmenter.name, counts, np.concatenate(scores), np.concatenate(right), warned)


def confident(found: CellSegmentation) -> CellSegmentation:
    """The objects with a score of at least SCORE_THRESHOLD."""
    number = int((found.scores >= SCORE_THRESHOLD).sum())
    return replace(found, placed=found.placed[:number], scores=found.scores[:number])


def baseline(images: Sequence[FieldImage]) -> Row:
    """The classical baseline on the images of one kind."""
    counts = [compare(image.field, image.labels, otsu_watershed(image.pixels, image.kind)) for image in images]
    return Row(images[0].kind, BASELINE, counts, np.zeros(0), np.zeros(0), 0)


def control(segmenter: CellSegmenter, images: Sequence[FieldImage]) -> Row:
    """The foreground and contact maps of the same network without its outlines, at the same scale."""
    counts = []
    for image in images:
        frame = segmenter.look(image.pixels).frame
        labels = three_classes(frame.foreground, frame.contact, image.labels.shape)
        counts.append(compare(image.field, image.labels, labels))
    return Row(images[0].kind, CONTROL, counts, np.zeros(0), np.zeros(0), 0)


def described(row: Row) -> list[str]:
    """The line of a table."""
    found = quality_of(row.counts)
    kind = (
        f"{row.kind}, {counted(found.images, 'image')} of {counted(found.fields, 'field')}, {counted(found.objects, 'object')}"
    )
    numbers = [f"{found.f1_50:.3f} ± {found.f1_50_deviation:.3f}", f"{found.f1_70:.3f}", f"{found.f1_90:.3f}"]
    numbers.append(f"{found.ap:.3f} ± {found.ap_deviation:.3f}")
    own = row.method not in (BASELINE, CONTROL)
    numbers += [f"{calibration_error(row.scores, row.right):.3f}" if own else "-", str(row.warned) if own else "-"]
    return [kind, row.method, *numbers]


def confident_objects(segmenter: CellSegmenter, images: Iterable[np.ndarray]) -> tuple[int, int, int, int]:
    """Images without cells: their number, how many have a warning, how many have confident objects, and all of these."""
    total = warned = filled = objects = 0
    for pixels in images:
        found = segmenter.segment_pixels(pixels)
        total, warned, filled = total + 1, warned + bool(found.warnings), filled + bool(len(found))
        objects += len(found)
    return total, warned, filled, objects
