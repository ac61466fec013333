"""Classifiers of plant crops: logistic regression, perceptrons, convolutional networks.

Perugachi-Diaz 2024, section 3.3.2.

Letters: B batch, C channels (1 gray, 3 color), S side of the crop, K classes, D days.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.shapes import Float, Int
from latens.systems.seedlings.config import GraderConfig

GRADES = ("failure", "success")  # classes of graded trays
STATISTICS = 10  # number of statistics that detect out-of-distribution crops


class Graded(NamedTuple):
    """Logits of a batch, for the priors of training."""

    classes: Float[Tensor, "B K"]
    seen: Float[Tensor, "B 2"] | None  # not emerged, emerged


class Grader(nn.Module):
    """Feature extractor with linear heads for classes and emergence.

    If `days` are given, a one-hot vector of the day is concatenated to the features. The buffers `known_*` hold statistics of
    the training crops (see `outlier_score`).
    """

    known_mean: Tensor
    known_inverse: Tensor
    known_limit: Tensor

    def __init__(self, config: GraderConfig, classes: int, body: nn.Module, features: int) -> None:
        super().__init__()
        self.days = tuple(config.days)
        self.body = body
        self.hidden = nn.Linear(features + len(self.days), 32) if config.backbone == "small" else None
        self.drop = nn.Dropout(config.dropout if config.backbone == "small" else 0.0)
        width = 32 if self.hidden is not None else features + len(self.days)
        self.classes = nn.Linear(width, classes)
        self.seen = nn.Linear(width, 2) if config.seen else None
        self.register_buffer("known_mean", torch.zeros(STATISTICS))
        self.register_buffer("known_inverse", torch.eye(STATISTICS))
        self.register_buffer("known_limit", torch.full((), 1e9))

    def forward(self, crops: Float[Tensor, "B C S S"], day: Int[Tensor, "B"]) -> Graded:
        """Logits of crops in [-0.5, 0.5] (see `normalized`). `day` is replaced by the nearest of `days`, if there are any."""
        features = self.body(crops)
        if self.days:
            features = torch.cat([features, one_hot(day, self.days)], dim=1)
        if self.hidden is not None:
            features = F.relu(self.hidden(self.drop(features)))
        features = self.drop(features)
        return Graded(self.classes(features), None if self.seen is None else self.seen(features))


def one_hot(day: Int[Tensor, "B"], days: Sequence[int]) -> Float[Tensor, "B D"]:
    """One-hot vector of the nearest of `days`."""
    known = torch.tensor(days, device=day.device)
    return F.one_hot((day[:, None] - known).abs().argmin(dim=1), len(days)).float()


def normalized(crops: Tensor) -> Float[Tensor, "B C S S"]:
    """Maps 8-bit values x to x / 256 - 0.5 (section 3.3.3)."""
    return crops.float() / 256 - 0.5


def perceptron(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Hidden layers with ReLU on flattened pixels. Without hidden layers the model is logistic regression (Eqs. 3.1, 3.2)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


class SmallNetwork(nn.Module):
    """Four convolutions with batch normalization, then mean and maximum over positions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = (width, 3 * width // 2, 3 * width, 4 * width)
        self.stem = _convolution(channels, widths[0], 5, stride=2)
        self.second = _convolution(widths[0], widths[1], 3)
        self.third = _convolution(widths[1], widths[2], 3)
        self.fourth = _convolution(widths[2], widths[3], 3)
        self.features = 2 * widths[3]

    def forward(self, crops: Float[Tensor, "B C S S"]) -> Float[Tensor, "B F"]:
        found = F.max_pool2d(self.second(self.stem(crops)), 2)
        found = self.fourth(F.max_pool2d(self.third(found), 2))
        return torch.cat([found.mean(dim=(2, 3)), found.amax(dim=(2, 3))], dim=1)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def statistics(crops: Float[Tensor, "B C S S"]) -> Float[Tensor, "B 10"]:
    """Statistics of brightness, contrast, texture, layout and color of crops in [-0.5, 0.5]."""
    gray = crops.mean(dim=1)
    flat = gray.flatten(1)
    ranks = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], device=crops.device)
    levels = torch.quantile(flat, ranks, dim=1).T
    size = gray.shape[1]
    middle = gray[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4].mean(dim=(1, 2))
    fine = (gray[:, 1:] - gray[:, :-1]).abs().mean(dim=(1, 2)) + (gray[:, :, 1:] - gray[:, :, :-1]).abs().mean(dim=(1, 2))
    tint = (crops.amax(dim=1) - crops.amin(dim=1)).mean(dim=(1, 2))
    columns = [flat.mean(1), flat.std(1), middle - flat.mean(1), torch.log(fine + 1e-3), tint]
    return torch.cat([levels, torch.stack(columns, dim=1)], dim=1)


def outlier_score(grader: Grader, crops: Float[Tensor, "B C S S"]) -> Float[Tensor, "B"]:
    """Squared Mahalanobis distance of the statistics from those of the training crops, relative to its 99.5 % quantile."""
    off = statistics(crops) - grader.known_mean
    return (off @ grader.known_inverse * off).sum(dim=1) / grader.known_limit
