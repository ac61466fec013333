"""The head of classifiers on top of maps of features."""

from __future__ import annotations

from torch import nn

MOST_CELLS = 8  # a side of the map a classifier sees; larger maps are averaged down to it
HIDDEN = 512  # units of the classifier's hidden layer (004, section 4)


def classifier(channels: int, side: int, classes: int) -> nn.Sequential:
    """The classifier of the probes, (B, C, side, side) to (B, classes): dropout, a hidden layer of 512 (004, section 4)."""
    cells = min(side, MOST_CELLS)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(cells) if side > cells else nn.Identity(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(channels * cells**2, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Linear(HIDDEN, classes),
    )
