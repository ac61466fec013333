"""Scores of objects as probabilities, and the recognition of images that the model does not know.

A score is the product of two logistic regressions on a few numbers: the probability that the image is of a kind that the model
knows, and that an object on such an image is right. Both are fitted on held-out images (`calibrate`) and stored in config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latens.shapes import Bool, Float
from latens.systems.amodal.cells.fields import Kind
from latens.systems.amodal.cells.frame import Frame
from latens.systems.amodal.cells.objects import Objects

SURE = 0.5  # score of an object that counts for an image
FEATURES_BEFORE = 5  # of an image in fits of earlier versions, whose sum is no log odds and does not change the scores


@dataclass(frozen=True)
class Fit:
    """Coefficients of both regressions; without them, scores are object probabilities and every image is known."""

    by_kind: Mapping[Kind, Sequence[float]] = field(default_factory=dict)  # intercept and one weight per feature
    image: Sequence[float] = ()  # intercept and weights: log odds that the image is known

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any] | None) -> Fit:
        plain = plain or {}
        by_kind = {kind: tuple(values) for kind, values in plain.get("by_kind", {}).items()}
        return cls(by_kind, tuple(plain.get("image", ())))

    def to_dict(self) -> dict[str, Any]:
        return {"by_kind": {kind: list(values) for kind, values in self.by_kind.items()}, "image": list(self.image)}

    def scores(self, features: Float[np.ndarray, "N F"], kind: Kind) -> Float[np.ndarray, "N"]:
        """Probability that an object of a known image has an IoU of at least 0.5 with a true one."""
        weights = self.by_kind.get(kind)
        if weights is None:
            return np.asarray(1 / (1 + np.exp(-features[:, 0])))
        return np.asarray(1 / (1 + np.exp(-(weights[0] + features @ np.array(weights[1:])))))

    def known(self, features: Float[np.ndarray, "F"]) -> float:
        """Probability that an image looks like those of the training set; with a fit of earlier versions 0 or 1."""
        if not self.image:
            return 1.0
        weights = np.array(self.image[1:])
        value = float(self.image[0] + features[: len(weights)] @ weights)
        return float(value > 0) if self.decides else float(1 / (1 + np.exp(-value)))

    @property
    def decides(self) -> bool:
        """True for a fit of earlier versions, which only warns."""
        return len(self.image) == 1 + FEATURES_BEFORE


def object_features(objects: Objects) -> Float[np.ndarray, "N 4"]:
    """Log odds of the object probability, agreement of outline and border, certainty of the foreground, log diameter."""
    center = np.clip(objects.center, 0.01, 0.99)
    agreement = np.array([piece.agreement for piece in objects.pieces])
    certainty = np.array([piece.certainty for piece in objects.pieces])
    columns = (np.log(center / (1 - center)), agreement, certainty, np.log(np.maximum(objects.diameter, 1.0) / 24))
    return np.stack(columns, axis=1).astype(np.float64).reshape(-1, 4)


def image_features(frame: Frame, objects: Objects, scores: Float[np.ndarray, "N"]) -> Float[np.ndarray, "7"]:
    """Numbers in which photographs, noise and empty slides differ from fields of cells."""
    foreground = frame.foreground
    step = max(1, int(np.sqrt(foreground.size / 2**20)))
    part = foreground[::step, ::step].astype(np.float32) / 255
    doubtful = float(((part > 0.2) & (part < 0.8)).mean())
    covered = float((part >= 0.5).mean())
    sure: Bool[np.ndarray, "N"] = scores >= SURE
    count = int(sure.sum())
    mean = float(scores.mean()) if len(scores) else 0.0
    top = float(np.sort(scores)[-5:].mean()) if len(scores) else 0.0
    area = sum(int(piece.amodal.sum()) for piece, good in zip(objects.pieces, sure, strict=True) if good)
    scale = frame.scale[0] * frame.scale[1]
    explained = min(area * scale / max(covered * foreground.size, 1.0), 1.0)
    agreement, certainty = (
        float(np.median([getattr(piece, name) for piece in objects.pieces])) if objects.pieces else 0.0
        for name in ("agreement", "certainty")
    )
    doubt = doubtful / (doubtful + covered + 1e-3)
    return np.array([np.log1p(count), mean, top, explained, doubt, agreement, certainty])
