"""Perugachi-Diaz 2024, chapter 5: a total of every objective by hand, and the constants of training and refinement."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.paper_values import OURS, filled, flat, typed
from torch import Tensor, nn

from latens.codes import annealing, goals, rate_control
from latens.codes.annealing import Method, Refine, RoundingLaw
from latens.codes.context import CodedLatent
from latens.codes.goals import Lagrangian, Measurement
from latens.codes.refine import _Objective
from latens.codes.rounding import relax
from latens.systems.image_codec import config as settings
from latens.systems.image_codec import figures, tables
from latens.systems.image_codec.config import HyperpriorConfig, RateDistortionConfig
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.objective import RateDistortion
from latens.systems.image_codec.passes import Reconstruction
from latens.systems.image_codec.recipes import paper

# ------------------------------------------------------------------------------------------------------------ totals

BITS_Y, BITS_Z, ERROR = 96.0, 32.0, 0.02  # of an image of 8 x 8 pixels: 2 bits per pixel; error of every value


class FixedCodec(nn.Module):
    """Bits and errors of an image; records the qualities and the rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def forward(self, image: Tensor, quality: Tensor, *, rounding: str) -> Reconstruction:
        self.asked = [quality, rounding]
        count = len(quality)
        made = image.repeat(count // len(image), 1, 1, 1) + ERROR
        return Reconstruction(made, torch.full((count,), BITS_Y), torch.full((count,), BITS_Z))


def test_the_total_of_eq_5_2_1() -> None:
    """Bits of y and z per pixel + lambda 255^2 MSE; training adds noise, at lambda 0.01."""
    model, config = FixedCodec(), paper()
    (step,) = RateDistortion(config.objective, config.model.lambdas)(model, {"image": torch.zeros(2, 3, 8, 8)}, 0)
    assert float(step.loss) == pytest.approx(2 + 0.01 * 255**2 * ERROR**2, rel=1e-5)
    assert model.asked[1] == "noise"


def test_the_total_of_several_rates() -> None:
    """Every image at several rates, log-linearly between the lambdas; losses are divided by (lambda / middle)^balance."""
    model, lambdas = FixedCodec(), (0.001, 0.01, 0.1)
    objective = RateDistortion(RateDistortionConfig(balance=0.75, rates_per_crop=2), lambdas)
    torch.manual_seed(0)
    (step,) = objective(model, {"image": torch.zeros(2, 3, 8, 8)}, 0)
    qualities, rounding = model.asked
    assert rounding == "mixed"
    assert len(qualities) == 4
    assert ((qualities[2:] - qualities[:2]).abs() - 1).abs().max() < 1e-5  # evenly spaced over the range of 2
    losses = []
    for quality in qualities.tolist():
        weight = 0.001 * 10 ** (quality - 1)
        losses.append((2 + weight * 255**2 * ERROR**2) * (weight / 0.01) ** -0.75)
    assert float(step.loss) == pytest.approx(sum(losses) / 4, rel=1e-4)


def test_noise_reaches_the_decoder_only_if_it_replaces_rounding() -> None:
    """Section 5.2: noisy latents for rate and distortion; Minnen and Singh 2020: rounded ones for the distortion."""
    model = filled(MeanScaleHyperprior(HyperpriorConfig(hidden=4, latent=4, hyper=4)))
    image, same = 0.5 + 0.4 * torch.sin(torch.arange(3 * 64 * 64.0)).view(1, 3, 64, 64), {}
    for rounding in ("noise", "mixed"):
        found = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            with torch.no_grad():
                found.append(model(image, torch.ones(1), rounding=rounding))
        same[rounding] = torch.equal(found[0].image, found[1].image)
        assert not torch.equal(found[0].bits_y, found[1].bits_y)
        assert not torch.equal(found[0].bits_z, found[1].bits_z)
    assert same == {"noise": False, "mixed": True}


class FixedHyperprior(nn.Module):
    """A refinable codec of 2 x 2 pixels: 3 bits for every symbol of y, 5 for z; the image is the mean of y_hat."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = SimpleNamespace(bits=lambda z: torch.full_like(z, 5.0) * z, medians=lambda: torch.tensor([0.5]))

    def hyper_analysis(self, y: Tensor) -> Tensor:
        return y.mean((2, 3), keepdim=True)

    def scaled_latent(self, image: Tensor, quality: Tensor) -> Tensor:
        return torch.full((1, 1, 2, 2), 1.25)

    def code(self, y: Tensor, z_hat: Tensor, quality: Tensor, rounding: Any) -> CodedLatent:
        symbols = rounding(y - 0.25, torch.ones_like(y))
        return _Coded(symbols + 0.25, symbols, y - 0.25, torch.ones_like(y))

    def reconstruct(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        return y_hat.mean((1, 2, 3), keepdim=True).expand(1, 3, 2, 2)


class _Coded(CodedLatent):
    def bits(self) -> Tensor:
        return 3 * self.symbols


def test_the_total_of_a_refinement() -> None:
    """Eq. 5.2.2 of relaxed latents: straight-through rounding, so y - mean = 1.4 counts as 1 and z - median = 2.2 as 2."""
    law, image = RoundingLaw(method="ste"), torch.zeros(1, 3, 2, 2)
    objective = _Objective(FixedHyperprior(), image, (2, 2), torch.ones(1), torch.tensor([[[0.5]]]), law, torch.float32)
    y, z = torch.full((1, 1, 2, 2), 1.65), torch.full((1, 1, 1, 1), 2.2)
    found = objective.loss(y, z, torch.tensor([0.01]), 1.0, torch.Generator())
    expected = (4 * 3 * 1 + 5 * 2.5) / 4 + 0.01 * 255**2 * 1.25**2
    assert float(found) == pytest.approx(expected, rel=1e-5)
    measured = objective.measure(y, z)
    assert float(Lagrangian(torch.tensor([0.01]), 4).score(measured)) == pytest.approx(expected, rel=1e-5)
    start = objective.encode()
    assert (float(start.y.mean()), float(start.z)) == (1.25, 0.75)
    assert float(Measurement(*measured[:4], torch.tensor([0.001])).psnr()) == pytest.approx(30, rel=1e-5)
    assert goals.PEAK == 255**2


@pytest.mark.parametrize(
    ("method", "up", "down"),
    [
        ("linear", 0.3, 0.7),  # Eq. 5.3.2 at v = 2.3
        ("cosine", math.cos(0.7 * math.pi / 2) ** 2, math.cos(0.3 * math.pi / 2) ** 2),  # Eq. 5.3.3
        ("ssl", 1 / (1 + (0.7 / 0.3) ** (4 / 3)), 1 / (1 + (0.3 / 0.7) ** (4 / 3))),  # Eq. 5.3.4 with a = 4/3
        ("atanh", math.exp(-math.atanh(0.7)), math.exp(-math.atanh(0.3))),  # Eq. 5.2.3
    ],
)
def test_a_sample_of_sga(method: Method, up: float, down: float) -> None:
    """Gumbel-softmax of (log p(floor), log p(ceiling)) / tau at temperature tau, times the two integers."""
    tau, v = 0.8, torch.tensor([[2.3]])
    uniform = float(torch.empty(1, 1).uniform_(generator=torch.Generator().manual_seed(5)))
    logit = (math.log(up / down) / tau + math.log(uniform / (1 - uniform))) / tau
    expected = 2 + 1 / (1 + math.exp(-logit))
    found = relax(v, RoundingLaw.thesis(method), tau, torch.Generator().manual_seed(5))
    assert float(found) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- constants

PAPER = {
    "system": ("image_codec", "this system"),
    "recipe": ("paper", "this recipe"),
    "model.kind": ("hyperprior", "section 5.4.1: mean-scale hyperprior"),
    "model.hidden": (192, "section 5.4.1: N"),
    "model.latent": (192, "section 5.4.1: M"),
    "model.hyper": (192, "section 5.4.1: M"),
    "model.lambdas": ((0.01,), "section 5.4.1"),
    "model.transforms": ("paper", "Minnen et al. 2018"),
    "data.crop": (256, "section 5.4.1"),
    "data.batch": (32, "section 5.4.1"),
    "data.shrink": (1.0, OURS),
    "data.validation_share": (0.05, OURS),
    "data.validation_crop": (256, OURS),
    "objective.rounding": ("noise", "section 5.2: uniform noise"),
    "objective.distortion": ("mse", "section 5.4.1"),
    "objective.slopes": ((), "of another distortion"),
    "objective.coarse_share": (0.3, "of another distortion"),
    "objective.balance": (0.0, "Eq. 5.2.1"),
    "objective.rates_per_crop": (1, "section 5.4.1: one model per lambda"),
    "optim.lr": (1e-4, "section 5.4.1"),
    "optim.warmup": (1000, OURS),
    "optim.decay_share": (0.0, OURS),
    "optim.clip": (1.0, OURS),
    "optim.ema": (0.0, OURS),
    "optim.kind": ("adam", "section 5.4.1"),
    "optim.beta1": (0.9, OURS),
    "run.steps": (2_000_000, "section 5.4.1"),
    "run.seed": (222, OURS),
    "run.precision": ("no", OURS),
    "run.log_every": (100, OURS),
    "run.validate_every": (20_000, OURS),
    "run.checkpoint_every": (5000, OURS),
    "run.keep": (2, OURS),
}


def test_every_value_of_the_recipe() -> None:
    assert flat(paper()) == typed(PAPER)
    assert settings.LAMBDAS == (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)  # section 5.4.1


def test_constants_of_refinement() -> None:
    thesis = {"tau_rate": 0.001, "lr": 0.005, "lr_end": 1.0, "hyper_lr": 1.0}  # section 5.4.6
    for method in annealing.METHODS:
        found = Refine.thesis(method)
        assert {name: getattr(found, name) for name in thesis} == {**thesis, "lr": 1e-4 if method == "ste" else 0.005}
        assert found.tau_max == (0.5 if method == "atanh" else 1.0)  # section 5.4.6: 0.4 to 0.5 for atanh
        assert found.steps == 2000  # section 5.4
    assert annealing.THREE_CLASS == {"ssl": (0.93, 1.5), "linear": (0.98, 1.5), "cosine": (0.98, 2.0)}  # Table 5.4.3: r, n
    assert [annealing.SSL_SHAPE, annealing.SSL_SHAPE_THREE] == pytest.approx([4 / 3, 1.4])  # section 5.4.6, Table 5.4.3
    assert figures.TARGETS == (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)  # appendix C.3
    assert (tables.TAUS, tables.EARLY, tables.LAMBDA) == ((0.2, 0.4, 0.6, 0.8, 1.0), 500, 0.01)  # Tables 5.4.1 and 5.4.3
    assert figures.FULL_RATE_STEPS == 2000  # appendix C.3
    ours = Refine()
    assert (ours.steps, ours.hyper_lr, ours.lr_end, ours.tau_max, ours.tau_end, ours.measure_every) == (
        500,
        2,
        0.05,
        1,
        0.4,
        20,
    )
    assert (ours.learning_rate(0), ours.rounding().a) == (0.04, 2.0)
    assert (rate_control.PROPORTIONAL, rate_control.INTEGRAL, rate_control.LAMBDA_RANGE) == (1.0, 0.35, 30.0)  # ours
    assert rate_control.SLOPE == {"bpp": 0.35, "psnr": 1.4}
