"""Metrics of amodal instance segmentation: COCO average precision, depth order, counts, areas and symmetry of cells.

faster-coco-eval computes average precision, with the same results as pycocotools. The degree of occlusion is that of the true
object: objects of other degrees are ignored, and false positives count in every degree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from latens.data.instances import Layers, Scene
from latens.errors import InputError
from latens.shapes import Bool, Float

Part = Literal["amodal", "visible"]

DEGREES = {"free": (0.0, 0.05), "partly hidden": (0.05, 0.25), "mostly hidden": (0.25, 1.0)}
"""Degrees of occlusion: hidden fraction of the true object, in the half-open range [first, second)."""

MAX_DETECTIONS = 100  # per image, those with the highest scores, as in COCO
MATCHED = 0.5  # smallest IoU of a match between a detected and a true object


class AveragePrecision(NamedTuple):
    """AP averaged over classes and IoU thresholds 0.50:0.95, and AP at 0.50 and 0.75. In [0, 1]; NaN without true objects."""

    ap: float
    ap50: float
    ap75: float


def average_precision(
    truth: Sequence[Scene],
    found: Sequence[Scene],
    classes: int,
    *,
    part: Part = "amodal",
    degree: tuple[float, float] | None = None,
) -> AveragePrecision:
    """COCO mask AP, optionally for the true objects of one degree of occlusion (a value of `DEGREES`).

    Scenes are compared in the given order. Raises InputError if their numbers, sizes or classes do not match.
    """
    precision = _precision(*coco_tables(truth, found, classes, part), degree)
    return AveragePrecision(*(_mean(values) for values in (precision, precision[:1], precision[5:6])))


def coco_tables(
    truth: Sequence[Scene], found: Sequence[Scene], classes: int, part: Part = "amodal"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Data set and result list in the format of COCO's evaluators. True objects also have their hidden fraction.

    Objects without a pixel of the part, such as the visible mask of a fully hidden object, are omitted on both sides.
    """
    if len(truth) != len(found):
        raise InputError(f"{len(found)} results for {len(truth)} images")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (true, seen) in enumerate(zip(truth, found, strict=True), start=1):
        if (true.height, true.width) != (seen.height, seen.width):
            raise InputError("the result has another size than its image", where=true.file or f"image {number}")
        images.append({"id": number, "height": true.height, "width": true.width, "file_name": true.file})
        for instance in true.instances:
            record = _record(number, instance.category, getattr(instance, part))
            if not record["area"]:
                continue
            annotations.append(
                {**record, "id": len(annotations) + 1, "iscrowd": 0, "hidden_fraction": instance.hidden_fraction}
            )
        for instance in seen.instances:
            record = _record(number, instance.category, getattr(instance, part))
            if record["area"]:
                results.append({**record, "score": instance.score})
    categories = [{"id": place + 1, "name": str(place)} for place in range(classes)]
    strange = {int(record["category_id"]) for record in (*annotations, *results)} - {c["id"] for c in categories}
    if strange:
        raise InputError(f"an object has class {min(strange) - 1}, but there are {classes} classes")
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _record(image: int, category: int, rle: Any) -> dict[str, Any]:
    from pycocotools import mask as coco

    return {
        "image_id": image,
        "category_id": category + 1,
        "segmentation": dict(rle),
        "area": float(coco.area(rle)),
        "bbox": [float(value) for value in coco.toBbox(rle)],
    }


def _precision(
    dataset: dict[str, Any], results: list[dict[str, Any]], degree: tuple[float, float] | None
) -> Float[np.ndarray, "T R K"]:
    """Precision per IoU threshold, recall and class; -1 for classes without objects."""
    from faster_coco_eval import COCO, COCOeval_faster

    table = COCO(dataset)
    loaded = table.loadRes([dict(result) for result in results])
    evaluation = COCOeval_faster(table, loaded, "segm", print_function=_silent)
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0.0, 1e10]], ["all"]
    if degree is not None:
        # The hidden fraction replaces the area by which COCO selects objects; detections get a value inside the bin.
        for annotation in table.anns.values():
            annotation["area"] = annotation["hidden_fraction"]
        for annotation in loaded.anns.values():
            annotation["area"] = sum(degree) / 2
        upper = degree[1] if degree[1] >= 1 else math.nextafter(degree[1], 0)
        evaluation.params.areaRng = [[degree[0], upper]]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"]).reshape(10, 101, len(dataset["categories"]), 1, 1)
    return np.asarray(precision[..., 0, 0], dtype=np.float64)


def _silent(*_: object) -> None:
    """Print function of the evaluator, which discards the output."""


def _mean(values: Float[np.ndarray, "..."]) -> float:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else math.nan


# -------------------------------------------------------------------------------------------------- one to one matching


def mask_iou(left: Bool[np.ndarray, "L H W"], right: Bool[np.ndarray, "R H W"]) -> Float[np.ndarray, "L R"]:
    """Intersection over union of every pair of masks; 0 for two empty masks."""
    a = left.reshape(len(left), math.prod(left.shape[1:])).astype(np.float32)
    b = right.reshape(len(right), math.prod(right.shape[1:])).astype(np.float32)
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1)[None] - both
    return np.asarray(both / np.maximum(either, 1), dtype=np.float64)


