"""Muon (Jordan et al. 2024) for convolution weights, Adam for everything else, as one optimiser.

torch.optim.Muon takes matrices only; here a convolution is the matrix (outputs, inputs * kernel). Orthogonalising the update
costs little at our widths, and a short training run gets further with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOMENTUM = 0.95
# Quintic Newton-Schulz coefficients of Jordan et al. 2024: fast growth of small singular values, all end in [0.7, 1.2].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class MuonAdam(torch.optim.Optimizer):
    """Parameters with two or more dimensions that belong to a convolution or linear layer go to Muon, the rest to Adam.

    `parameters` maps names to parameters; `transposed` names those whose second dimension is the output. The update of a
    matrix is scaled by 0.2 sqrt(max(rows, columns)), which gives it the root mean square of an Adam step (Liu et al. 2025).
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], transposed: frozenset[str], *, muon_lr: float, adam_lr: float
    ) -> None:
        matrices = {name: p for name, p in parameters.items() if p.dim() == 4 and name.endswith(".weight")}
        others = [p for name, p in parameters.items() if name not in matrices]
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in matrices.items() if n not in transposed], "lr": muon_lr, "kind": "muon"},
            {"params": [p for n, p in matrices.items() if n in transposed], "lr": muon_lr, "kind": "muon-transposed"},
            {"params": others, "lr": adam_lr, "kind": "adam"},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["kind"] == "adam":
                self._adam(parameters, group["lr"])
            else:
                for parameter in parameters:
                    self._muon(parameter, group["lr"], transposed=group["kind"] == "muon-transposed")

    def _muon(self, parameter: Tensor, lr: float, *, transposed: bool) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        nesterov = gradient.lerp(momentum, MOMENTUM)
        arranged = nesterov.transpose(0, 1) if transposed else nesterov
        matrix = arranged.reshape(len(arranged), -1)
        update = orthogonalized(matrix).reshape(arranged.shape)
        update = update.transpose(0, 1) if transposed else update
        parameter.add_(update, alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)

    def _adam(self, parameters: list[Tensor], lr: float) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        if not parameters:
            return
        torch._fused_adam_(  # the functional form of torch.optim.Adam(fused=True): one pass over many small tensors
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [self.state[p]["mean"] for p in parameters],
            [self.state[p]["square"] for p in parameters],
            [],
            self._advance(parameters),
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def _advance(self, parameters: list[Tensor]) -> list[Tensor]:
        steps: list[Tensor] = [self.state[p]["step"] for p in parameters]
        for step in steps:
            step.add_(1)
        return steps


def orthogonalized(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """An approximation of U V^T for matrix = U S V^T, by five quintic Newton-Schulz steps in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)
