"""Fit of the scores and of the recognition of unknown images, on held-out fields and on images without cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from latens.data.instances import Placed
from latens.shapes import Bool, Float, Int, UInt8
from latens.systems.amodal.cells.fields import FieldImage, Kind
from latens.systems.amodal.cells.predict import CellSegmenter
from latens.systems.amodal.cells.scores import Fit, image_features, object_features

MATCHED = 0.5  # IoU of a right object
FALSE_ALARMS = 0.03  # share of the fitted fields that may be warned of
FEWEST = 3  # images of a kind for which scores are fitted
COLUMNS = ((0, 1), (0, 1, 2), (0, 1, 2, 3))  # sets of object features that are tried
STRENGTHS = (0.03, 0.3, 3.0)  # inverses of the regularization that are tried, for features of unit deviation
IMAGE_STRENGTH = 10.0  # of the recognition of images
PARTS, PARTS_SEED = 8, 0  # of the cross-validation over fields, and the seed of their draw
WINDOW_SEED = 20_121  # of the parts of fields that must be known as well


class Judged(NamedTuple):
    """The objects of an annotated image."""

    field: str
    features: Float[np.ndarray, "N F"]
    right: Bool[np.ndarray, "N"]


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
    """Both regressions, from held-out fields and images without cells.

    Objects on images without cells do not take part in the fit of the scores: the recognition of the image accounts for them.
    """
    looks = [segmenter.look(image.pixels) for image in images]
    rows: dict[Kind, list[Judged]] = {}
    for image, seen in zip(images, looks, strict=True):
        placed = [Placed(p.top, p.left, p.amodal, p.visible) for p in seen.objects.pieces]
        judged = Judged(image.field, object_features(seen.objects), right_objects(image.labels, placed))
        rows.setdefault(seen.kind, []).append(judged)
    fit = Fit({kind: chosen_fit(found) for kind, found in rows.items() if len(found) >= FEWEST})
    if not negatives:
        return fit
    rng = np.random.default_rng(WINDOW_SEED)
    looks += [segmenter.look(window) for image in images if (window := window_with_objects(rng, image)) is not None]
    known, unknown = (
        [image_features(s.frame, s.objects, fit.scores(object_features(s.objects), s.kind)) for s in each]
        for each in (looks, [segmenter.look(pixels) for pixels in negatives])
    )
    return Fit(fit.by_kind, recognizer(np.array(known), np.array(unknown)))


def window_with_objects(rng: np.random.Generator, image: FieldImage) -> UInt8[np.ndarray, "h w 3"] | None:
    """A random window of half the sides that holds pixels of several objects; None if that of the draw does not."""
    height, width = (length // 2 for length in image.labels.shape)
    top, left = int(rng.integers(height + 1)), int(rng.integers(width + 1))
    window = (slice(top, top + height), slice(left, left + width))
    return image.pixels[window] if len(np.unique(image.labels[window])) > 2 else None


def chosen_fit(found: Sequence[Judged]) -> tuple[float, ...]:
    """Intercept and a weight per feature, with the features and the strength of the best log loss on fields left out.

    Features that are not used have weight 0. With a single field, all features are used at the middle strength.
    """
    fields = sorted({each.field for each in found})
    order = np.random.default_rng(PARTS_SEED).permutation(len(fields))
    part = {fields[index]: place % PARTS for place, index in enumerate(order)}
    choices: list[tuple[tuple[int, ...], float]] = [(columns, strength) for columns in COLUMNS for strength in STRENGTHS]
    if len(fields) == 1:
        return _weights(found, COLUMNS[-1], STRENGTHS[1])
    return _weights(found, *min(choices, key=lambda choice: _left_out_loss(found, part, *choice)))


def _left_out_loss(found: Sequence[Judged], part: dict[str, int], columns: tuple[int, ...], strength: float) -> float:
    """Log loss of the objects of every part of the fields, after a fit of the others."""
    total = 0.0
    for number in sorted(set(part.values())):
        weights = _weights([each for each in found if part[each.field] != number], columns, strength)
        fit = Fit({"fluorescent": weights})
        for each in found:
            if part[each.field] == number:
                scores = fit.scores(each.features, "fluorescent").clip(1e-6, 1 - 1e-6)
                total -= float(np.where(each.right, np.log(scores), np.log(1 - scores)).sum())
    return total


def _weights(found: Sequence[Judged], columns: tuple[int, ...], strength: float) -> tuple[float, ...]:
    """Intercept and a weight per feature, 0 for those that are not among `columns`."""
    features = np.concatenate([each.features for each in found])
    intercept, *used = logistic(features[:, columns], np.concatenate([each.right for each in found]), strength)
    weights = np.zeros(features.shape[1])
    weights[list(columns)] = used
    return (intercept, *(float(weight) for weight in weights))


def logistic(
    features: Float[np.ndarray, "N F"], right: Float[np.ndarray, "N"], strength: float = 1.0, *, balanced: bool = False
) -> tuple[float, ...]:
    """Intercept and weights of a logistic regression, regularized as for features of unit deviation.

    If all objects are right, or none, the weights are 0 and the intercept is that of one object more of each.
    """
    from sklearn.linear_model import LogisticRegression

    truth = np.asarray(right).astype(int)
    if len(set(truth.tolist())) < 2:
        return (float(np.log((truth.sum() + 1) / (len(truth) - truth.sum() + 1))), *(0.0 for _ in range(features.shape[1])))
    middle, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    model = LogisticRegression(C=strength, max_iter=5000, class_weight="balanced" if balanced else None)
    model.fit((features - middle) / spread, truth)
    weights = model.coef_[0] / spread
    return (float(model.intercept_[0] - middle @ weights), *(float(weight) for weight in weights))


def recognizer(known: Float[np.ndarray, "N F"], unknown: Float[np.ndarray, "M F"]) -> tuple[float, ...]:
    """Log odds that an image is known, if both are equally frequent; at most FALSE_ALARMS of `known` are below 0."""
    truth = np.append(np.ones(len(known)), np.zeros(len(unknown)))
    intercept, *weights = logistic(np.concatenate((known, unknown)), truth, IMAGE_STRENGTH, balanced=True)
    lowest = float(np.quantile(intercept + known @ np.array(weights), FALSE_ALARMS))
    return (intercept + max(-lowest, 0.0), *weights)
