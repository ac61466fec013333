"""Models: parameters of the thesis, log-densities against brute force, certificates, freezing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.autograd.functional import jacobian

from latens.codes.bijector import ActNorm, Affine, Logit, Whitening
from latens.codes.logdet import Exact, Series
from latens.systems.flow.config import (
    CouplingBlocks,
    DenseBlocks,
    DensityFlow,
    ImageFlow,
    LikelihoodConfig,
    ResidualBlocks,
    VectorFlow,
    WideBlocks,
)
from latens.systems.flow.model import Flow, enlargement, truncation
from latens.systems.flow.objective import after_update

SMALL = ImageFlow(size=8, scales=(1, 1, 1), block=DenseBlocks(growth=6, depth=2), tail=1, tail_width=4, tail_growth=4)

LARGEST = 0.98**3 + 1e-6  # of two dense layers and the last: each at most 0.98


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


LIP = DenseBlocks(growth=124, activation="lipswish")
PARAMETERS: list[tuple[str, DensityFlow, float, float]] = [  # name, sizes, millions, tolerance
    ("small i-DenseNet", ImageFlow(), 8.70, 0.005),
    ("with LipSwish (Table B.1 swaps its growths)", ImageFlow(block=LIP), 8.76, 0.005),
    ("depth 2", ImageFlow(block=DenseBlocks(growth=318, depth=2)), 8.76, 0.005),
    ("depth 4", ImageFlow(block=DenseBlocks(growth=122, depth=4)), 8.72, 0.005),
    ("depth 5", ImageFlow(block=DenseBlocks(growth=92, depth=5)), 8.84, 0.005),
    ("small Residual Flow", ImageFlow(block=ResidualBlocks()), 8.73, 0.005),
    ("with CLipSwish", ImageFlow(block=ResidualBlocks(width=652, activation="clipswish")), 8.72, 0.005),
    ("full i-DenseNet", ImageFlow(scales=(16,) * 3, block=DenseBlocks(growth=172)), 24.89, 0.005),
    ("full Residual Flow", ImageFlow(scales=(16,) * 3, block=ResidualBlocks()), 25.17, 0.005),
    ("MNIST at 32 x 32", ImageFlow(channels=1, block=replace(LIP, growth=108)), 5.02, 0.005),
    ("MNIST, Residual Flow", ImageFlow(channels=1, block=ResidualBlocks()), 5.06, 0.005),
    ("toy", VectorFlow(columns=2), 0.01023, 5e-6),
    ("toy, CLipSwish", VectorFlow(columns=2, block=DenseBlocks(growth=16)), 0.00567, 5e-6),
    ("toy, Residual Flow", VectorFlow(columns=2, block=ResidualBlocks(width=128)), 0.502, 5e-4),
]


@pytest.mark.parametrize(
    ("name", "config", "millions", "tolerance"), PARAMETERS, ids=lambda case: case if isinstance(case, str) else ""
)
def test_parameters_are_those_of_the_thesis(name: str, config: DensityFlow, millions: float, tolerance: float) -> None:
    """Table 4.4.1, section 4.5.2, appendix B.2; without the two numbers a toy block of the released code that it never uses."""
    with torch.device("meta"):
        model = Flow(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=tolerance)


def test_parameters_of_the_widened_flow() -> None:
    """Table B.4 names 19.1 million; without activation normalization 19.117."""
    with torch.device("meta"):
        model = Flow(ImageFlow(block=WideBlocks()))
    counted = sum(p.numel() for name, p in model.named_parameters() if not name.endswith(("shift", "log_scale")))
    assert counted / 1e6 == pytest.approx(19.117, abs=5e-4)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, block=ResidualBlocks(width=6, tail_width=4), scales=(2, 1, 1)),
        replace(SMALL, size=4, scales=(1,), block=WideBlocks(growth=3, depth=2)),
        replace(SMALL, whiten=True),
        replace(SMALL, size=4, scales=(1, 1), channels=1, input="standardize"),
        replace(SMALL, block=CouplingBlocks(width=5, mixing=True, tail_width=4), scales=(2, 2, 1)),
        VectorFlow(columns=2, blocks=3, normalize=True),
        VectorFlow(columns=1, blocks=2),
        VectorFlow(columns=5, blocks=2, block=ResidualBlocks(width=6)),
    ],
    ids=lambda config: f"{config.kind} {config.block.kind}",
)
def test_log_densities_are_those_of_the_whole_jacobian(config: DensityFlow, double: None) -> None:
    """A three-scale net on 3 x 8 x 8 pixels: 192 dimensions, to 1e-8; the inverse to 1e-9."""
    model = Flow(config)
    shape = (config.columns,) if isinstance(config, VectorFlow) else (config.channels, config.size, config.size)
    batch = torch.rand(6, *shape)
    if isinstance(config, VectorFlow):
        first = model.steps[0]
        assert isinstance(first, Affine)
        first.out = torch.float64
    model.train()
    model(batch, Series(3))  # sets the normalization
    model.power_iterations(50)
    model.eval()
    x = batch[:1]
    coded = model(x, Exact())
    matrix = jacobian(lambda v: model(v, Exact()).latent[0], x).reshape(model.dims, -1)
    log_prior = -0.5 * (coded.latent.square() + math.log(2 * math.pi)).sum()
    expected = float(log_prior.detach()) + float(torch.linalg.slogdet(matrix).logabsdet)
    assert float(coded.log_prob.detach()) == pytest.approx(expected, abs=1e-8)
    torch.testing.assert_close(model.inverse(coded.latent.detach(), error=1e-13), x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("step", [Logit(0.05), ActNorm(5), Whitening(5)], ids=lambda step: type(step).__name__)
def test_enlargement_bounds_the_error_of_the_inverse(step: Logit | ActNorm | Whitening, double: None) -> None:
    step.double().train()
    y = step(torch.rand(200, 5, 2, 2), Exact()).value.detach()
    if isinstance(step, Logit):
        y[0] = 0.0  # the middle, where it is steepest
    error = 1e-6 * torch.randn_like(y)
    grown = (step.inverse(y + error) - step.inverse(y)).norm(dim=1) / error.norm(dim=1)
    assert 0.5 * enlargement(step) < float(grown.detach().max()) <= enlargement(step) * (1 + 1e-6)


def test_the_truncation_error_is_within_its_bound(double: None) -> None:
    """Averaged over probes until their noise is below the bound."""
    model = Flow(replace(SMALL, size=4, scales=(1,), tail=0)).train()
    x = torch.rand(1, 3, 4, 4)
    model(torch.rand(8, 3, 4, 4), Series(2))
    frozen = model.freeze()
    exact = float(frozen(x, Exact()).log_prob.detach())
    rows = x.expand(500, -1, -1, -1)
    coded = frozen(rows, Series(2, probes=4))
    error = abs(float(coded.log_prob.detach().mean()) - exact)
    noise = float(coded.log_prob.detach().std()) / 500**0.5
    bound = float(truncation(coded, 2, frozen.certify()).detach().mean())
    assert error <= bound + 4 * noise
    assert noise < bound


def test_every_block_is_certified_after_training_from_scratch() -> None:
    """200 steps at a large rate: certified blocks are below 1; the power iterations alone exceed their target."""
    torch.manual_seed(0)
    sizes = replace(SMALL, scales=(1, 1))
    model = Flow(sizes).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    update = after_update(LikelihoodConfig(), 200)
    worst = 0.0
    for step in range(200):
        optimizer.zero_grad()
        (-model(torch.rand(4, 3, 8, 8).pow(2), Series(2)).log_prob.mean() / 192).backward()
        optimizer.step()
        update(model, step)
        if step % 50 == 49:
            frozen = model.freeze()
            assert all(one.lipschitz < LARGEST for one in frozen.certify())
            worst = max(worst, *(one.lipschitz for one in model.certify()))
    assert worst > LARGEST
    frozen = model.freeze()
    again = Flow(sizes, frozen=True)
    again.load_state_dict(frozen.state_dict())
    assert [one.lipschitz for one in again.certify()] == [one.lipschitz for one in frozen.certify()]
    assert len(frozen.certify()) == 3


def test_concatenations_stay_equal_in_the_first_part_of_a_run() -> None:
    model, update = Flow(SMALL), after_update(LikelihoodConfig(equal_share=0.5), 10)
    for step, kept in ((4, True), (5, False)):
        eta = model.steps[2].branch.stages[0].mix.eta  # type: ignore[union-attr,index]
        eta.data[0] = 2.0
        update(model, step)
        assert (float(eta.detach()[0]) == 1.0) == kept


def test_the_lipschitz_budget_is_reached_but_not_exceeded() -> None:
    spending = replace(SMALL, block=DenseBlocks(growth=6, depth=2, budget=0.97))
    model = Flow(spending)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    bounds = [one.lipschitz for one in model.freeze().certify()]
    assert max(bounds) < 0.9701
    assert min(bounds) > 0.9
