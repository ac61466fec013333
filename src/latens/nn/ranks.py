"""Training batches that are spread over several processes (ranks): sums and gathers with gradients, batch normalization.

Inside `sharing_batches`, these functions make a loss that is not a mean over the images of a batch (normalization statistics,
contrastive terms, MMD, moving codebooks, image histories) equal to that of one process with the whole batch. Elsewhere, and in
one process, each returns what it is given: validation runs on the first process only and must not wait for the others.

The training loop averages gradients over the processes. A loss that every process computes from gathered tensors therefore has
the gradient of one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_sharing = False


@contextmanager
def sharing_batches() -> Iterator[None]:
    """Context of a training step, in which all processes make the same calls in the same order."""
    global _sharing
    before, _sharing = _sharing, True
    try:
        yield
    finally:
        _sharing = before


def processes() -> int:
    """Number of processes that share the current batch; 1 outside `sharing_batches`."""
    return dist.get_world_size() if _sharing and dist.is_available() and dist.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """Sum of a tensor over the processes, with gradients of any order."""
    return _AllSum.apply(x) if processes() > 1 else x


def all_rows(x: Tensor) -> Tensor:
    """The rows (B, ...) of all processes in the order of their ranks, (processes * B, ...), with gradients.

    All processes have equally many rows.
    """
    count = processes()
    if count == 1:
        return x
    whole = x.new_zeros(count, *x.shape)
    whole[dist.get_rank()] = x  # other parts are zero: their sum is the gathered batch
    return all_sum(whole).flatten(0, 1)


def own_rows(whole: Tensor) -> Tensor:
    """The rows of this process among those of `all_rows`."""
    count = processes()
    return whole if count == 1 else whole.chunk(count)[dist.get_rank()]


def share_of_mean(total: Tensor, weight: Tensor | float, least: float = 1.0) -> Tensor:
    """`total / weight`, with the mean weight of all processes.

    Its mean over the processes is the sum of all totals divided by that of all weights (but at least `least`), as in one
    process with the whole batch.
    """
    weights = all_sum(torch.as_tensor(weight, dtype=torch.float32, device=total.device).detach())
    return total * processes() / weights.clamp(min=least)


def common_generator(device: torch.device) -> torch.Generator | None:
    """A random generator in the same state on all processes; None, torch's global one, in one process."""
    if processes() == 1:
        return None
    seed = torch.randint(2**62, (), dtype=torch.int64, device=device)
    dist.broadcast(seed, 0)
    return torch.Generator(device).manual_seed(int(seed))


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_sum(gradients[0])


# ------------------------------------------------------------------------------------------------- batch normalization


class _AcrossRanks(_BatchNorm):
    """Batch normalization whose statistics in training are those of the batches of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or processes() == 1:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        over = (1, -1, *(1,) * (x.ndim - 2))
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            sums = all_sum(torch.cat([values.sum(dims), values.new_tensor([x.numel() / x.shape[1]])]))
            count = sums[-1].detach()
            mean = sums[:-1] / count
            centered = values - mean.view(over)
            variance = all_sum(centered.square().sum(dims)) / count
            self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
            scale = torch.rsqrt(variance + self.eps)
            found = centered * (scale * self.weight).view(over) + self.bias.view(over)
        return found.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class BatchNorm1d(_AcrossRanks, nn.BatchNorm1d):
    pass


class BatchNorm2d(_AcrossRanks, nn.BatchNorm2d):
    pass


def normalize_across_ranks(model: nn.Module) -> None:
    """Let the batch normalizations of a model use the statistics of all processes; weights and their names stay."""
    kinds: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm1d: BatchNorm1d, nn.BatchNorm2d: BatchNorm2d}
    for part in model.modules():
        if type(part) in kinds:
            part.__class__ = kinds[type(part)]
