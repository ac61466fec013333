"""Li et al. 2019: a total of every objective by hand, the constants of the paper, the protocol of Table 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.paper_values import OURS, flat, typed
from torch import Tensor, nn

from latens.systems.haze import artifacts, formation, objective, protocol, recipes
from latens.systems.haze.artifacts import TableScale, row_config
from latens.systems.haze.config import (
    DiscriminatorConfig,
    PatchLossConfig,
    PhysicalLossConfig,
    PriorConfig,
    TranslationLossConfig,
    TranslatorConfig,
)
from latens.systems.haze.formation import HazeParameters, draw_haze_parameters
from latens.systems.haze.layers import PerDomain
from latens.systems.haze.model import HazeTranslator, Translation
from latens.systems.haze.objective import PatchObjective, PhysicalObjective, TranslationObjective
from latens.systems.haze.physical import HazePrediction, SceneCode
from latens.systems.haze.protocol import Protocol, hazy_scene
from latens.systems.haze.scenes import Scene
from latens.training.optim import build_optimizers

SMALL = TranslatorConfig(channels=2, blocks=1, discriminator=DiscriminatorConfig(channels=2, scales=1, layers=1))

# ------------------------------------------------------------------------------------------------------------ totals


def plain(value: float, channels: int = 3) -> Tensor:
    """One image of 2 x 2 pixels of one value."""
    return torch.full((1, channels, 2, 2), value)


class Score(nn.Module):
    """A discriminator of one scale: the mean of the image."""

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image.mean((1, 2, 3), keepdim=True)]


class FixedTranslator(nn.Module):
    """A translator with given outputs for a hazy image of value 0 and a clear one of value 1/2 (in [-1, 1])."""

    pools = None

    def __init__(self, variational: bool = True) -> None:
        super().__init__()
        self.judges = PerDomain(Score(), Score())
        self.variational = variational

    def forward(self, hazy: Tensor, clear: Tensor) -> Translation:
        assert [float(hazy.mean()), float(clear.mean())] == [0, 0.5]
        codes = [plain(value, 2) for value in (1.0, 2.0, 3.0, 0.5)]
        return Translation(
            codes[0], codes[1], plain(0.1), plain(0.3), plain(0.7), plain(-0.2), codes[2], codes[3], plain(-0.3), plain(0.9)
        )

    def encode(self, image: Tensor, domain: str) -> Tensor:
        """Of the wrong domain, for CycleGAN's identity loss: 0.6 and -0.8 come out."""
        assert image.mean() == {"hazy": 0.5, "clear": 0.0}[domain]
        return image

    def decode(self, code: Tensor, domain: str) -> Tensor:
        return plain({"clear": 0.6, "hazy": -0.8}[domain])


BATCH = {"hazy": plain(0.5), "clear": plain(0.75)}
DISCRIMINATORS = (0 - 1) ** 2 + 0.2**2 + (0.5 - 1) ** 2 + 0.7**2  # least squares: real images 1, translations 0
ADVERSARIAL = (-0.2 - 1) ** 2 + (0.7 - 1) ** 2
RECONSTRUCTION, CYCLE = 0.1 + 0.2, 0.3 + 0.4
IDENTITY = 0.1 + 0.8


def totals(config: TranslationLossConfig, model: FixedTranslator | None = None) -> dict[str, float]:
    torch.manual_seed(4)
    steps = TranslationObjective(config)(model or FixedTranslator(), BATCH, 0)
    return {step.optimizer: float(step.loss) for step in steps}


