"""Lower bound whose gradient lets a parameter return from below the bound."""

from __future__ import annotations

import torch
from torch import Tensor

from latens.shapes import Float


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        (grad,) = grads
        # Below the bound only gradients that raise x pass; with a plain clamp, x could never return.
        passes = (x >= ctx.bound) | (grad < 0)  # type: ignore[attr-defined]
        return grad * passes, None


def lower_bound(x: Float[Tensor, "..."], bound: float) -> Float[Tensor, "..."]:
    """max(x, bound). Below the bound the gradient passes only where gradient descent raises x (Balle et al. 2018)."""
    return _LowerBound.apply(x, bound)  # type: ignore[no-any-return]
