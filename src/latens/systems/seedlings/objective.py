"""Loss of a grader: cross-entropy of success (Eqs. 3.3 and 3.4) and of emergence; calibration of the saved model.

Perugachi-Diaz 2024, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.nn.ranks import share_of_mean
from latens.systems.seedlings.calibration import Calibration, cross_entropy, fit_temperature, prior_shift, probabilities
from latens.systems.seedlings.config import GradingLossConfig
from latens.systems.seedlings.crops import UNKNOWN
from latens.systems.seedlings.dataset import CropBatches
from latens.systems.seedlings.model import GRADES, Grader, statistics
from latens.training.objective import ONE_OPTIMIZER, Export, Step

MIN_OF_A_DAY = 100  # minimum number of validation crops for a separate calibration of a day
KNOWN_CROPS = 2000  # maximum number of training crops in the out-of-distribution statistics
KNOWN_SHARE = 0.995  # quantile of their distances that is the limit


class GradingObjective:
    """Losses, validation and export of a grader."""

    optimizers = ONE_OPTIMIZER

    def __init__(self, config: GradingLossConfig, data: CropBatches) -> None:
        self.config, self.data = config, data
        self.weights = class_weights(data.natural) if config.weighted else None
        trained = data.trained * (1 if self.weights is None else self.weights)
        self.shift = prior_shift(data.natural / data.natural.sum(), trained / trained.sum())

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> Iterator[Step]:
        found = model(batch["crops"], batch["day"])
        loss = self.grade_loss(found.classes.float(), batch["label"])
        logs: dict[str, Tensor | float] = {"grade": loss}
        if found.seen is not None and self.config.seen_weight:
            known = batch["seen"] != UNKNOWN
            total = F.cross_entropy(found.seen[known].float(), batch["seen"][known], reduction="sum")
            seen = share_of_mean(total, known.sum())
            loss, logs = loss + self.config.seen_weight * seen, {**logs, "seen": seen}
        yield Step("model", loss, logs)

    def grade_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Eq. 3.3, or Eq. 3.4 with weights, as a mean over the crops of the batch."""
        if self.weights is None:
            return F.cross_entropy(logits, label)
        weights = torch.as_tensor(self.weights, dtype=logits.dtype, device=logits.device)
        if self.config.divisor == "weights":
            return share_of_mean(F.cross_entropy(logits, label, weights, reduction="sum"), weights[label].sum(), least=1e-8)
        return F.cross_entropy(logits, label, weights, reduction="sum") / len(label)

    @torch.no_grad()
    def validate(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        logits, seen = predict(model, batches)
        label = _joined(batches, "label")
        shift = self.shift if self.config.select == "corrected" else (0.0,) * logits.shape[1]
        chances = probabilities(logits, Calibration(shift, 1.0))
        grade = cross_entropy(chances, label)
        as_trained = cross_entropy(probabilities(logits), label)
        right = float((chances.argmax(1) == label).mean())
        numbers = {"loss": grade, "accuracy": right, "loss_as_trained": as_trained}
        truth = _joined(batches, "seen")
        if seen is not None and (truth != UNKNOWN).any() and self.config.seen_weight:
            known = truth != UNKNOWN
            of_seen = cross_entropy(probabilities(seen[known]), truth[known])
            seen_accuracy = float((seen[known].argmax(1) == truth[known]).mean())
            numbers |= {"loss": grade + self.config.seen_weight * of_seen, "seen_accuracy": seen_accuracy}
        return numbers

    def images(self, model: Any, batches: Sequence[dict[str, Tensor]]) -> dict[str, np.ndarray]:
        return {}

    @torch.no_grad()
    def export(self, model: Grader, batches: Sequence[dict[str, Tensor]]) -> Export:
        """Weights with the statistics of training crops; classes, and calibration and error rates on validation crops."""
        weights = {**model.state_dict(), **self.known}
        logits, seen = predict(model, batches)
        label, day, truth = (_joined(batches, name) for name in ("label", "day", "seen"))
        tray = self.data.crops.tray[self.data.parts["validation"]]
        config: dict[str, Any] = {"classes": list(self.data.crops.classes), "calibration": {}, "rates": {}}
        for name, chosen in groups_of(day):
            fitted = fit_temperature(logits[chosen], label[chosen], self.shift)
            config["calibration"][name] = {"shift": list(fitted.shift), "temperature": fitted.temperature}
            if self.data.crops.classes == GRADES:
                called = probabilities(logits[chosen], fitted)[:, 1] >= 0.5
                config["rates"][name] = rates(called, label[chosen] == 1, tray[chosen])
        known = truth != UNKNOWN
        if seen is not None and known.any() and self.config.seen_weight:
            fitted = fit_temperature(seen[known], truth[known], (0.0, 0.0))
            config["seen"] = {"shift": [0.0, 0.0], "temperature": fitted.temperature}
        config["area_threshold"] = self.area_threshold
        config["trained"] = {"natural": self.data.natural.tolist(), "epoch": self.data.trained.tolist()}
        return Export(weights, {}, config)

    @cached_property
    def known(self) -> dict[str, Tensor]:
        """Mean, inverse covariance and limit of the statistics of at most KNOWN_CROPS training crops (see `outlier_score`)."""
        indices = self.data.parts["train"]
        indices = indices[:: -(-len(indices) // KNOWN_CROPS)]
        found = statistics(self.data.tensors(indices)["crops"]).double()
        mean = found.mean(dim=0)
        covariance = torch.cov(found.T) + 1e-5 * torch.eye(found.shape[1], dtype=torch.double)
        inverse = torch.linalg.inv(covariance)
        distance = ((found - mean) @ inverse * (found - mean)).sum(dim=1)
        limit = torch.quantile(distance, KNOWN_SHARE).clamp(min=1e-6)
        return {"known_mean": mean.float(), "known_inverse": inverse.float(), "known_limit": limit.float()}

    @cached_property
    def area_threshold(self) -> float:
        """Leaf area (at a pitch of 64) that best separates emerged plants among training crops; 20 if emergence is unknown."""
        crops = self.data.crops.take(self.data.parts["train"])
        known = crops.seen != UNKNOWN
        if not known.any() or crops.seen[known].min() == crops.seen[known].max():
            return 20.0
        order = np.argsort(crops.area[known], kind="stable")
        area, seen = crops.area[known][order], crops.seen[known][order]
        wrong = np.concatenate([[0], np.cumsum(seen)]) + (len(seen) - seen.sum() - np.concatenate([[0], np.cumsum(1 - seen)]))
        best = int(np.argmin(wrong))
        return float((area[max(best - 1, 0)] + area[min(best, len(area) - 1)]) / 2)


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Class weights of Eq. 3.4: 1 for the smallest class, its count / n_k for the others."""
    present = counts[counts > 0].min()
    return np.where(counts > 0, present / np.maximum(counts, 1), 1.0)


def predict(model: Any, batches: Sequence[dict[str, Tensor]]) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits of classes, and of emergence if the model has this output, for all crops (float64)."""
    found = [model(batch["crops"], batch["day"]) for batch in batches]
    classes = torch.cat([one.classes.float() for one in found]).double().cpu().numpy()
    seen = None if found[0].seen is None else torch.cat([one.seen.float() for one in found]).double().cpu().numpy()
    return classes, seen


def _joined(batches: Sequence[dict[str, Tensor]], name: str) -> np.ndarray:
    joined: np.ndarray = torch.cat([batch[name] for batch in batches]).cpu().numpy()
    return joined


def groups_of(day: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Masks of all crops ("all"), and of each day with at least MIN_OF_A_DAY crops."""
    found = [("all", np.ones(len(day), bool))]
    found += [(str(one), day == one) for one in np.unique(day) if (day == one).sum() >= MIN_OF_A_DAY and one >= 0]
    return found


def rates(called: np.ndarray, success: np.ndarray, tray: np.ndarray) -> dict[str, float]:
    """Confusion counts, and standard deviations of the rates between trays (see `lots.Rates`)."""
    return {
        "kept": int((called & success).sum()),
        "successes": int(success.sum()),
        "rejected": int((~called & ~success).sum()),
        "failures": int((~success).sum()),
        "trays": len(np.unique(tray)),
        "kept_spread": spread_between(called[success], tray[success]),
        "rejected_spread": spread_between(~called[~success], tray[~success]),
    }


def spread_between(right: np.ndarray, tray: np.ndarray) -> float:
    """Standard deviation of a share between trays beyond binomial sampling (method of moments, DerSimonian and Laird 1986)."""
    _, which = np.unique(tray, return_inverse=True)
    counts = np.bincount(which.ravel()).astype(float)
    if len(counts) < 3:
        return 0.0
    shares, share = np.bincount(which.ravel(), right) / counts, float(right.mean())
    excess = (counts * (shares - share) ** 2).sum() - (len(counts) - 1) * share * (1 - share)
    return float(np.sqrt(max(0.0, excess / (counts.sum() - (counts**2).sum() / counts.sum()))))