def discrepancy(code: np.ndarray, prior: np.ndarray) -> float:
    """Eq. 8 with sigma^2 = 2 dimensions, sample by sample."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return math.exp(-float(((x - y) ** 2).sum()) / (2 * 2))

    m = len(code)
    pairs = [(i, j) for i in range(m) for j in range(m)]
    within = sum(kernel(z[i], z[j]) for z in (code, prior) for i, j in pairs if i != j) / (m * (m - 1))
    return within - 2 / m**2 * sum(kernel(code[i], prior[j]) for i, j in pairs)


def test_the_total_of_eq_13() -> None:
    """lambda_adv 1, lambda_recon 10, lambda_m 0.01; the discrepancies of all four codes from fresh samples of the prior."""
    config = recipes.paper().objective
    assert isinstance(config, TranslationLossConfig)
    found = totals(config)
    torch.manual_seed(4)  # samples of the prior have the memory order of the code, dimension by dimension
    gaps = [discrepancy(np.full((4, 2), value), torch.randn(2, 4).T.numpy()) for value in (1.0, 2.0, 3.0, 0.5)]
    expected = ADVERSARIAL + 10 * RECONSTRUCTION + 10 * CYCLE + 0.01 * sum(gaps)
    assert found["generators"] == pytest.approx(expected, rel=1e-5)
    assert found["discriminators"] == pytest.approx(DISCRIMINATORS, rel=1e-5)


def test_every_weight_of_eq_13() -> None:
    """Also with the first prior term twice, as Eqs. 9 to 12 are printed, and with squared errors."""
    prior = PriorConfig(kind="kl", weight=11, double_first_prior_term=True)
    config = TranslationLossConfig(
        adversarial_weight=3, reconstruction_weight=5, cycle_weight=7, identity_weight=13, distance="l2", prior=prior
    )
    found = totals(config)
    expected = 3 * ADVERSARIAL + 5 * (0.01 + 0.04) + 7 * (0.09 + 0.16) + 13 * (0.01 + 0.64)
    assert found["generators"] == pytest.approx(expected + 11 * (2 * (1 + 4) + 9 + 0.25), rel=1e-5)
    assert found["discriminators"] == pytest.approx(3 * DISCRIMINATORS, rel=1e-5)
    log = totals(TranslationLossConfig(adversarial="log", adversarial_weight=2, prior=PriorConfig(kind="none")))
    real = [math.log1p(math.exp(-value)) for value in (0.0, 0.5)]
    fake = [math.log1p(math.exp(value)) for value in (-0.2, 0.7)]
    assert log["discriminators"] == pytest.approx(2 * sum(real + fake), rel=1e-5)  # minus Eqs. 2 and 3


def test_the_total_of_unit() -> None:
    """Liu et al. 2017: the KL divergence replaces the MMD; every code counts once."""
    config = recipes.cpu_unit().objective
    assert isinstance(config, TranslationLossConfig)
    expected = ADVERSARIAL + 10 * RECONSTRUCTION + 10 * CYCLE + 0.01 * (1 + 4 + 9 + 0.25)
    assert totals(config)["generators"] == pytest.approx(expected, rel=1e-5)


def test_the_total_of_cyclegan() -> None:
    """Zhu et al. 2017: lambda 10 and half of it for the identity loss; no reconstruction, no prior."""
    config = recipes.cpu_cyclegan().objective
    assert isinstance(config, TranslationLossConfig)
    found = totals(config, FixedTranslator(variational=False))
    assert found["generators"] == pytest.approx(ADVERSARIAL + 10 * CYCLE + 5 * IDENTITY, rel=1e-5)


def physical_batch() -> dict[str, Tensor]:
    return {
        "hazy": plain(0.6), "truth": plain(0.4), "depth": plain(0.5, 1), "airlight": torch.full((1, 3), 0.9),
        "beta": torch.tensor([1.0]),
    }  # fmt: skip


class FixedPhysical(nn.Module):
    """Predictions of depth 0.25 and 0.75, airlight 0.8 and beta 2; the codes differ by 0.1, 0.2, 0.3 and 0.4."""

    def forward(self, hazy: Tensor, clear: Tensor) -> HazePrediction:
        hazy_code, clear_code = (
            SceneCode(plain(sign / 20), plain(sign / 10), plain(sign * 3 / 20), plain(sign / 5), plain(9.0 * sign))
            for sign in (1, -1)
        )
        depths = plain(0.25, 1), plain(0.75, 1)
        return HazePrediction(hazy_code, clear_code, depths[0], depths[1], torch.full((1, 3), 0.8), torch.tensor([2.0]))


def test_the_total_of_the_physical_model() -> None:
    config = PhysicalLossConfig(
        clear_weight=2, transmission_weight=3, parameters_weight=5, depth_weight=7, synthesis_weight=11, code_weight=13,
        prior=PriorConfig(kind="kl", weight=17),
    )  # fmt: skip
    (step,) = PhysicalObjective(config)(FixedPhysical(), physical_batch(), 0)
    t, predicted_t = math.exp(-0.5), math.exp(-2 * 0.25)  # equal by chance: t of the wrong depth and beta
    clear = (0.6 - 0.8) / predicted_t + 0.8
    hazy = 0.4 * math.exp(-0.75) + 0.9 * (1 - math.exp(-0.75))
    haze = (0.1 / 0.058) ** 2 + (math.log(2) / 0.2) ** 2
    expected = 2 * abs(clear - 0.4) + 3 * abs(predicted_t - t) + 5 * haze + 7 * (0.25 + 0.25) + 11 * abs(hazy - 0.6)
    expected += 13 * (0.1 + 0.2 + 0.3 + 0.4) / 4 + 17 * 0.2**2
    assert float(step.loss) == pytest.approx(expected, rel=1e-5)
    other = {**physical_batch(), "beta": torch.tensor([3.0])}
    (step,) = PhysicalObjective(PhysicalLossConfig(transmission_weight=1, clear_weight=0, parameters_weight=0, depth_weight=0,
                                                   synthesis_weight=0, code_weight=0, prior=PriorConfig(kind="none")))(
        FixedPhysical(), other, 0
    )  # fmt: skip
    assert float(step.loss) == pytest.approx(predicted_t - math.exp(-1.5), rel=1e-5)


def test_the_total_of_dehazenet() -> None:
    """Cai et al. 2016, Eq. 16: squared error of t on patches with white airlight; the head is linear in the loss."""
    seen: list[Tensor] = []

    class Net(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            seen.append(patches)
            return torch.tensor([1.25, -0.5]).view(2, 1, 1, 1)

    torch.manual_seed(9)
    (step,) = PatchObjective(PatchLossConfig())(Net(), {"patches": torch.full((2, 3, 4, 4), 0.25)}, 0)
    t = ((1 - seen[0][:, 0, 0, 0]) / 0.75).tolist()  # I = J t + 1 - t
    assert 0 < min(t) < max(t) < 1
    assert float(step.loss) == pytest.approx(((1.25 - t[0]) ** 2 + (-0.5 - t[1]) ** 2) / 2, rel=1e-4)


def test_the_noise_of_the_code_has_unit_variance() -> None:
    """Section 3.1: q(z|x) = N(E(x), I)."""
    torch.manual_seed(0)
    model = HazeTranslator(SMALL).train()
    mean = torch.full((1, 2, 3, 3), 0.5)
    torch.manual_seed(7)
    found = model.sample(mean)
    torch.manual_seed(7)
    torch.testing.assert_close(found, mean + torch.randn(1, 2, 3, 3))


# ----------------------------------------------------------------------------------------------------------- protocol


def test_test_images_follow_section_4_1_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth is relative to the largest of the scene, also at 40 meters; Eq. 1 gives the pixels, rounded to 8 bits."""
    fixed = HazeParameters(torch.tensor([[0.8, 0.9, 1.0]]), torch.tensor([1.6]))
    monkeypatch.setattr(protocol, "draw_haze_parameters", lambda rng, count: fixed)
    depth = np.array([[0.0, 20.0], [40.0, 40.0]], np.float32)
    scene = Scene("one", np.full((2, 2, 3), 51, np.uint8), depth)
    found = hazy_scene(scene, 0, 0, Protocol())
    for place, relative in (((0, 0), 0.0), ((0, 1), 0.5), ((1, 0), 1.0)):
        t = math.exp(-1.6 * relative)
        expected = [0.2 * t + a * (1 - t) for a in (0.8, 0.9, 1.0)]
        assert found.hazy[0, :, place[0], place[1]].tolist() == pytest.approx(expected, abs=0.5 / 255 + 1e-6)
    assert hazy_scene(scene, 0, 0, Protocol(max_depth=80.0)).depth.max() == pytest.approx(0.5)


