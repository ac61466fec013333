"""The saved weights are those with the lowest validation loss; nothing else is compared."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from latens.training.config import Adam
from latens.training.log import RunLog
from latens.training.loop import Loop, averaged
from latens.training.optim import rate_factor


def test_the_best_weights_are_chosen_by_the_validation_loss() -> None:
    """Lower values of other measures, such as one of test images, change no choice; equal losses keep the earlier weights."""
    numbers = iter(
        [
            {"loss": 3.0, "test_loss": 2.0, "accuracy": 0.2},
            {"loss": 2.0, "test_loss": 2.5, "accuracy": 0.4},
            {"loss": 2.5, "test_loss": 0.1, "accuracy": 0.9},
            {"loss": 2.0, "test_loss": 0.0, "accuracy": 1.0},
            {"loss": 1.5, "test_loss": 9.0, "accuracy": 0.0},
        ]
    )
    saved: list[int] = []

    class Log(RunLog):
        def __init__(self) -> None:
            pass

        def save_best(self, config: Any, export: Any, scores: dict[str, float]) -> None:
            saved.append(int(scores["step"]))

        def validation(self, step: int, values: Any, images: Any, *, best: bool) -> None:
            assert best == (step in saved)

    objective = SimpleNamespace(validate=lambda *_: next(numbers), export=lambda *_: None, images=lambda *_: {})
    run = SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True, device="cpu"),
        candidate=nn.Identity,
        data=SimpleNamespace(validation=list),
        objective=objective,
        best=math.inf,
        config=None,
        step=0,
    )
    for step in range(1, 6):
        run.step = step
        Loop.validate(run, Log())  # type: ignore[arg-type]
    assert saved == [1, 2, 5]


def test_the_schedule_and_the_average() -> None:
    """Warm-up over 4 of 100 steps, decay over the last 25; weights are averaged with a decay that starts small."""
    config = Adam(warmup=4, decay_share=0.25)
    assert [rate_factor(step, 100, config) for step in (0, 3, 50, 75, 90, 99)] == pytest.approx([0.25, 1, 1, 1, 0.4, 0.04])
    layer = nn.Linear(1, 1, bias=False)
    average = averaged(layer, 0.5)
    assert average is not None
    values = []
    for value in (1.0, 2.0, 4.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update_parameters(layer)
        values.append(float(average.module.weight.detach()))  # type: ignore[operator]
    second = 1 + (1 - 2 / 11) * 1
    assert values == pytest.approx([1.0, second, second + (1 - 3 / 12) * (4 - second)])
    assert averaged(layer, 0.0) is None
