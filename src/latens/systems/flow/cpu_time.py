"""Training of rows for equal CPU time: the steps that fit into it, from the time of a few steps.

A schedule needs its number of steps in advance, so a row is not stopped by a clock: some steps are timed (CPU time of the
process, which other processes hardly disturb), and the row trains for as many as fit. What it took is measured, too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latens.systems.flow.recipes import FlowTraining
from latens.training.objective import Trainable

WARM, TIMED = 3, 24  # steps that are left out, and those that are timed
LONG = 10**6
FEWEST = 8  # steps of a row


def step_seconds(build: Callable[[Any, Any], Trainable], config: FlowTraining, sources: Any, device: str) -> float:
    """Mean CPU seconds of a training step; the same batches and numbers of terms for every configuration of one seed."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from latens.training.loop import Loop

    config = with_steps(config, LONG)  # the schedule must not end
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=config.run.precision, cpu=device == "cpu")
    parts = build(config, sources)
    with tempfile.TemporaryDirectory() as spare:
        loop = Loop(config, parts, Path(spare), accelerator)
        taken = []
        for step in range(WARM + TIMED):
            started = time.process_time()
            loop.train_step(parts.data.batch(step, 0))
            loop.step += 1
            taken.append(time.process_time() - started)
    return float(np.mean(taken[WARM:]))


def with_steps(config: FlowTraining, steps: int) -> FlowTraining:
    """The configuration with another number of steps and four validations."""
    return replace(config, run=replace(config.run, steps=steps, validate_every=max(steps // 4, 1)))


def steps_within(minutes: float, seconds: float) -> int:
    """Steps that fit into CPU minutes, rounded down to a multiple of four, so that the last step is validated."""
    return max(int(60 * minutes / seconds) // 4 * 4, FEWEST)
