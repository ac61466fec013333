"""One training step of an i-DenseNet compared with a direct reimplementation of the authors' computation, at equal gradients.

The reimplementation follows the authors' code: it recomputes norms and normalized weights in every layer and pass, composes
activations and concatenations of single operations, evaluates the series by reverse-mode products and its gradient inside the
forward pass (images) or through the graph of the series (toy), and runs power iterations layer by layer. Weights, noise and
terms are the same.

    python benchmarks/flow_step.py image --batch 4
    python benchmarks/flow_step.py toy
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latens.codes.bijector import ResidualMap
from latens.codes.logdet import Exact, Series
from latens.nn.branch import Branch
from latens.nn.lipschitz import Spectral
from latens.systems.flow.config import DenseBlocks, ImageFlow, VectorFlow
from latens.systems.flow.model import Flow

TERMS = 4
REPEATS = 3


def normalized(layer: Spectral) -> Tensor:
    """The weight divided by max(1, sigma / c), with sigma from one application of the operator to its right singular vector."""
    v = layer.probe.view(1, -1, *(layer.size or ()))
    with torch.no_grad():
        u = layer.apply_to(v, layer.weight)
        u = u / u.norm()
    sigma = (u * layer.apply_to(v, layer.weight)).sum()
    return layer.weight / torch.clamp(sigma / layer.coefficient, min=1.0)


def plain(branch: Branch, x: Tensor) -> Tensor:
    """g(x), layer by layer."""
    h = x
    for stage in branch.ordered:
        f = stage.linear.apply_to(h, normalized(stage.linear), stage.linear.bias)
        if stage.activation is not None:
            beta = F.softplus(stage.activation.beta)
            both = torch.cat([f, -f], dim=1) if stage.activation.concatenated else f
            f = both * torch.sigmoid(both * beta) / 1.1
            f = f / 1.004 if stage.activation.concatenated else f
        if stage.mix is None:
            h = f
        else:
            raw = F.softplus(stage.mix.eta) + 0.1
            eta = raw / raw.norm()
            h = torch.cat([h * eta[0], f * eta[1]], dim=1) * stage.mix.factor
    return h


class InForward(torch.autograd.Function):
    """g, the Neumann series and its gradient inside the forward pass, without keeping the graph (Chen et al. 2019)."""

    @staticmethod
    def forward(ctx: Any, branch: Branch, x: Tensor, probe: Tensor, weights: Sequence[float], *parameters: Tensor) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            g = plain(branch, x)
            w = total = probe
            for k in range(1, len(weights)):
                (w,) = torch.autograd.grad(g, x, w, retain_graph=True)
                total = total + (1 if k % 2 == 0 else -1) * weights[k] * w
            (product,) = torch.autograd.grad(g, x, total, create_graph=True)
            log_det = (product * probe).flatten(1).sum(1)
            to_x, *to_parameters = torch.autograd.grad(log_det.sum(), (x, *parameters), retain_graph=True, allow_unused=True)
        ctx.save_for_backward(
            x,
            g,
            to_x,
            *parameters,
            *[t if t is not None else torch.zeros_like(p) for t, p in zip(to_parameters, parameters, strict=True)],
        )
        ctx.count = len(parameters)
        return g.detach().requires_grad_(), log_det.detach().requires_grad_()

    @staticmethod
    def backward(ctx: Any, to_g: Tensor, to_log_det: Tensor) -> Any:
        x, g, to_x, *rest = ctx.saved_tensors
        parameters, of_log_det = rest[: ctx.count], rest[ctx.count :]
        scale = to_log_det[0]
        with torch.enable_grad():
            grads = torch.autograd.grad(g, (x, *parameters), to_g, allow_unused=True)
        found = [scale * own + (0 if other is None else other) for own, other in zip([to_x, *of_log_det], grads, strict=True)]
        return None, found[0], None, None, *found[1:]


def through_graph(branch: Branch, x: Tensor, probe: Tensor, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The series with its graph, as in the authors' toy script."""
    x = x if x.requires_grad else x.requires_grad_()
    g = plain(branch, x)
    w, total = probe, x.new_zeros(len(x))
    for k, weight in enumerate(weights, start=1):
        (w,) = torch.autograd.grad(g, x, w, create_graph=True)
        total = total + (1 if k % 2 else -1) * weight / k * (w * probe).flatten(1).sum(1)
    return g, total