def test_the_range_of_the_drawn_haze() -> None:
    drawn = [draw_haze_parameters(np.random.default_rng([protocol.DRAW_SEED, i]), 50) for i in range(40)]
    beta, airlight = torch.cat([d.beta for d in drawn]), torch.cat([d.airlight for d in drawn])
    assert (float(beta.min()), float(beta.max())) == pytest.approx((0.8, 1.6), abs=0.01)
    assert (float(airlight.min()), float(airlight.max())) == pytest.approx((0.8, 1.0), abs=0.01)
    assert float(airlight.std(1).mean()) > 0.02  # three independent components


def test_rows_are_trained_without_the_test_scenes() -> None:
    """The runs of Table 1 get the training folders; a better scene in the test folder cannot be chosen."""
    asked: list[dict[str, Any]] = []

    def trained(config: object, **rest: Any) -> Path:
        asked.append(rest)
        return Path("model")

    lab = SimpleNamespace(scale=TableScale(train="scenes"), sources=["test"], trained=trained)
    artifacts.trained(lab, recipes.tiny(), "physical")  # type: ignore[arg-type]
    assert [str(source) for source in asked[0]["sources"]] == ["scenes"]


@pytest.mark.parametrize("prefix", ["tiny", "cpu", "paper"])
def test_rows_of_table_1_have_their_own_objective(prefix: Any) -> None:
    scale = TableScale(prefix=prefix)
    priors = {}
    for kind in ("mmd", "unit", "cyclegan"):
        config = row_config(scale, kind)
        assert isinstance(config.objective, TranslationLossConfig)
        assert isinstance(config.model, TranslatorConfig)
        assert config.model.kind == kind
        priors[kind] = config.objective.prior.kind
    assert priors == {"mmd": "mmd", "unit": "kl", "cyclegan": "none"}


