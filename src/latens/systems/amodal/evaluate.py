"""The paper's measure and more, on test pictures: AP of whole and visible masks, by degree of occlusion, order, counts, areas.

`--data` takes the words of `sources`: simulated (500 embryos that no training run sees), simulated:opaque, nuclei:FOLDER,
kins:FILE.json,IMAGES ... Simulated test pictures are named by the hash of their pixels in the report.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.files import write_atomic
from latens.data.instances import Scene, check_classes, scene_of
from latens.inference.page import Table
from latens.metrics.instances import DEGREES, PictureScores, average_precision, score_picture, summarise
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.predict import SURE, AmodalSegmenter, Segmentation
from latens.systems.amodal.simulate import Sample
from latens.systems.amodal.sources import Annotated, HeldOut, Source, source_of

TEST_PICTURES = 500
TEST_SIZE = 500  # longer side of test pictures, pixels
LEAST_SCORE = 0.05  # of objects that enter average precision
SHOWN = 8  # test pictures that are drawn


@dataclass(frozen=True)
class EvaluationReport:
    """All numbers of one evaluation. Averages are over objects unless said; NaN where there is nothing to count."""

    model: str
    model_id: str
    data: str
    pictures: int
    objects: int
    digest: str  # of the test pictures and their truth
    numbers: dict[str, float]

    exit_status = 0

    def table(self) -> str:
        """Everything for a terminal."""
        rows = [[name, "-" if math.isnan(value) else f"{value:.4f}"] for name, value in self.numbers.items()]
        heading = f"{self.model}, weights {self.model_id[:12]}: {self.pictures} pictures, {self.objects} objects, {self.data}"
        return f"{heading}\n\n{Table(['measure', 'value'], rows, f'Test set {self.digest[:12]}.').text()}"

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "numbers": {k: None if math.isnan(v) else v for k, v in self.numbers.items()}}

    def save(self, folder: Path) -> None:
        """Writes report.json and table.txt."""
        write_atomic(folder / "report.json", json.dumps(self.to_dict(), indent=2).encode())
        write_atomic(folder / "table.txt", (self.table() + "\n").encode())


def evaluate(
    segmenter: AmodalSegmenter,
    data: Path | str | None = None,
    out: Path | None = None,
    *,
    count: int = TEST_PICTURES,
    size: int = TEST_SIZE,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Measures the segmenter on at most `count` test pictures whose longer side is `size`; the report goes into `out`.

    Raises UsageError for a word that names no data, InputError for classes that are not the model's.
    """
    word = str(data or "simulated")
    source = source_of(word)
    if len(source.classes) > 1 or len(segmenter.classes) > 1:
        check_classes(segmenter.classes, source.classes, word)
    elif segmenter.classes != source.classes and progress is not None:
        progress(f"the model finds {segmenter.classes[0]}, the truth is of {source.classes[0]}: they are taken for the same")
    return measure(segmenter, word, frozen_pictures(source, count, size), out, progress=progress)


def frozen_pictures(source: Source, count: int, size: int) -> HeldOut:
    """The frozen test pictures of a source; an annotation file is used whole."""
    return source.held_out("all" if isinstance(source, Annotated) else "test", count, size)


def measure(
    segmenter: AmodalSegmenter,
    word: str,
    samples: HeldOut,
    out: Path | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Segments test pictures and measures what is found; the report and the first pictures go into `out`."""
    tell = progress or (lambda line: None)

    def results() -> Iterator[tuple[Sample, Segmentation]]:
        for number, sample in enumerate(samples, start=1):
            found = segmenter.segment_pixels(sample.image, least_score=LEAST_SCORE)
            if out is not None and number <= SHOWN:
                _save_picture(out / f"picture-{number}.png", sample, found)
            if number % 50 == 0 or number == len(samples):
                tell(f"{number} of {len(samples)} pictures")
            yield sample, found

    report = measured(segmenter, word, results())
    if out is not None:
        report.save(out)
    return report


def measured(segmenter: AmodalSegmenter, word: str, results: Iterable[tuple[Sample, Segmentation]]) -> EvaluationReport:
    """The numbers of given results; no dense mask is kept, so that any number of pictures fits."""
    truth: list[Scene] = []
    found: list[Scene] = []
    scores: list[PictureScores] = []
    total = hashlib.sha256()
    for sample, result in results:
        truth.append(scene_of(sample.layers))
        found.append(result.scene())
        scores.append(score_picture(sample.layers, sure(result).layers))
        _add_to_digest(total, sample)
    classes = len(segmenter.classes)
    whole = average_precision(truth, found, classes)
    numbers = {"AP": whole.ap, "AP50": whole.ap50, "AP75": whole.ap75}
    for name, bounds in DEGREES.items():
        numbers[f"AP, {name}"] = average_precision(truth, found, classes, degree=bounds).ap
    numbers["AP of visible parts"] = average_precision(truth, found, classes, part="visible").ap
    return EvaluationReport(
        model=segmenter.name,
        model_id=segmenter.model_id,
        data=word,
        pictures=len(truth),
        objects=sum(len(scene.instances) for scene in truth),
        digest=total.hexdigest(),
        numbers=numbers | summarise(scores),
    )


def sure(result: Segmentation) -> Segmentation:
    """The objects that a user would be shown."""
    kept = result.scores >= SURE
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


def _save_picture(path: Path, sample: Sample, found: Segmentation) -> None:
    from PIL import Image

    from latens.data.images import write_image

    row = (sample.image, overlay(sample.image, sure(found).layers), overlay(sample.image, sample.layers))
    write_image(path, Image.fromarray(np.concatenate(row, axis=1)))
