"""Adam against torch.optim.Adam, with rates that change."""

from __future__ import annotations

import torch

from latens.codes.adam import Adam


def test_updates_equal_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]
    ours, theirs = ([part.clone().requires_grad_() for part in start] for _ in range(2))
    adam = Adam(ours)
    oracle = torch.optim.Adam([{"params": [part]} for part in theirs])
    for step in range(20):
        rates = [0.1 / (step + 1), 0.03 * (step + 1)]
        for parts in (ours, theirs):
            loss = (parts[0] - 1).pow(4).sum() + parts[1].sin().sum()
            loss.backward()
        adam.step(rates)
        for group, rate in zip(oracle.param_groups, rates, strict=True):
            group["lr"] = rate
        oracle.step()
        oracle.zero_grad()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert all(part.grad is None for part in ours)
