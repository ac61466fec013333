"""Fit of the scores and of the warning, on held-out fields and on images without cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latens.data.instances import Placed
from latens.shapes import Bool, Float, Int, UInt8
from latens.systems.amodal.cells.fields import FieldImage, Kind
from latens.systems.amodal.cells.predict import CellSegmenter
from latens.systems.amodal.cells.scores import Fit, image_features, object_features

MATCHED = 0.5  # IoU of a right object
FALSE_ALARMS = 0.03  # share of the fitted fields that may be warned of
FEWEST = 3  # images of a kind for which scores are fitted
STRENGTH = 1.0  # inverse of the regularization of both regressions


def right_objects(labels: Int[np.ndarray, "H W"], placed: Sequence[Placed]) -> Bool[np.ndarray, "N"]:
    """True for objects whose IoU with a true one is at least MATCHED and the largest of all objects."""
    areas = np.bincount(labels.ravel())
    owner: dict[int, tuple[float, int]] = {}
    for index, each in enumerate(placed):
        inside = labels[each.window][each.visible]
        both = np.bincount(inside, minlength=1)
        if not len(both[1:]) or not both[1:].any():
            continue
        number = int(both[1:].argmax()) + 1
        iou = both[number] / (len(inside) + areas[number] - both[number])
        if iou >= MATCHED and iou > owner.get(number, (0.0, 0))[0]:
            owner[number] = (float(iou), index)
    right = np.zeros(len(placed), dtype=bool)
    right[[index for _, index in owner.values()]] = True
    return right


def fitted(segmenter: CellSegmenter, images: Sequence[FieldImage], negatives: Sequence[UInt8[np.ndarray, "H W 3"]]) -> Fit:
    """Both regressions, from held-out fields and images without cells."""
    looks = [segmenter.look(image.pixels) for image in images]
    rows: dict[Kind, list[tuple[np.ndarray, np.ndarray]]] = {}
    for image, seen in zip(images, looks, strict=True):
        placed = [Placed(p.top, p.left, p.amodal, p.visible) for p in seen.objects.pieces]
        entry = (object_features(seen.objects), right_objects(image.labels, placed))
        rows.setdefault(seen.kind, []).append(entry)
    empty = [segmenter.look(pixels) for pixels in negatives]
    by_kind: dict[Kind, Sequence[float]] = {}
    for kind, found in rows.items():
        if len(found) < FEWEST:
            continue
        features = np.concatenate([each for each, _ in found])
        right = np.concatenate([each for _, each in found])
        # Objects on images without cells count as wrong, or their scores would be those of a slide full of cells.
        wrong = [object_features(seen.objects) for seen in empty]
        by_kind[kind] = logistic(
            np.concatenate([features, *wrong]), np.concatenate([right, *(np.zeros(len(w)) for w in wrong)])
        )
    fit = Fit(by_kind)
    known = [image_features(s.frame, s.objects, fit.scores(object_features(s.objects), s.kind)) for s in looks]
    unknown = [image_features(s.frame, s.objects, fit.scores(object_features(s.objects), s.kind)) for s in empty]
    return Fit(by_kind, recognizer(np.array(known), np.array(unknown)))


def logistic(features: Float[np.ndarray, "N F"], right: Float[np.ndarray, "N"]) -> tuple[float, ...]:
    """Intercept and weights of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(features, right.astype(int))
    return (float(model.intercept_[0]), *(float(weight) for weight in model.coef_[0]))


def recognizer(known: Float[np.ndarray, "N F"], unknown: Float[np.ndarray, "M F"]) -> tuple[float, ...]:
    """A linear rule that is positive for known images; at most FALSE_ALARMS of those it was fitted on are below."""
    from sklearn.linear_model import LogisticRegression

    features = np.concatenate((known, unknown))
    truth = np.append(np.ones(len(known)), np.zeros(len(unknown)))
    model = LogisticRegression(C=STRENGTH, max_iter=5000, class_weight="balanced").fit(features, truth.astype(int))
    weights = model.coef_[0]
    values = known @ weights
    least = float(np.quantile(values, FALSE_ALARMS))
    middle = -float(model.intercept_[0])
    return (-min(least, middle), *(float(weight) for weight in weights))
