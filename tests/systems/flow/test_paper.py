"""Perugachi-Diaz 2024, chapter 4: a total of every loss by hand, and the constants of the models and of training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.paper_values import OURS, flat, typed
from torch import Tensor, nn

from latens.codes import bijector, logdet
from latens.codes.bijector import ActNorm, Logit
from latens.codes.logdet import Roulette, Series, estimated
from latens.nn import lipschitz, lipswish
from latens.systems.flow import model as flow_model
from latens.systems.flow.config import (
    DenseBlocks,
    ImageFlow,
    LikelihoodConfig,
    PointsConfig,
    ResidualBlocks,
    VectorFlow,
    WideBlocks,
)
from latens.systems.flow.model import Coded, Flow
from latens.systems.flow.objective import Likelihood, after_update, training_estimate
from latens.systems.flow.recipes import FlowTraining, hybrid, paper, toy

# ------------------------------------------------------------------------------------------------------------ totals

DIMS = 12  # of images of 2 x 2 pixels
NATS = [10.0, -14.0]  # log-densities of two inputs
BITS = (DIMS * math.log(256) - (NATS[0] + NATS[1]) / 2) / (DIMS * math.log(2))  # per dimension of 8-bit values
ENTROPY = (math.log(4 / 3) + math.log(4)) / 2 / math.log(2)  # bits: probabilities 3/4 and 1/4 of the true classes


class FixedFlow(nn.Module):
    """Known log-densities and, with classes, logits; records the inputs."""

    def __init__(self, classes: bool = False) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor, estimate: Any) -> Coded:
        self.seen = x
        logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]]) if self.classes else None
        return Coded(x.flatten(1), torch.tensor(NATS), logits, [])


def loss_of(config: LikelihoodConfig, model: FixedFlow, sizes: Any, batch: dict[str, Tensor]) -> float:
    (step,) = Likelihood(config, sizes, {})(model, batch, 0)
    return float(step.loss)


PIXELS = {"pixels": torch.full((2, 3, 2, 2), 128, dtype=torch.uint8), "label": torch.tensor([0, 1])}


def test_the_total_of_a_density() -> None:
    """Bits per dimension of dequantized 8-bit values (v + u) / 256."""
    config, model = paper(), FixedFlow()
    assert loss_of(config.objective, model, config.model, PIXELS) == pytest.approx(BITS, rel=1e-5)
    assert 128 / 256 <= float(model.seen.min()) < float(model.seen.max()) < 129 / 256


@pytest.mark.parametrize(("weight", "expected"), [(1.0, BITS + ENTROPY / DIMS), ("1/D", BITS + ENTROPY), (0.0, ENTROPY)])
def test_the_total_of_a_hybrid(weight: Any, expected: float) -> None:
    """Section 4.4.4: log p(y|x) + lambda log p(x) for lambda 1, 1/D and 0; for lambda 1 divided by D, in bits."""
    config = LikelihoodConfig(generative_weight=weight)
    assert loss_of(config, FixedFlow(classes=True), ImageFlow(classes=2), PIXELS) == pytest.approx(expected, rel=1e-5)


def test_the_total_of_rows() -> None:
    rows = {"rows": torch.zeros(2, 3)}
    assert loss_of(toy().objective, FixedFlow(), VectorFlow(columns=3), rows) == pytest.approx(2.0)


def test_the_terms_of_a_small_flow() -> None:
    """log p(x) = log N(z) + the log-determinants: logit, activation normalization, and the power series (Eq. 4.2.3)."""
    x = torch.tensor([[[[0.25]]]], dtype=torch.float64)
    squeezed = 0.05 + 0.9 * 0.25
    found = Logit(0.05).forward(x, logdet.Exact())
    assert float(found.value) == pytest.approx(math.log(squeezed / (1 - squeezed)))
    assert float(found.log_det) == pytest.approx(math.log(0.9) - math.log(squeezed) - math.log(1 - squeezed))
    norm = ActNorm(1).eval()
    with torch.no_grad():
        norm.log_scale.fill_(0.5)
        norm.shift.fill_(2.0)
    found = norm.forward(x.expand(1, 1, 2, 3), logdet.Exact())
    assert (float(found.log_det.detach()), float(found.value.detach().mean())) == pytest.approx((6 * 0.5, 2.25 * math.exp(0.5)))
    j, probe = 0.5, torch.tensor([[1.0]])
    series = estimated(j * probe, probe, [1.0, 1.0, 1.0], lambda w: j * w)
    assert float(series.value) == pytest.approx(j - j**2 / 2 + j**3 / 3)
    roulette = Roulette(rate=2.0, exact=2)
    poisson = [math.exp(-2) * 2**n / math.factorial(n) for n in range(3)]
    assert roulette.weights(2) == pytest.approx([1, 1, 1 / (1 - poisson[0]), 1 / (1 - poisson[0] - poisson[1])])


def test_the_estimator_of_training() -> None:
    found = training_estimate(paper().objective)
    assert isinstance(found, Roulette)
    assert (found.distribution, found.rate, found.exact, found.probes) == ("poisson", 2.0, 2, 1)  # Chen et al. 2019
    assert isinstance(training_estimate(toy().objective), logdet.Exact)
    assert logdet.weights_of(Series(3)) == [1, 1, 1]


def test_concatenation_weights_are_equal_in_the_first_25_epochs() -> None:
    """Section 4.5: of 1000 epochs, 25; then they are learned."""
    calls: list[str] = []

    class Recorded(Flow):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def equal_concatenations(self) -> None:
            calls.append("equal")

        def power_iterations(self, count: int) -> None:
            calls.append(f"{count}")

    update = after_update(paper().objective, 1000)
    for step in (24, 25):
        update(Recorded(), step)
    assert calls == ["equal", "1", "1"]


# ---------------------------------------------------------------------------------------------------------- constants

PAPER = {
    "system": ("flow", "this system"),
    "recipe": ("paper", "this recipe"),
    "model.kind": ("image", "section 4.4.3"),
    "model.channels": (3, "appendix B.2: CIFAR10"),
    "model.size": (32, "appendix B.2"),
    "model.scales": ((16, 16, 16), "Table B.1"),
    "model.block.kind": ("dense", "section 4.3"),
    "model.block.growth": (172, "Table B.1"),
    "model.block.depth": (3, "Table B.1"),
    "model.block.activation": ("clipswish", "Table B.1"),
    "model.block.learned": (True, "section 4.4.3: LC"),
    "model.block.budget": (0.0, OURS),
    "model.tail": (4, "appendix B.2: four fully connected blocks"),
    "model.tail_width": (64, "appendix B.2: linear layer to 64"),
    "model.tail_growth": (32, "appendix B.2: growth of 32"),
    "model.coefficient": (0.98, "appendix B.2"),
    "model.mixing": (0.98, "section 4.4.2"),
    "model.input": ("logit", "appendix B.2"),
    "model.whiten": (False, OURS),
    "model.alpha": (0.05, "Chen et al. 2019"),
    "model.classes": (0, "section 4.4.3"),
    "model.head_width": (256, "Chen et al. 2019"),
    "data.kind": ("images", "section 4.4.3"),
    "data.batch": (64, "appendix B.2"),
    "data.flip": (True, "Chen et al. 2019"),
    "data.pad": (0, OURS),
    "data.limit": (0, OURS),
    "data.validation_share": (0.05, OURS),
    "data.validation_limit": (256, OURS),
    "objective.log_det": ("poisson", "Chen et al. 2019"),
    "objective.rate": (2.0, "Chen et al. 2019"),
    "objective.exact_terms": (2, "Chen et al. 2019"),
    "objective.probes": (1, "Chen et al. 2019"),
    "objective.validation_terms": (20, "appendix B.2: at least 20 terms"),
    "objective.generative_weight": (1.0, "section 4.4.3"),
    "objective.equal_share": (0.025, "section 4.5.3: learned after 25 epochs"),
    "objective.power_iterations": (1, OURS),
    "objective.recompute": (False, OURS),
    "optim.lr": (1e-3, "appendix B.2"),
    "optim.warmup": (1000, OURS),
    "optim.decay_share": (0.0, OURS),
    "optim.clip": (1.0, "Chen et al. 2019"),
    "optim.ema": (0.999, "Chen et al. 2019"),
    "optim.kind": ("adam", "appendix B.2"),
    "optim.beta1": (0.9, OURS),
    "run.steps": (781_000, "section 4.4: 1000 epochs of 781 batches"),
    "run.seed": (0, OURS),
    "run.precision": ("no", OURS),
    "run.log_every": (100, OURS),
    "run.validate_every": (7810, OURS),
    "run.checkpoint_every": (3905, OURS),
    "run.keep": (2, OURS),
}


def test_every_value_of_the_recipe() -> None:
    assert flat(paper()) == typed(PAPER)


def test_constants_of_the_modules() -> None:
    assert (lipswish.SWISH_BOUND, lipswish.CLIPSWISH_BOUND) == (1.1, 1.004)  # Chen et al. 2019; section 4.3.3
    assert lipschitz.ETA_FLOOR == 0.1  # released code
    assert (bijector.VARIANCE_FLOOR, bijector.LEVELS) == (0.2, 256)  # Chen et al. 2019; 8-bit values
    assert flow_model.FIRST_ITERATIONS == 30  # ours
    assert DenseBlocks() == DenseBlocks(growth=178, depth=3, activation="clipswish", learned=True)  # section 4.5.3
    assert ResidualBlocks() == ResidualBlocks(width=512, activation="lipswish", tail_width=128, hidden=4)  # Chen et al. 2019
    assert WideBlocks() == WideBlocks(growth=124, depth=3, activation="lipswish")  # appendix B.4
    small = ImageFlow()
    assert (small.scales, small.coefficient, small.mixing) == ((4, 4, 4), 0.98, 0.98)  # section 4.4.2
    points = VectorFlow()
    assert (points.blocks, points.coefficient, points.mixing) == (10, 0.9, 0.98)  # section 4.4.1
    assert flat(points.block) == {
        "kind": "dense", "growth": 16, "depth": 3, "activation": "lipswish", "learned": True, "budget": 0.0,
    }  # fmt: skip
    assert (PointsConfig().batch, toy().run.steps) == (500, 12_000)  # Chen et al. 2019; ours (the thesis: 50,000)
    mixed: FlowTraining = hybrid()
    assert isinstance(mixed.model, ImageFlow)
    assert (mixed.objective.generative_weight, mixed.model.input, mixed.model.classes) == (
        "1/D",
        "standardize",
        10,
    )  # Table 4.4.5
