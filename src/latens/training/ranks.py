"""Agreement of the processes (ranks) of one training run. In one process every function returns at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from latens.errors import UsageError

BUCKET = 2**24  # largest number of gradient values in one message


def same_start(accelerator: Accelerator, model: nn.Module, step: int, folder: Path) -> None:
    """Give all ranks the weights of the first. Raises UsageError if they start from different steps."""
    if accelerator.num_processes == 1:
        return
    steps = gather_object([step])
    if len(set(steps)) > 1:
        hint = "all machines must see the same run folder, on a shared file system"
        raise UsageError(f"the processes would continue from different steps: {steps}", where=str(folder), hint=hint)
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)


def average_gradients(accelerator: Accelerator, parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over the ranks. A missing one counts as zero, unless no rank has it."""
    if accelerator.num_processes == 1 or not parameters:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=accelerator.device)
    dist.all_reduce(present)
    used = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for bucket in buckets(used):
        flat = torch.cat([p.grad.flatten() for p in bucket if p.grad is not None])
        dist.all_reduce(flat)
        flat /= accelerator.num_processes
        for p, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
            assert p.grad is not None
            p.grad.copy_(part.view_as(p.grad))


def buckets(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Runs of parameters of one type, of at most BUCKET values each unless one parameter alone has more."""
    made: list[list[Tensor]] = []
    filled = 0
    for p in parameters:
        if not made or filled + p.numel() > BUCKET or made[-1][0].dtype != p.dtype:
            made.append([])
            filled = 0
        made[-1].append(p)
        filled += p.numel()
    return made


def agree(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """For every flag, whether it is set on any rank."""
    if accelerator.num_processes == 1:
        return list(flags)
    sums = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    dist.all_reduce(sums)
    return [bool(total) for total in sums.tolist()]


def mean_numbers(accelerator: Accelerator, numbers: Mapping[str, Any]) -> dict[str, float]:
    """The numbers to log as floats, each averaged over the ranks that have it."""
    own = {name: float(value) for name, value in numbers.items()}
    if accelerator.num_processes == 1:
        return own
    every: list[dict[str, float]] = gather_object([own])
    found = {name: [each[name] for each in every if name in each] for name in dict.fromkeys(n for each in every for n in each)}
    return {name: sum(values) / len(values) for name, values in found.items()}
