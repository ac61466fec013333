"""Training of table rows for equal CPU time: the number of steps follows from the CPU time of a few timed steps.

A learning-rate schedule needs its number of steps in advance, so a run cannot be stopped by a clock. CPU time of the process
depends little on other processes.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latens.systems.flow.recipes import FlowTraining
from latens.training.config import shortened
from latens.training.objective import Trainable

WARMUP_STEPS, TIMED_STEPS = 3, 24  # steps before the measurement, and measured steps
ENDLESS_STEPS = 10**6  # length of the schedule while steps are timed
MIN_STEPS = 8  # minimum number of steps of a row


def step_seconds(build: Callable[[Any, Any], Trainable], config: FlowTraining, sources: Any, device: str) -> float:
    """Mean CPU seconds of a training step. Configurations of one seed see the same batches and numbers of series terms."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from latens.training.loop import Loop

    config = with_steps(config, ENDLESS_STEPS, 1)  # the schedule must not end
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=config.run.precision, cpu=device == "cpu")
    parts = build(config, sources)
    with tempfile.TemporaryDirectory() as spare:
        loop = Loop(config, parts, Path(spare), accelerator)
        taken = []
        for step in range(WARMUP_STEPS + TIMED_STEPS):
            started = time.process_time()
            loop.train_step(parts.data.batch(step, 0))
            loop.step += 1
            taken.append(time.process_time() - started)
    return float(np.mean(taken[WARMUP_STEPS:]))


def with_steps(config: FlowTraining, steps: int, checks: int) -> FlowTraining:
    """The configuration with `steps` steps, `checks` validations, and a warm-up of at most a fifth of the steps."""
    run = replace(config.run, steps=steps, validate_every=max(steps // checks, 1))
    return replace(config, optim=shortened(config.optim, steps), run=run)


def steps_within(minutes: float, seconds: float, checks: int) -> int:
    """Number of steps within CPU minutes: a multiple of `checks`, so that validations are evenly spaced."""
    return checks * max(int(60 * minutes / seconds) // checks, math.ceil(MIN_STEPS / checks))
