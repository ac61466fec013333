"""Adam (Kingma and Ba 2015) for a few tensors.

torch.optim imports torch._dynamo with its first optimizer. That import takes two seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FIRST, SECOND = 0.9, 0.999  # decay of the moments
EPS = 1e-8


class Adam:
    """Updates tensors by their gradients, each with its own learning rate, and clears the gradients."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in tensors]
        self.steps = 0

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> None:
        self.steps += 1
        bias, root = 1 - FIRST**self.steps, math.sqrt(1 - SECOND**self.steps)
        for tensor, (mean, square), rate in zip(self.tensors, self.moments, rates, strict=True):
            assert tensor.grad is not None
            mean.lerp_(tensor.grad, 1 - FIRST)
            square.mul_(SECOND).addcmul_(tensor.grad, tensor.grad, value=1 - SECOND)
            tensor.addcdiv_(mean, square.sqrt().div_(root).add_(EPS), value=-rate / bias)
            tensor.grad = None
