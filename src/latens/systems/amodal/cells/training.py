"""Model, objective and data of a training run of the star model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latens.data.convert import READABLE
from latens.data.images import IMAGE_ENDINGS, read_image
from latens.data.inputs import files_under
from latens.data.origins import without_drawn
from latens.data.source import Source
from latens.data.splits import place_of
from latens.errors import InputError, UsageError
from latens.systems.amodal.cells.batches import CellsData, Material
from latens.systems.amodal.cells.calibrate import fitted
from latens.systems.amodal.cells.fields import FieldImage, of_split, read_collection_fields, read_fields
from latens.systems.amodal.cells.measure import ap_of, compare, f1_of
from latens.systems.amodal.cells.network import StarNet
from latens.systems.amodal.cells.objective import StarObjective
from latens.systems.amodal.cells.predict import CellSegmenter
from latens.systems.amodal.cells.simulate import empty_images
from latens.systems.amodal.recipes import CellsTraining
from latens.training.objective import Trainable

FIT_EMPTY, FIT_SEED = 48, 20_119  # simulated images without cells on which scores are fitted, and their seed
HELD_OUT = 0.1  # share of the photographs
FITTED, WATCHED = 60, 12  # held-out photographs of the fit of the scores, and of the count of false objects
LARGEST_PHOTOGRAPH = 512  # pixels of the shorter side
SOURCES = (
    "give labels:FOLDER, coco:FILE.json,IMAGES or labelme:FOLDER, negatives:FOLDER (no cells), or nothing: simulated cells"
)

logger = logging.getLogger(__name__)


def build_cells(config: CellsTraining, sources: Sequence[Source]) -> Trainable:
    """A star model on folders of label maps, photographs without cells and simulated cells.

    Raises UsageError for another source, InputError for unusable files.
    """
    model, data = config.model, config.data
    if data.crop % model.coarsest:
        what = f"data.crop must be a multiple of {model.coarsest}, the coarsest stride of the model, not {data.crop}"
        raise UsageError(what, where="--set data.crop")
    train: list[FieldImage] = []
    held_out: list[FieldImage] = []
    photographs = Photographs([], [])
    for source in sources:
        if source.kind in READABLE:
            images = read_fields(source.path) if source.kind == "labels" else read_collection_fields(str(source))
            where = str(source.path if source.kind == "labels" else source)
            train += of_split(images, "train", where)
            held_out += of_split(images, "validation", where)
        elif source.kind == "negatives":
            photographs = photographs.joined(read_photographs(source.path))
        elif str(source) != "simulated":
            raise UsageError(f"the star model cannot be trained on '{source}'", where="--data", hint=SOURCES)
    feed = CellsData(
        Material(train, photographs.train), Material(held_out, photographs.held_out), data, model.rays, config.run.seed
    )
    some = spread(photographs.held_out, FITTED)
    fit = functools.partial(fit_of, images=held_out, photographs=some) if held_out else None
    quality = functools.partial(quality_on, images=held_out, photographs=spread(some, WATCHED)) if held_out else None
    return Trainable(StarNet(model), StarObjective(config.objective, fit, quality), feed)


def spread(items: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """At most `count` items, evenly over the sequence."""
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, min(count, len(items)))]


def quality_on(model: StarNet, images: Sequence[FieldImage], photographs: Sequence[np.ndarray]) -> dict[str, float]:
    """F1 at IoU 0.5 and AP on held-out images of every kind, and the objects per photograph.

    Scores are the object probabilities, as their fit comes with the export.
    """
    segmenter = CellSegmenter(model, name="training", sha256="", device=next(model.parameters()).device)
    found: dict[str, float] = {}
    for kind in sorted({image.kind for image in images}):
        of_kind = [image for image in images if image.kind == kind]
        counts = [compare(i.field, i.labels, segmenter.segment_pixels(i.pixels).labels.astype(np.int32)) for i in of_kind]
        found |= {f"{kind}_f1": f1_of(counts), f"{kind}_ap": ap_of(counts)}
    if photographs:
        found["false_objects"] = sum(len(segmenter.segment_pixels(each)) for each in photographs) / len(photographs)
    return found


def fit_of(model: StarNet, images: Sequence[FieldImage], photographs: Sequence[np.ndarray]) -> dict[str, Any]:
    """The fit of a network's scores and of its warning, on held-out images, as it is stored in config.json."""
    device = next(model.parameters()).device
    segmenter = CellSegmenter(model, name="training", sha256="", device=device)
    empty = empty_images(np.random.default_rng(FIT_SEED), FIT_EMPTY)
    return fitted(segmenter, images, [*photographs, *empty]).to_dict()


class Photographs(NamedTuple):
    """Images without cells; a tenth is held out, by a hash of the file name."""

    train: list[np.ndarray]
    held_out: list[np.ndarray]

    def joined(self, other: Photographs) -> Photographs:
        return Photographs(self.train + other.train, self.held_out + other.held_out)


def read_photographs(folder: Path) -> Photographs:
    """Images without cells, reduced to a shorter side of LARGEST_PHOTOGRAPH. Raises InputError without any."""
    import cv2

    found = Photographs([], [])
    for path in sorted(without_drawn(files_under(folder, IMAGE_ENDINGS), folder)):
        pixels = read_image(path).pixels
        factor = LARGEST_PHOTOGRAPH / min(pixels.shape[:2])
        if factor < 1:
            smaller = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            pixels = np.asarray(smaller, dtype=np.uint8)
        side = found.held_out if place_of(path.name) < HELD_OUT else found.train
        side.append(np.ascontiguousarray(pixels))
    if not (found.train or found.held_out):
        raise InputError("no image in this folder", where=str(folder), hint=SOURCES)
    return found
