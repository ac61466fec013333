"""Losses between two views of an image: values, gradients, export."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from latens.systems.parts.config import BetaVAEConfig, BetaVAELoss, PatchVAEConfig, PatchVAELoss
from latens.systems.parts.model import BetaVAE, PatchVAE
from latens.systems.parts.objective import Elbo
from latens.systems.parts.two_views import (
    TwoViews,
    iic_loss,
    iic_of_views,
    jitter_colors,
    nt_xent_loss,
    random_crop,
    random_view,
)

SIZES = PatchVAEConfig(size=16, encoder="local", parts=4, appearance=3)


def test_views_are_images_and_differ() -> None:
    torch.manual_seed(0)
    image = torch.rand(6, 3, 16, 24)
    first, second = random_view(image), random_view(image)
    assert first.shape == image.shape
    assert 0 <= float(first.min())
    assert float(first.max()) <= 1
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    torch.rand(6, 3, 16, 24)
    assert torch.equal(random_view(image), first)


def test_a_crop_has_at_least_half_the_side_and_keeps_colors() -> None:
    """The crop of a horizontal ramp is a ramp with an absolute slope between 1/2 and 1."""
    torch.manual_seed(1)
    ramp = torch.linspace(0, 1, 64).expand(40, 3, 64, 64)
    slope = (random_crop(ramp)[:, 0, 32].diff(dim=1)).mean(1) * 63
    assert bool(((slope.abs() > 0.49) & (slope.abs() < 1.01)).all())
    assert 5 < int((slope < 0).sum()) < 35
    plain = torch.tensor([0.2, 0.5, 0.7])[None, :, None, None].expand(4, 3, 8, 8)
    assert torch.allclose(random_crop(plain), plain, atol=1e-6)


def test_color_jitter_makes_some_images_gray_and_moves_no_pixels() -> None:
    torch.manual_seed(2)
    image = torch.zeros(200, 3, 8, 8)
    image[:, :, 2:5, 3:6] = torch.tensor([0.6, 0.4, 0.3])[None, :, None, None]
    found = jitter_colors(image)
    gray = (found.amax(1) - found.amin(1)).amax((1, 2)) < 1e-6
    assert 0.1 < float(gray.float().mean()) < 0.3
    inside = found[:, :, 2:5, 3:6]
    assert torch.allclose(inside, inside.mean((2, 3), keepdim=True).expand_as(inside), atol=1e-6)


def test_nt_xent_equals_its_formula() -> None:
    torch.manual_seed(3)
    a, b = torch.randn(3, 5), torch.randn(3, 5)
    both = [*a, *b]
    expected = 0.0
    for i in range(6):
        scores = [math.exp(float(F.cosine_similarity(both[i], both[j], dim=0)) / 0.3) for j in range(6)]
        expected -= math.log(scores[(i + 3) % 6] / (sum(scores) - scores[i]))
    assert float(nt_xent_loss(a, b, 0.3)) == pytest.approx(expected / 6, rel=1e-5)
    assert float(nt_xent_loss(a[:1], b[:1], 0.3)) == pytest.approx(0, abs=1e-6)


def test_both_losses_use_float32_under_autocast() -> None:
    torch.manual_seed(5)
    maps = [(torch.randn(2, 4, 6, 6) / 4).softmax(1) for _ in range(2)]
    vectors = [torch.randn(6, 8) for _ in range(2)]
    exact = iic_loss(maps[0], maps[1]), nt_xent_loss(vectors[0], vectors[1], 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        found = iic_loss(maps[0], maps[1]), nt_xent_loss(vectors[0], vectors[1], 0.2)
    assert found == exact


def test_nt_xent_is_small_for_distinct_pairs_of_equal_views() -> None:
    eye = torch.eye(8)
    assert float(nt_xent_loss(eye, eye, 0.1)) < 0.01
    same = torch.ones(8, 8)
    assert float(nt_xent_loss(same, same, 0.1)) == pytest.approx(math.log(15), rel=1e-5)


def test_iic_equals_its_formula() -> None:
    """On one row of three cells; pairs are at most one cell apart."""
    torch.manual_seed(7)
    a, b = (torch.randn(1, 2, 1, 3).double().softmax(1) for _ in range(2))
    pairs = [(i, j) for i in range(3) for j in range(3) if abs(i - j) <= 1]
    joint = sum(torch.outer(a[0, :, 0, i], b[0, :, 0, j]) for i, j in pairs)
    assert isinstance(joint, torch.Tensor)
    joint = (joint + joint.T) / (2 * len(pairs))
    single = joint.sum(0)
    expected = (joint * (joint / torch.outer(single, single)).log()).sum()
    assert float(iic_loss(a, b)) == pytest.approx(-float(expected), rel=1e-5)


def test_iic_prefers_certain_balanced_and_compact_parts() -> None:
    halves = F.one_hot(torch.arange(8)[None, None].expand(2, 8, 8) // 4, 2).permute(0, 3, 1, 2).float()
    stripes = F.one_hot(torch.arange(8)[None, None].expand(2, 8, 8) % 2, 2).permute(0, 3, 1, 2).float()
    one = torch.zeros(2, 2, 8, 8)
    one[:, 0] = 1
    uncertain = torch.full((2, 2, 8, 8), 0.5)
    information = [-float(iic_loss(maps, maps)) for maps in (halves, stripes, one, uncertain)]
    assert 0.35 < information[0] < math.log(2)
    assert information[0] > 5 * information[1]
    assert information[2] == pytest.approx(0, abs=1e-5)
    assert information[3] == pytest.approx(0, abs=1e-5)


def test_the_iic_loss_trains_occurrences() -> None:
    torch.manual_seed(8)
    model = PatchVAE(replace(SIZES, categorical=True))
    image = torch.rand(8, 3, 32, 32)

    def slope(config: PatchVAELoss) -> torch.Tensor:
        torch.manual_seed(9)
        (step,) = Elbo(config)(model, {"image": image}, 0)
        model.zero_grad()
        step.loss.backward()
        assert model.occurrence.weight.grad is not None
        return model.occurrence.weight.grad.clone()

    assert not torch.allclose(slope(PatchVAELoss(iic_weight=0.5)), slope(PatchVAELoss()))
    validated = Elbo(PatchVAELoss(iic_weight=0.5)).validate(model.eval(), [{"image": image}])
    plain = Elbo(PatchVAELoss()).validate(model, [{"image": image}])
    assert validated["loss"] == pytest.approx(plain["loss"] + 0.5 * validated["iic"], rel=1e-4)


@pytest.mark.parametrize("beta", [False, True])
def test_the_contrastive_loss_trains_the_encoder_and_is_not_exported(beta: bool) -> None:
    torch.manual_seed(4)
    generator = BetaVAE(BetaVAEConfig(size=16, encoder="local", parts=4, appearance=3)) if beta else PatchVAE(SIZES)
    model = TwoViews(generator)
    image = torch.rand(8, 3, 16, 16)
    weight = next(generator.encoder.parameters())

    def objective(contrastive_weight: float) -> Elbo:
        loss = BetaVAELoss if beta else PatchVAELoss
        return Elbo(loss(contrastive_weight=contrastive_weight))

    def slope(contrastive_weight: float) -> torch.Tensor:
        torch.manual_seed(5)
        (step,) = objective(contrastive_weight)(model, {"image": image}, 0)
        model.zero_grad()
        step.loss.backward()
        assert weight.grad is not None
        return weight.grad.clone()

    assert not torch.allclose(slope(0.5), slope(0.0))
    assert "nt_xent" in objective(0.5).validate(model.eval(), [{"image": image}])
    assert set(objective(0.5).export(model, []).weights) == set(generator.state_dict())


def test_validation_of_views_is_reproducible() -> None:
    torch.manual_seed(6)
    model = TwoViews(PatchVAE(SIZES)).eval()
    batches = [{"image": torch.rand(8, 3, 16, 16)}, {"image": torch.rand(3, 3, 16, 16)}]
    objective = Elbo(PatchVAELoss(contrastive_weight=0.5))
    assert objective.validate(model, batches) == objective.validate(model, batches)


def test_border_cells_are_excluded() -> None:
    """A part that encodes only the border has no mutual information."""
    model = PatchVAE(replace(SIZES, categorical=True, parts=2)).eval()
    features = torch.zeros(4, 128, 8, 8)
    features[:, 0, 0] = features[:, 0, -1] = features[:, 0, :, 0] = features[:, 0, :, -1] = 1
    assert model.occurrence.bias is not None
    with torch.no_grad():
        model.occurrence.weight.zero_()
        model.occurrence.weight[0, 0], model.occurrence.bias[:] = 40.0, torch.tensor([-20.0, 0.0])
        known = model.probability(model.occurrence(features))
    assert float(iic_loss(known, known)) < -0.05
    model.encoder = Fixed(features)  # type: ignore[assignment]
    with torch.no_grad():
        assert float(iic_of_views(model, features, torch.rand(4, 3, 64, 64))) == pytest.approx(0, abs=1e-5)


class Fixed(torch.nn.Module):
    """An encoder with constant output."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.features
