"""Evaluation on test images: AP of amodal and visible masks, AP by degree of occlusion, depth order, counts, areas.

`--data` takes one value that `dataset` lists; of a published data set the whole test file is used. The
default is 500 simulated embryos, none of which is used in training. The report identifies the test images by a hash of their
pixels and masks.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from latens.data.convert import READABLE
from latens.data.duplicates import Distinct, digest_of
from latens.data.image_output import write_image
from latens.data.instances import Sample, Scene, check_classes, scene_of
from latens.data.source import Source, one_source
from latens.errors import counted
from latens.experiments.report import Report
from latens.inference.page import Table
from latens.metrics.instances import DEGREES, ImageScores, average_precision, score_image, summarize
from latens.settings import Count, Natural, settings
from latens.systems.amodal.dataset import HeldOut, open_source
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.official import official
from latens.systems.amodal.order import SCORE_THRESHOLD
from latens.systems.amodal.predict import AmodalSegmenter, Segmentation
from latens.systems.amodal.segmenter import Found, Segmenter

logger = logging.getLogger(__name__)

MIN_SCORE = 0.05  # smallest score of detections that enter average precision
SHOWN = 8  # number of test images that are drawn


@settings
class AmodalEvaluation:
    """Size of the test set."""

    images: Count = 500  # largest number of test images
    size: Natural = 500  # longer side of test images, pixels; 0: their own size


class Measured(NamedTuple):
    """Results of one evaluation. Averages are over objects unless stated otherwise; NaN over an empty set."""

    numbers: Mapping[str, float]
    images: int
    objects: int
    digest: str  # of the test images and their truth


def evaluate(
    segmenter: Segmenter[Found],
    sources: Sequence[Source],
    options: AmodalEvaluation,
    folder: Path | None = None,
) -> Report:
    """Evaluate the segmenter on the test images of a source; the first images with their objects go into `folder`.

    Raises UsageError for several sources or an unknown one, InputError where the classes of data and model differ.
    """
    if not isinstance(segmenter, AmodalSegmenter) and any(source.kind in ("labels", "negatives") for source in sources):
        from latens.systems.amodal.cells.evaluate import evaluate_fields
        from latens.systems.amodal.cells.predict import CellSegmenter

        assert isinstance(segmenter, CellSegmenter)
        return evaluate_fields(segmenter, sources, folder)
    value = one_source(sources) or Source("", "simulated")
    source = open_source(official(value).test or value)
    one_class = len(source.classes) == len(segmenter.classes) == 1
    names_differ = one_class and segmenter.classes != source.classes
    if names_differ:
        logger.warning("the model's class '%s' is compared with '%s' of the truth", segmenter.classes[0], source.classes[0])
    elif not one_class:
        check_classes(segmenter.classes, source.classes, str(value))
    found = measure(segmenter, source.held_out("all", options.images, options.size), folder)
    classes = {"model": list(segmenter.classes), "truth": list(source.classes)}
    facts = {"model": segmenter.name, "model_id": segmenter.model_id, "data": str(value), **found._asdict()}
    rows = [[name, "-" if math.isnan(value) else f"{value:.4f}"] for name, value in found.numbers.items()]
    return Report(
        name="report",
        title="Amodal segmentation",
        about=f"{segmenter.name}, weights {segmenter.model_id[:12]}: {counted(found.images, 'image')}, "
        f"{counted(found.objects, 'object')}, {value}",
        blocks=[Table(["measure", "value"], rows, f"Test set {found.digest[:12]}.")],
        facts={**facts, **({"compared_classes": classes} if names_differ else {})},
    )


def holds_out(segmenter: Segmenter[Found], source: Source) -> bool:
    """True if `evaluate` measures only images of this source that are in no training."""
    if source.kind == "labels" and not isinstance(segmenter, AmodalSegmenter):
        return True  # its test fields
    return source.kind not in READABLE or official(source).test is not None


def measure(segmenter: Segmenter[Found], samples: HeldOut, folder: Path | None = None) -> Measured:
    """Segment test images and compare the objects with the truth; the first images go into `folder`."""

    def results() -> Iterator[tuple[Sample, Found]]:
        seen = Distinct()
        for number, sample in enumerate(samples, start=1):
            if not seen.is_new(digest_of(sample.image, *sample.layers), f"image {number} of the data"):
                continue
            found = segmenter.segment_pixels(sample.image, least_score=MIN_SCORE)
            if folder is not None and number <= SHOWN:
                _save_image(folder / f"image-{number}.png", sample, found)
            if number % 50 == 0 or number == len(samples):
                logger.info("%d of %d images", number, len(samples))
            yield sample, found

    return measured(len(segmenter.classes), results())


def measured(classes: int, results: Iterable[tuple[Sample, Found]]) -> Measured:
    """Measures of given results. Masks are held run-length coded, so that thousands of images fit into memory."""
    truth: list[Scene] = []
    found: list[Scene] = []
    scores: list[ImageScores] = []
    total = hashlib.sha256()
    for sample, result in results:
        truth.append(scene_of(sample.layers))
        found.append(result.scene())
        scores.append(score_image(sample.layers, confident(result).layers))
        _add_to_digest(total, sample)
    whole = average_precision(truth, found, classes)
    numbers = {"AP": whole.ap, "AP50": whole.ap50, "AP75": whole.ap75}
    for name, bounds in DEGREES.items():
        numbers[f"AP, {name}"] = average_precision(truth, found, classes, degree=bounds).ap
    numbers["AP of visible parts"] = average_precision(truth, found, classes, part="visible").ap
    objects = sum(len(scene.instances) for scene in truth)
    return Measured(numbers | summarize(scores), len(truth), objects, total.hexdigest())


def confident(result: Found) -> Segmentation:
    """The detections above SCORE_THRESHOLD."""
    kept = result.scores >= SCORE_THRESHOLD
    placed = [each for each, score in zip(result.placed, result.scores, strict=True) if score >= SCORE_THRESHOLD]
    return Segmentation(size=result.size, placed=placed, scores=result.scores[kept], classes=result.classes)


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256 of pixels and masks, in order. Evaluations with equal digests used the same test images."""
    total = hashlib.sha256()
    for sample in samples:
        _add_to_digest(total, sample)
    return total.hexdigest()


def _add_to_digest(total: Any, sample: Sample) -> None:
    total.update(np.ascontiguousarray(sample.image).tobytes())
    total.update(np.packbits(sample.layers.amodal).tobytes())


def _save_image(path: Path, sample: Sample, found: Found) -> None:
    row = (sample.image, overlay(sample.image, confident(found).layers), overlay(sample.image, sample.layers))
    write_image(path, Image.fromarray(np.concatenate(row, axis=1)))