# ---------------------------------------------------------------------------------------------------------- constants

PAPER = {
    "system": ("haze", "this system"),
    "recipe": ("paper", "this recipe"),
    "model.kind": ("mmd", "section 3.1"),
    "model.channels": (64, "released UNIT"),
    "model.blocks": (4, "released UNIT"),
    "model.shared_blocks": (0, "released UNIT"),
    "model.code_channels": (0, OURS),
    "model.discriminator.channels": (64, "released UNIT"),
    "model.discriminator.scales": (3, "released UNIT"),
    "model.discriminator.layers": (4, "released UNIT"),
    "model.discriminator.norm": (False, "released UNIT"),
    "model.discriminator.pool": (0, "released UNIT"),
    "data.side": (256, OURS),
    "data.crop": (256, OURS),
    "data.batch": (1, "section 4.1.2: one hazy and one clear image"),
    "data.scenes": (1500, "section 4.1.1: 1500 training images"),
    "data.max_depth": (0.0, OURS),
    "data.farthest_of": ("scene", "section 4.1.1: scenes are hazed"),
    "data.draws": (1, "section 4.1.1: one haze per image"),
    "data.validation_share": (0.1, OURS),
    "data.disjoint": (False, OURS),
    "data.color_jitter": (0.0, OURS),
    "data.border": (0, OURS),
    "data.borders": ((), OURS),
    "data.held_out_from": (0, OURS),
    "data.gray_airlight": (0.0, "section 4.1.1: A = [n1, n2, n3]"),
    "data.dimming": (0.0, OURS),
    "objective.adversarial": ("lsgan", "released UNIT; Eqs. 2 and 3 have logarithms"),
    "objective.adversarial_weight": (1.0, "section 4.1.2: lambda_adv"),
    "objective.reconstruction_weight": (10.0, "section 4.1.2: lambda_recon"),
    "objective.cycle_weight": (10.0, "section 4.1.2: lambda_recon"),
    "objective.identity_weight": (0.0, "Eq. 13"),
    "objective.distance": ("l1", "released UNIT"),
    "objective.prior.kind": ("mmd", "section 3.1.1"),
    "objective.prior.weight": (0.01, "section 4.1.2: lambda_m"),
    "objective.prior.bandwidth": (0.0, OURS),
    "objective.prior.kernels": ((1.0,), "Eq. 8: one Gaussian kernel"),
    "objective.prior.positions": (512, OURS),
    "objective.prior.sampled": (False, OURS),
    "objective.prior.double_first_prior_term": (False, "released UNIT; Eqs. 9 to 12 count it twice"),
    "optim.lr": (1e-4, "section 4.1.2"),
    "optim.warmup": (0, OURS),
    "optim.decay_share": (0.0, OURS),
    "optim.clip": (1e6, OURS),
    "optim.ema": (0.0, OURS),
    "optim.kind": ("adam", "section 4.1.2"),
    "optim.beta1": (0.5, "section 4.1.2: momentums 0.5 and 0.999"),
    "run.steps": (250_000, "section 4.1.2"),
    "run.seed": (0, OURS),
    "run.precision": ("no", OURS),
    "run.log_every": (100, OURS),
    "run.validate_every": (10_000, "section 4.1.2: a model every 10,000 iterations"),
    "run.checkpoint_every": (5000, OURS),
    "run.keep": (2, OURS),
}


