"""Translators, physical head, DehazeNet: gradients, determinism, losses against their formulas, statistics held still."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latens.inference.tiling import apply_in_strips
from latens.systems.haze.baselines.dehazenet import PATCH, DehazeNet, PatchObjective
from latens.systems.haze.config import (
    HazeConfig,
    JudgeConfig,
    PatchLossConfig,
    PhysicalLossConfig,
    PriorConfig,
    TranslationLossConfig,
)
from latens.systems.haze.layers import DoubledConv, ImagePool, PictureNorm, held_statistics
from latens.systems.haze.model import HazeTranslator, reach
from latens.systems.haze.objective import TranslationObjective, discriminator_loss, generator_loss, prior_term
from latens.systems.haze.physical import PhysicalHaze
from latens.systems.haze.physical_objective import PhysicalObjective

SMALL = HazeConfig(channels=4, blocks=2, shared_blocks=1, code_channels=3, judge=JudgeConfig(channels=4, scales=2, layers=3))


def scenes(count: int = 2, size: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = {"hazy": 3, "truth": 3, "clear": 3, "depth": 1}
    batch = {name: torch.rand(count, n, size, size, generator=generator) for name, n in names.items()}
    return {**batch, "airlight": torch.full((count, 3), 0.9), "beta": torch.full((count,), 1.2)}


@pytest.mark.parametrize(
    ("config", "loss"),
    [
        (SMALL, TranslationLossConfig(prior=PriorConfig(positions=64, twice=True))),
        (replace(SMALL, kind="unit"), TranslationLossConfig(adversarial="log", prior=PriorConfig(kind="kl", sampled=True))),
        (replace(SMALL, kind="cyclegan", code_channels=0, judge=replace(SMALL.judge, norm=True, pool=3)),
         TranslationLossConfig(identity_weight=5, distance="l2", prior=PriorConfig(kind="none"))),
    ],
    ids=["mmd", "unit", "cyclegan"],
)  # fmt: skip
def test_the_adversarial_pair_reaches_every_parameter_once(config: HazeConfig, loss: TranslationLossConfig) -> None:
    torch.manual_seed(0)
    model, objective = HazeTranslator(config, 64).train(), TranslationObjective(loss)
    owned = {
        name: [key for key, _ in model.named_parameters() if key.startswith(prefixes)]
        for name, prefixes in objective.optimizers.items()
    }
    assert sorted(owned["discriminators"] + owned["generators"]) == sorted(key for key, _ in model.named_parameters())
    for step in objective(model, scenes(), 0):
        model.zero_grad()
        step.loss.backward()
        for key, parameter in model.named_parameters():
            if key in owned[step.optimizer]:
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
                # A bias before a normalisation changes nothing.
                assert parameter.grad.abs().max() > 0 or key.endswith("bias"), key
            elif step.optimizer == "generators":
                assert parameter.grad is None, key  # of the judges nothing is computed
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["physical", "dehazenet"])
def test_gradients_of_the_plain_models(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "physical":
        model: nn.Module = PhysicalHaze(HazeConfig(channels=8))
        (step,) = PhysicalObjective(PhysicalLossConfig(prior=PriorConfig(weight=0.1)))(model, scenes(), 0)
    else:
        model = DehazeNet()
        (step,) = PatchObjective(PatchLossConfig())(model, {"patches": torch.rand(8, 3, PATCH, PATCH)}, 0)
    step.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_translation_in_use_is_deterministic_and_keeps_the_size() -> None:
    torch.manual_seed(0)
    model = HazeTranslator(SMALL).eval()
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        first, second = model.translate(image, "clear"), model.translate(image, "clear")
        assert torch.equal(first, second)
        assert first.shape == image.shape
        model.train()
        assert not torch.equal(model.translate(image, "clear"), model.translate(image, "clear"))  # N(mean, 1)


def test_pieces_with_held_statistics_are_the_whole() -> None:
    torch.manual_seed(0)
    config = HazeConfig(channels=4, blocks=1, judge=JudgeConfig(channels=4))
    model = HazeTranslator(config).eval()
    image = torch.rand(1, 3, 256, 64)
    image[:, :, 128:] *= 0.2  # pieces with other statistics than the whole
    halo = reach(config)
    with torch.no_grad():
        with held_statistics(model):
            model.translate(image[:, :, ::2, ::2], "clear")
            whole = model.translate(image, "clear")
            tiled = apply_in_strips(lambda x: model.translate(x, "clear"), image, scale=Fraction(1), halo=halo, core=64)
        naive = apply_in_strips(lambda x: model.translate(x, "clear"), image, scale=Fraction(1), halo=halo, core=64)
    assert float((whole - tiled).abs().max()) < 1e-5
    assert float((whole - naive).abs().max()) > 0.02
    assert all(part.held is None for part in model.modules() if isinstance(part, PictureNorm))


def test_the_reach_is_what_a_pixel_sees() -> None:
    torch.manual_seed(0)
    config = HazeConfig(channels=4, blocks=1, judge=JudgeConfig(channels=4))
    model = HazeTranslator(config).eval()
    image = torch.rand(1, 3, 8, 256)
    changed = image.clone()
    changed[..., 128] = 1 - changed[..., 128]
    with torch.no_grad(), held_statistics(model):
        model.translate(image, "hazy")
        moved = (model.translate(image, "hazy") - model.translate(changed, "hazy")).abs().amax((0, 1, 2)) > 0
    columns = moved.nonzero().flatten()
    seen = max(128 - int(columns.min()), int(columns.max()) - 128)
    assert reach(config) - 8 <= seen <= reach(config)


def test_adversarial_losses_by_their_formulas() -> None:
    real, fake = [torch.tensor([0.7]), torch.tensor([-1.0])], [torch.tensor([0.2]), torch.tensor([3.0])]
    assert float(discriminator_loss(real, fake, "lsgan")) == pytest.approx(0.3**2 + 0.2**2 + 2**2 + 3**2)
    assert float(generator_loss(fake, "lsgan")) == pytest.approx(0.8**2 + 2**2)
    sigmoids = [torch.sigmoid(v).item() for v in (*real, *fake)]
    expected = -sum(torch.tensor([sigmoids[0], sigmoids[1], 1 - sigmoids[2], 1 - sigmoids[3]]).log().tolist())  # Eqs. 2, 3
    assert float(discriminator_loss(real, fake, "log")) == pytest.approx(expected, rel=1e-5)
    assert float(generator_loss(fake, "log")) == pytest.approx(-sum(torch.tensor(sigmoids[2:]).log().tolist()), rel=1e-5)


def test_the_prior_term_counts_the_first_code_once_or_twice() -> None:
    torch.manual_seed(0)
    model = HazeTranslator(SMALL).train()
    batch = scenes()
    terms = {}
    for twice in (False, True):
        objective = TranslationObjective(TranslationLossConfig(prior=PriorConfig(kind="kl", weight=1.0, twice=twice)))
        torch.manual_seed(1)
        made = model(2 * batch["hazy"] - 1, 2 * batch["clear"] - 1)
        found = objective.generator_terms(model, made, batch["hazy"], batch["clear"])["prior"].item()
        first = sum(prior_term(code, objective.config.prior).item() for code in (made.code_hazy, made.code_clear))
        terms[twice] = (found, first)
    assert terms[True][0] - terms[False][0] == pytest.approx(terms[False][1], rel=1e-4)


def test_the_pool_gives_back_older_fakes_and_is_part_of_the_state() -> None:
    torch.manual_seed(0)
    pool = ImagePool(4, 2)
    for value in range(4):
        fake = torch.full((1, 3, 2, 2), float(value))
        assert torch.equal(pool.exchange(fake), fake)  # while it fills, nothing older is there
    given = {float(pool.exchange(torch.full((1, 3, 2, 2), 9.0))[0, 0, 0, 0]) for _ in range(30)}
    assert 9.0 in given
    assert given & {0.0, 1.0, 2.0, 3.0}
    other = ImagePool(4, 2)
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other.images, pool.images)


def test_dehazenet_sees_sixteen_by_sixteen() -> None:
    torch.manual_seed(0)
    net = DehazeNet()
    assert net(torch.rand(2, 3, PATCH, PATCH)).shape == (2, 1, 1, 1)
    weights = 3 * 16 * 25 + 16 + 4 * 16 * (9 + 25 + 49) + 48 + 48 * 36 + 1  # of the layers as the paper lists them
    assert sum(parameter.numel() for parameter in net.parameters()) == weights
    found = net.estimate(torch.rand(1, 3, 9, 40))
    assert found.transmission.shape == (1, 1, 9, 40)


def test_the_physical_head_starts_at_the_mean_weather() -> None:
    torch.manual_seed(0)
    model = PhysicalHaze(HazeConfig(channels=8)).eval()
    with torch.no_grad():
        airlight, beta = model.weather(model.encode(torch.rand(2, 3, 64, 96), "hazy"))
    assert airlight.flatten().tolist() == pytest.approx([0.9] * 6, abs=0.05)
    assert beta.tolist() == pytest.approx([1.2] * 2, abs=0.3)


def test_doubling_convolution_is_enlargement_and_convolution() -> None:
    torch.manual_seed(0)
    layer, x = DoubledConv(4, 6).double(), torch.randn(2, 4, 9, 7, dtype=torch.float64)
    enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
    wanted = F.conv2d(enlarged, layer.conv.weight, layer.conv.bias, padding=2)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))  # borders differ: the small map is mirrored
    assert torch.allclose(layer(x)[inside], wanted[inside], atol=1e-12)
