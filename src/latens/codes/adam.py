"""Adam (Kingma and Ba 2015) for a few tensors with learning rates of their own.

The optimizers of torch.optim import torch._dynamo, which takes 1 to 2 s of CPU time; the function that they call does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Updates tensors by their gradients and clears the gradients."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.states = [(each, torch.zeros_like(each), torch.zeros_like(each), torch.zeros(())) for each in tensors]

    @torch.no_grad()
    def step(self, rates: Sequence[float]) -> None:
        for (tensor, mean, square, count), rate in zip(self.states, rates, strict=True):
            assert tensor.grad is not None
            adam(
                [tensor], [tensor.grad], [mean], [square], [], [count],
                fused=True, amsgrad=False, maximize=False,
                lr=rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
            )  # fmt: skip
            tensor.grad = None
