"""Muon (Jordan et al. 2024) for convolution weights, Adam for everything else, as one optimizer.

torch.optim.Muon takes only matrices; here a convolution is the matrix (outputs, inputs * kernel). At the widths of our models
orthogonalization costs little, and short training runs reach a lower loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from latens.shapes import Float

MOMENTUM = 0.95
# Quintic Newton-Schulz coefficients of Jordan et al. 2024: fast growth of small singular values, all end in [0.7, 1.2].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 4


class MuonAdam(torch.optim.Optimizer):
    """Muon for convolution weights and Adam for all other parameters, as sorted by `groups`.

    The update of a matrix is scaled by 0.2 sqrt(max(rows, columns)), which gives it the root mean square of an Adam step
    (Liu et al. 2025).
    """

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        super().__init__(list(groups), {})

    @staticmethod
    def groups(
        parameters: Mapping[str, Tensor], transposed: frozenset[str], *, muon_lr: float, adam_lr: float, max_side: int
    ) -> list[dict[str, Any]]:
        """Parameter groups: weights whose matrix has a side of at most `max_side` for Muon, the rest for Adam.

        `parameters` maps names to parameters; `transposed` names those whose second dimension is the output. Larger matrices
        stay with Adam because the cost grows with the cube of the smaller side.
        """
        matrices = {name: p for name, p in parameters.items() if name.endswith(".weight") and _is_matrix(p, max_side)}
        others = [p for name, p in parameters.items() if name not in matrices]
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in matrices.items() if n not in transposed], "lr": muon_lr, "kind": "muon"},
            {"params": [p for n, p in matrices.items() if n in transposed], "lr": muon_lr, "kind": "muon-transposed"},
            {"params": others, "lr": adam_lr, "kind": "adam"},
        ]
        return [group for group in groups if group["params"]]

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
                state["step"] = torch.zeros((), device=parameter.device)
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        if not parameters:
            return
        adam(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [self.state[p]["mean"] for p in parameters],
            [self.state[p]["square"] for p in parameters],
            [],
            [self.state[p]["step"] for p in parameters],
            fused=True,  # one pass over many small tensors
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


def _is_matrix(parameter: Tensor, max_side: int) -> bool:
    return parameter.dim() == 4 and min(parameter.shape[0], parameter[0].numel()) <= max_side


def orthogonalized(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """An approximation of U V^T for matrix = U S V^T, by quintic Newton-Schulz steps.

    Every step multiplies X by a polynomial of X X^T, so the steps run on that small square matrix and X itself is multiplied
    once: half the work of the usual form for the long matrices of convolutions.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if tall else matrix) / (matrix.norm() + 1e-7)
    short = x.bfloat16()
    gram = (short @ short.mT).float()
    identity = torch.eye(len(gram), device=x.device)
    product: Tensor | None = None
    for iteration in range(ITERATIONS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor if product is None else factor @ product
        if iteration + 1 < ITERATIONS:
            gram = factor @ gram @ factor
    assert product is not None
    result: Tensor = (product.bfloat16() @ short).to(matrix.dtype)
    return result.mT if tall else result
