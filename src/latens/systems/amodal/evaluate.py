"""Evaluation of a segmenter on test images.

`--data` takes the words of `sources`: simulated (500 embryos that no training run sees), simulated:opaque, nuclei:FOLDER,
kins:FILE.json,IMAGES ... Simulated test images are named by the hash of their pixels in the report.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latens.data.images import write_image
from latens.data.instances import Sample, Scene, check_classes, scene_of
from latens.data.source import Source
from latens.errors import UsageError
from latens.experiments.report import Report
from latens.inference.page import Table
from latens.metrics.instances import DEGREES, PictureScores, average_precision, score_picture, summarise
from latens.settings import Count, settings, to_dict
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.layering import SCORE_THRESHOLD
from latens.systems.amodal.predict import AmodalSegmenter, Segmentation
from latens.systems.amodal.sources import Annotated, HeldOut, ImageSource, source_of

logger = logging.getLogger(__name__)

LEAST_SCORE = 0.05  # of objects that enter average precision
SHOWN = 8  # test images that are drawn


@settings
class AmodalEvaluation:
    """Test images of an evaluation."""

    images: Count = 500  # at most
    size: Count = 500  # their longer side in pixels


@dataclass(frozen=True)
class Measurement:
    """All numbers of one model on one test set. Averages are over objects unless said; NaN where there is nothing to count."""

    data: str
    images: int
    objects: int
    digest: str  # of the test images and their truth
    numbers: dict[str, float]


def evaluate(segmenter: AmodalSegmenter, sources: Sequence[Source], options: AmodalEvaluation, folder: Path | None) -> Report:
    """Measures the segmenter on test images: AP of whole and visible masks, by degree of occlusion, order, counts, areas.

    The first images go into `folder`. Raises UsageError for a word that names no data or for several, InputError for classes
    that are not the model's.
    """
    if len(sources) > 1:
        raise UsageError("one data set is needed", where="--data", hint="run the command once for each")
    word = str(sources[0]) if sources else "simulated"
    source = source_of(word)
    if len(source.classes) > 1 or len(segmenter.classes) > 1:
        check_classes(segmenter.classes, source.classes, word)
    elif segmenter.classes != source.classes:
        logger.warning(
            "the model finds %s, the truth is of %s: they are taken for the same", segmenter.classes[0], source.classes[0]
        )
    found = measure(segmenter, word, frozen_images(source, options.images, options.size), folder)
    rows = [[name, "-" if math.isnan(value) else f"{value:.4f}"] for name, value in found.numbers.items()]
    return Report(
        name="evaluation",
        title="Amodal segmentation",
        about=f"{segmenter.name}, weights {segmenter.model_id[:12]}: {found.images} images, {found.objects} objects, {word}",
        blocks=[Table(["measure", "value"], rows, f"Test set {found.digest[:12]}.")],
        facts={"model": segmenter.name, "model_id": segmenter.model_id, "options": to_dict(options), **asdict(found)},
    )


def frozen_images(source: ImageSource, count: int, size: int) -> HeldOut:
    """The frozen test images of a source; an annotation file is used whole."""
    return source.held_out("all" if isinstance(source, Annotated) else "test", count, size)


def measure(segmenter: AmodalSegmenter, word: str, samples: HeldOut, folder: Path | None = None) -> Measurement:
    """Segments test images and measures the objects found; the first images go into `folder`."""

    def results() -> Iterator[tuple[Sample, Segmentation]]:
        for number, sample in enumerate(samples, start=1):
            found = segmenter.segment_pixels(sample.image, least_score=LEAST_SCORE)
            if folder is not None and number <= SHOWN:
                _save_image(folder / f"image-{number}.png", sample, found)
            if number % 50 == 0 or number == len(samples):
                logger.info("%d of %d images", number, len(samples))
            yield sample, found

    return measured(len(segmenter.classes), word, results())


def measured(classes: int, word: str, results: Iterable[tuple[Sample, Segmentation]]) -> Measurement:
    """The numbers of given results; no dense mask is kept, so that any number of images fits."""
    truth: list[Scene] = []
    found: list[Scene] = []
    scores: list[PictureScores] = []
    total = hashlib.sha256()
    for sample, result in results:
        truth.append(scene_of(sample.layers))
        found.append(result.scene())
        scores.append(score_picture(sample.layers, confident(result).layers))
        _add_to_digest(total, sample)
    whole = average_precision(truth, found, classes)
    numbers = {"AP": whole.ap, "AP50": whole.ap50, "AP75": whole.ap75}
    for name, bounds in DEGREES.items():
        numbers[f"AP, {name}"] = average_precision(truth, found, classes, degree=bounds).ap
    numbers["AP of visible parts"] = average_precision(truth, found, classes, part="visible").ap
    objects = sum(len(scene.instances) for scene in truth)
    return Measurement(word, len(truth), objects, total.hexdigest(), numbers | summarise(scores))


def confident(result: Segmentation) -> Segmentation:
    """Detections above SCORE_THRESHOLD."""
    kept = result.scores >= SCORE_THRESHOLD
    amodal, visible, layer, category = result.layers
    layers = result.layers._replace(amodal=amodal[kept], visible=visible[kept], layer=layer[kept], category=category[kept])
    return Segmentation(layers=layers, scores=result.scores[kept], classes=result.classes)


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over pixels and masks, in order: two machines that agree on it have tested on the same."""
    total = hashlib.sha256()
    for sample in samples:
        _add_to_digest(total, sample)
    return total.hexdigest()


def _add_to_digest(total: Any, sample: Sample) -> None:
    total.update(np.ascontiguousarray(sample.image).tobytes())
    total.update(np.packbits(sample.layers.amodal).tobytes())


def _save_image(path: Path, sample: Sample, found: Segmentation) -> None:
    row = (sample.image, overlay(sample.image, confident(found).layers), overlay(sample.image, sample.layers))
    write_image(path, Image.fromarray(np.concatenate(row, axis=1)))
