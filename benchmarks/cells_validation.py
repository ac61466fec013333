"""The model `cells`, or another one, on what its weights are chosen by: validation fields, overlaps, photographs, flat discs.

    python benchmarks/cells_validation.py cells runs/decay/best --data labels:dsb2018_nuclei/ --negatives photographs/

Test fields take no part. Of --negatives the held-out tenth counts, as in training.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from latens.data.source import parse_source
from latens.inference.page import Table
from latens.systems.amodal.cells.evaluate import confident, overlapping
from latens.systems.amodal.cells.fields import FieldImage, of_split, read_fields
from latens.systems.amodal.cells.measure import compare, quality_of
from latens.systems.amodal.cells.predict import CellSegmenter
from latens.systems.amodal.cells.scores import Fit
from latens.systems.amodal.cells.training import read_photographs, spread
from latens.systems.amodal.predict import load

PHOTOGRAPHS = 24
DIAMETERS = (6, 10, 12, 20, 40, 80, 160, 300)
SPACINGS = (3.0, 1.7)  # between the centers of discs, in diameters
COLUMNS_OF_DISCS, ROWS_OF_DISCS = 8, 5
SEED = 20_122


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="names or folders")
    parser.add_argument("--data", type=parse_source, required=True)
    parser.add_argument("--negatives", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = of_split(read_fields(given.data.path), "validation", str(given.data))
    photographs = spread(read_photographs(given.negatives).held_out, PHOTOGRAPHS)
    rows = []
    for name in given.models:
        model = load(name)
        assert isinstance(model, CellSegmenter)
        rows += [[name, *row] for row in measured(model, images, photographs)]
    print(Table(["model", "measure", "value"], rows, f"{len(images)} images of validation fields").text())


def measured(model: CellSegmenter, images: Sequence[FieldImage], photographs: Sequence[np.ndarray]) -> list[list[str]]:
    """The lines of a model."""
    lines: list[list[str]] = []
    for kind in sorted({image.kind for image in images}):
        of_kind = [image for image in images if image.kind == kind]
        counts = [compare(i.field, i.labels, label_map(model, i.pixels)) for i in of_kind]
        found = quality_of(counts)
        value = f"{found.f1_50:.3f}, {found.f1_70:.3f}, {found.f1_90:.3f}; {found.ap:.3f}"
        lines.append([f"{kind}: F1 at IoU .5, .7, .9; AP", value])
    overlaps = overlapping(model, images)
    lines.append([f"{overlaps.objects} overlapping nuclei: found, IoU", f"{overlaps.found:.3f}, {overlaps.whole:.3f}"])
    sure = [len(confident(model.segment_pixels(pixels))) for pixels in photographs]
    lines.append(["objects per photograph", f"{np.mean(sure):.2f}"])
    fit = model.fit
    for which in ("fitted score", "object probability"):
        for light, spacing in itertools.product((True, False), SPACINGS):
            numbers = [f"{found_discs(model, diameter, spacing, light=light)}" for diameter in DIAMETERS]
            what = f"{'light' if light else 'dark'} flat discs, {spacing} diameters apart, {which}"
            lines.append([f"{what}: of 40 of {', '.join(map(str, DIAMETERS))} pixels", ", ".join(numbers)])
        model.fit = Fit()  # scores are object probabilities
    objects = [len(model.segment_pixels(pixels)) for pixels in photographs]
    lines.append(["objects per photograph, object probability", f"{np.mean(objects):.2f}"])
    model.fit = fit
    return lines


def label_map(model: CellSegmenter, pixels: np.ndarray) -> np.ndarray:
    return confident(model.segment_pixels(pixels)).labels.astype(np.int32)


def found_discs(model: CellSegmenter, diameter: int, spacing: float, *, light: bool) -> int:
    """How many of 40 drawn discs are found with an IoU of at least 0.5 and a score of at least 0.5."""
    rng = np.random.default_rng(SEED)
    step = round(spacing * diameter)
    truth = np.zeros((ROWS_OF_DISCS * step, COLUMNS_OF_DISCS * step), dtype=np.int32)
    for number in range(ROWS_OF_DISCS * COLUMNS_OF_DISCS):
        row, column = divmod(number, COLUMNS_OF_DISCS)
        y, x = (round((place + 0.5) * step + rng.uniform(-0.25, 0.25) * diameter) for place in (row, column))
        cv2.circle(truth, (x, y), diameter // 2, number + 1, -1)
    ground, ink = (20, 180) if light else (235, 75)
    pixels = np.repeat(np.where(truth > 0, ink, ground).astype(np.uint8)[..., None], 3, axis=2)
    return int(compare("discs", truth, label_map(model, pixels)).matched[0])


if __name__ == "__main__":
    main()
