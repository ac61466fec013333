"""The classifier of seedlings for ONNX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latens.inference.onnx import Graph
from latens.shapes import Int, UInt8
from latens.systems.seedlings.model import Grader, normalized
from latens.systems.seedlings.predict import SeedlingGrader

PLANTS = (3, 8, 1)  # numbers of crops in the examples


class Classifier(nn.Module):
    """Logits of crops."""

    def __init__(self, network: Grader) -> None:
        super().__init__()
        self.network = network.float()

    def forward(self, crops: UInt8[Tensor, "B S S C"], day: Int[Tensor, "B"]) -> tuple[Tensor, ...]:
        """Logits of the classes (B, K), and of emergence (B, 2) if the model has this head."""
        found = self.network(normalized(crops.permute(0, 3, 1, 2)), day)
        return (found.classes,) if found.seen is None else (found.classes, found.seen)


def graphs(grader: SeedlingGrader) -> list[Graph]:
    """The classifier of crops, without calibration."""
    size, channels = grader.settings.size, grader.settings.channels
    seeded, days = torch.Generator().manual_seed(0), grader.network.days or (-1,)
    examples = [
        (
            torch.randint(0, 256, (count, size, size, channels), dtype=torch.uint8, generator=seeded),
            torch.full((count,), days[0], dtype=torch.int64),
        )
        for count in PLANTS
    ]
    with torch.no_grad():
        found = Classifier(grader.network)(*examples[0])
    about = (
        f"Crops of {size} x {size} pixels, 0 to 255, and their day ({', '.join(map(str, days))}), to logits of "
        f"{', '.join(grader.classes)} at the training priors, and of emergence if the model predicts it."
    )
    free = ({0: ("plants", 1)}, {0: ("plants", 1)})
    outputs = ("classes", "seen")[: len(found)]
    return [Graph("classifier", about, Classifier(grader.network), ("crops", "day"), outputs, free, examples)]