def recreated_loss(flow: Flow, x: Tensor, probes: Sequence[Tensor], *, toy: bool) -> Tensor:
    log_det: Any = 0.0
    left = list(probes)
    for step in flow.steps:
        if isinstance(step, ResidualMap):
            probe = left.pop(0)
            weights = [1.0] * TERMS
            if toy:
                g, found = through_graph(step.branch, x, probe, weights)
            else:
                g, found = InForward.apply(step.branch, x, probe, weights, *step.branch.parameters())
            x, log_det = x + g, log_det + found
        else:
            mapped = step(x, Exact())
            x, log_det = mapped.value, log_det + mapped.log_det
    z = x.flatten(1)
    loss: Tensor = -(-0.5 * z.square().sum(1) + log_det).mean() / z.shape[1]
    return loss


def recreated_iterations(flow: Flow, count: int) -> None:
    """Power iterations, layer by layer."""
    for layer in [part for part in flow.modules() if isinstance(part, Spectral)]:
        with torch.no_grad():
            v = layer.probe.view(1, -1, *(layer.size or ()))
            for _ in range(count):
                u = F.normalize(layer.apply_to(v, layer.weight).flatten(), dim=0).view(1, -1, *(layer.size or ()))
                v = F.normalize(layer.pull_back(u, layer.weight).flatten(), dim=0).view_as(v)
            layer.probe.copy_(v.flatten())


def our_loss(flow: Flow, x: Tensor, probes: Sequence[Tensor] | None) -> Tensor:
    if probes is None:
        exact: Tensor = -flow(x, Exact()).log_prob.mean() / flow.dims
        return exact
    left = list(probes)
    loss: Tensor = -flow(x, Series(TERMS, draw=lambda like, count: left.pop(0)[None])).log_prob.mean() / flow.dims
    return loss


def timed(act: Callable[[], object]) -> float:
    started = time.process_time()
    act()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["image", "toy"])
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--growth", type=int, default=178)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    toy = arguments.which == "toy"
    if toy:
        flow = Flow(VectorFlow(columns=2, block=DenseBlocks(growth=16)))
        x = torch.randn(arguments.batch or 500, 2)
    else:
        flow = Flow(ImageFlow(block=DenseBlocks(growth=arguments.growth)))
        x = torch.rand(arguments.batch or 4, 3, 32, 32)
    flow.train()
    with torch.no_grad():
        flow(x, Series(1))
    flow.power_iterations(20)
    x = x.double().float()
    probes = [torch.randint(0, 2, shape).float() * 2 - 1 for shape in shapes(flow, x)]
    ours = nn_gradients(flow, lambda: our_loss(flow, x, probes))
    theirs = nn_gradients(flow, lambda: recreated_loss(flow, x, probes, toy=False))
    difference = max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(ours, theirs, strict=True))
    print(f"largest relative difference of a parameter's gradient: {difference:.1e}")
    fast_flow = flow.to(memory_format=torch.channels_last)
    fast_x = x if toy else x.contiguous(memory_format=torch.channels_last)
    rows: dict[str, list[float]] = {"released, re-created": [], "ours": [], "their power iterations": [], "ours, batched": []}
    count = 5 if toy else 1
    for _ in range(REPEATS):
        rows["released, re-created"].append(timed(lambda: recreated_loss(flow, x, probes, toy=toy).backward()))
        rows["ours"].append(timed(lambda: our_loss(fast_flow, fast_x, None if toy else probes).backward()))
        rows["their power iterations"].append(timed(lambda: recreated_iterations(flow, count)))
        rows["ours, batched"].append(timed(lambda: flow.power_iterations(count)))
    for name, seconds in rows.items():
        print(f"{name:24} {1e3 * min(seconds):9.1f} ms CPU (best of {REPEATS})")
    them = min(rows["released, re-created"]) + min(rows["their power iterations"])
    us = min(rows["ours"]) + min(rows["ours, batched"])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"whole step: {them / us:.2f} times faster; peak memory {memory:.0f} MB")


def shapes(flow: Flow, x: Tensor) -> list[tuple[int, ...]]:
    """Input shapes of all residual maps."""
    found = []
    with torch.no_grad():
        for step in flow.steps:
            if isinstance(step, ResidualMap):
                found.append(tuple(x.shape))
                x = x + step.branch(x)
            else:
                x = step(x, Exact()).value
    return found


def nn_gradients(flow: nn.Module, loss: Callable[[], Tensor]) -> list[Tensor]:
    flow.zero_grad(set_to_none=True)
    loss().backward()
    return [p.grad.clone() for p in flow.parameters() if p.grad is not None]


if __name__ == "__main__":
    main()