def test_every_value_of_the_recipe() -> None:
    assert flat(recipes.paper()) == typed(PAPER)


def test_constants_of_the_modules() -> None:
    assert (formation.AIRLIGHT, formation.BETA) == ((0.8, 1.0), (0.8, 1.6))  # section 4.1.1
    assert (formation.MEAN_AIRLIGHT, formation.MEAN_BETA) == (0.9, 1.2)  # their means
    assert (formation.FLOOR, formation.CONTRAST) == (0.1, 0.05)  # He et al. 2009; visibility by contrast of 5 %
    spread = [(high - low) / math.sqrt(12) for low, high in (formation.AIRLIGHT, formation.BETA)]
    assert objective.AIRLIGHT_SPREAD == pytest.approx(spread[0], abs=5e-4)
    assert objective.BETA_SPREAD == pytest.approx(spread[1] / formation.MEAN_BETA, abs=0.01)
    assert objective.TRAINING_FLOOR == 0.05  # ours
    assert PhysicalLossConfig() == PhysicalLossConfig(
        clear_weight=1, transmission_weight=1, parameters_weight=0.1, depth_weight=0.5, synthesis_weight=1, code_weight=0.05,
        consistency_weight=0, prior=PriorConfig(weight=0.001),
    )  # ours  # fmt: skip
    unit, cyclegan = recipes.cpu_unit(), recipes.cpu_cyclegan()
    assert isinstance(cyclegan.model, TranslatorConfig)
    assert isinstance(unit.model, TranslatorConfig)
    judge = cyclegan.model.discriminator
    assert (judge.scales, judge.layers, judge.norm, judge.pool) == (1, 3, True, 50)  # Zhu et al. 2017, section 4
    assert unit.model.discriminator.pool == 0


def test_the_optimizers_have_the_second_momentum_of_the_paper() -> None:
    model = HazeTranslator(SMALL)
    built = build_optimizers(model, TranslationObjective.optimizers, recipes.paper().optim)
    groups: Iterator[Any] = (group for optimizer in built.values() for group in optimizer.param_groups)
    assert {(group["lr"], tuple(group["betas"])) for group in groups} == {(1e-4, (0.5, 0.999))}