def match(iou: Float[np.ndarray, "L R"], min_iou: float = MATCHED) -> list[tuple[int, int]]:
    """Greedy one-to-one matching by decreasing IoU, down to `min_iou`."""
    pairs = []
    left = iou.copy()
    while left.size and left.max() >= min_iou:
        i, j = (int(value) for value in np.unravel_index(left.argmax(), left.shape))
        pairs.append((i, j))
        left[i], left[:, j] = -1, -1
    return pairs


class Quality(NamedTuple):
    """Sums over images from which panoptic quality (Kirillov et al. 2019) and its factors follow."""

    iou: float = 0.0  # sum over matched pairs
    matched: int = 0
    missed: int = 0
    false: int = 0

    def plus(self, truth: Bool[np.ndarray, "T H W"], found: Bool[np.ndarray, "F H W"]) -> Quality:
        """The sums with one more image."""
        iou = mask_iou(truth, found)
        pairs = match(iou)
        return Quality(
            self.iou + sum(float(iou[pair]) for pair in pairs),
            self.matched + len(pairs),
            self.missed + len(truth) - len(pairs),
            self.false + len(found) - len(pairs),
        )

    @property
    def value(self) -> float:
        """Panoptic quality in [0, 1]: sum of IoU / (matched + (missed + false) / 2); 1 without any object."""
        count = self.matched + (self.missed + self.false) / 2
        return self.iou / count if count else 1.0


class ImageScores(NamedTuple):
    """Measures of one image, per true object unless stated otherwise; an undetected object has IoU 0."""

    iou_full: list[float]  # amodal masks
    iou_hidden: list[float]  # true hidden part against the detected amodal mask outside the true visible mask
    order_right: int  # overlapping pairs of matched objects with correct depth order
    order_pairs: int
    count_error: int  # detected minus true
    area_errors: list[float]  # |detected / true - 1| of matched objects
    symmetry_error: float | None  # |detected - true| of `symmetry`; None if either has fewer than two objects


def score_image(truth: Layers, found: Layers) -> ImageScores:
    """Compare detected objects (above the user's score threshold) with the truth."""
    iou = mask_iou(truth.amodal, found.amodal)
    partner = dict(match(iou))
    full, hidden, areas = [], [], []
    for i, mask in enumerate(truth.amodal):
        j = partner.get(i)
        full.append(float(iou[i, j]) if j is not None else 0.0)
        if j is not None:
            areas.append(abs(float(found.amodal[j].sum()) / float(mask.sum()) - 1))
        true_hidden = mask & ~truth.visible[i]
        if true_hidden.any():
            seen = found.amodal[j] & ~truth.visible[i] if j is not None else np.zeros_like(mask)
            hidden.append(float((seen & true_hidden).sum() / (seen | true_hidden).sum()))
    right, pairs = _order(truth, found, partner)
    true_symmetry, found_symmetry = (symmetry([int(mask.sum()) for mask in each.amodal]) for each in (truth, found))
    both = true_symmetry is not None and found_symmetry is not None
    return ImageScores(
        full, hidden, right, pairs, len(found.amodal) - len(truth.amodal), areas,
        abs(found_symmetry - true_symmetry) if both else None,  # type: ignore[operator]
    )  # fmt: skip


def _order(truth: Layers, found: Layers, partner: dict[int, int]) -> tuple[int, int]:
    right = pairs = 0
    for a in partner:
        for b in partner:
            if a < b and (truth.amodal[a] & truth.amodal[b]).any() and min(truth.layer[a], truth.layer[b]) >= 0:
                pairs += 1
                right += (truth.layer[a] < truth.layer[b]) == (found.layer[partner[a]] < found.layer[partner[b]])
    return right, pairs


def diameter(area: float) -> float:
    """Diameter of the disc with this area."""
    return math.sqrt(4 * area / math.pi)


def symmetry(areas: Sequence[float]) -> float | None:
    """Smallest over largest equivalent diameter of the cells of an embryo, in (0, 1]; None for fewer than two cells."""
    if len(areas) < 2:
        return None
    diameters = [diameter(float(area)) for area in areas]
    return min(diameters) / max(diameters) if max(diameters) else None


def summarize(scores: Sequence[ImageScores]) -> dict[str, float]:
    """Means over all images; NaN for an empty set."""
    symmetry_errors = [score.symmetry_error for score in scores if score.symmetry_error is not None]
    pairs = sum(score.order_pairs for score in scores)
    return {
        "mean IoU": _average([value for score in scores for value in score.iou_full]),
        "mean IoU of hidden parts": _average([value for score in scores for value in score.iou_hidden]),
        "order accuracy": sum(score.order_right for score in scores) / pairs if pairs else math.nan,
        "count accuracy": _average([float(score.count_error == 0) for score in scores]),
        "mean area error": _average([value for score in scores for value in score.area_errors]),
        "mean symmetry error": _average(symmetry_errors),
    }


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
