"""The paper's measure and more, on test pictures: AP of whole and visible masks, by degree of occlusion, order, counts, areas.

`--data` takes the words of `sources`: simulated (500 embryos that no training run sees), simulated:opaque, nuclei:FOLDER,
kins:FILE.json,IMAGES ... Simulated test pictures are named by the hash of their pixels in the report.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latens.data.files import write_atomic
from latens.data.instances import check_classes, scene_of
from latens.inference.report import Table
from latens.metrics.instances import DEGREES, PictureScores, average_precision, score_picture, summarise
from latens.systems.amodal.draw import overlay
from latens.systems.amodal.predict import SURE, AmodalSegmenter, Segmentation
from latens.systems.amodal.simulate import Sample
from latens.systems.amodal.sources import Annotated, Source, source_of

TEST_PICTURES = 500
TEST_SIZE = 500  # longer side of test pictures, pixels
LEAST_SCORE = 0.05  # of objects that enter average precision
SHOWN = 8  # test pictures that are drawn
PAPER = {"embryo, FCN": 0.665, "embryo, VQ-VAE": 0.682, "KINS, FCN": 0.293, "KINS, VQ-VAE": 0.303}  # Tables 1 and 2


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
    tell = progress or (lambda line: None)
    word = str(data or "simulated")
    source = source_of(word)
    if len(source.classes) > 1 or len(segmenter.classes) > 1:
        check_classes(segmenter.classes, source.classes, word)
    samples = frozen_pictures(source, count, size)
    results = []
    for number, sample in enumerate(samples, start=1):
        results.append(segmenter.segment_pixels(sample.image, least_score=LEAST_SCORE))
        if number % 50 == 0 or number == len(samples):
            tell(f"{number} of {len(samples)} pictures")
    report = measured(segmenter, word, samples, results)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        report.save(out)
        for number, (sample, found) in enumerate(zip(samples[:SHOWN], results, strict=False)):
            _save_picture(out / f"picture-{number}.png", sample, found)
    return report


def frozen_pictures(source: Source, count: int, size: int) -> list[Sample]:
    """The frozen test pictures of a source; an annotation file is used whole."""
    return source.held_out("all" if isinstance(source, Annotated) else "test", count, size)


def measured(
    segmenter: AmodalSegmenter, word: str, samples: Sequence[Sample], results: Sequence[Segmentation]
) -> EvaluationReport:
    """The numbers of given results."""
    truth = [scene_of(sample.layers) for sample in samples]
    found = [result.scene() for result in results]
    classes = len(segmenter.classes)
    whole = average_precision(truth, found, classes)
    numbers = {"AP": whole.ap, "AP50": whole.ap50, "AP75": whole.ap75}
    for name, bounds in DEGREES.items():
        numbers[f"AP, {name}"] = average_precision(truth, found, classes, degree=bounds).ap
    numbers["AP of visible parts"] = average_precision(truth, found, classes, part="visible").ap
    scores: list[PictureScores] = [
        score_picture(sample.layers, sure(result).layers) for sample, result in zip(samples, results, strict=True)
    ]
    return EvaluationReport(
        model=segmenter.name,
        model_id=segmenter.model_id,
        data=word,
        pictures=len(samples),
        objects=sum(len(scene.instances) for scene in truth),
        digest=digest(samples),
        numbers=numbers | summarise(scores),
    )


def sure(result: Segmentation) -> Segmentation:
    """The objects that a user would be shown."""
    kept = result.scores >= SURE
    amodal, visible, layer, category = result.layers
    layers = result.layers._replace(amodal=amodal[kept], visible=visible[kept], layer=layer[kept], category=category[kept])
    return Segmentation(layers=layers, scores=result.scores[kept], classes=result.classes)


def digest(samples: Sequence[Sample]) -> str:
    """SHA-256 over pixels and masks, in order: two machines that agree on it have tested on the same."""
    total = hashlib.sha256()
    for sample in samples:
        total.update(np.ascontiguousarray(sample.image).tobytes())
        total.update(np.packbits(sample.layers.amodal).tobytes())
    return total.hexdigest()


def _save_picture(path: Path, sample: Sample, found: Segmentation) -> None:
    from PIL import Image

    from latens.data.images import write_image

    row = (sample.image, overlay(sample.image, sure(found).layers), overlay(sample.image, sample.layers))
    write_image(path, Image.fromarray(np.concatenate(row, axis=1)))
