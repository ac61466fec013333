"""Translators, physical model, DehazeNet: gradients, losses compared with their formulas, frozen statistics, sizes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latens.errors import UsageError
from latens.inference.tiling import in_blocks
from latens.systems.haze.baselines.dehazenet import PATCH, DehazeNet
from latens.systems.haze.config import (
    DiscriminatorConfig,
    PhysicalConfig,
    PriorConfig,
    TranslationLossConfig,
    TranslatorConfig,
)
from latens.systems.haze.layers import DoubledConv, ImageNorm, ImagePool, frozen_norm_stats
from latens.systems.haze.methods import dehazenet, refine
from latens.systems.haze.model import HazeTranslator, receptive_radius
from latens.systems.haze.objective import TranslationObjective, discriminator_loss, generator_loss, prior_term
from latens.systems.haze.physical import PhysicalHaze
from latens.training.optim import owned_parameters

SMALL = TranslatorConfig(
    channels=4, blocks=2, shared_blocks=1, code_channels=3, discriminator=DiscriminatorConfig(channels=4, scales=2, layers=3)
)


def scenes(count: int = 2, size: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = {"hazy": 3, "truth": 3, "clear": 3, "depth": 1}
    batch = {name: torch.rand(count, n, size, size, generator=generator) for name, n in names.items()}
    return {**batch, "airlight": torch.full((count, 3), 0.9), "beta": torch.full((count,), 1.2)}


@pytest.mark.parametrize(
    ("config", "loss"),
    [
        (SMALL, TranslationLossConfig(prior=PriorConfig(positions=64, double_first_prior_term=True))),
        (replace(SMALL, kind="unit"), TranslationLossConfig(adversarial="log", prior=PriorConfig(kind="kl", sampled=True))),
        (replace(SMALL, kind="cyclegan", code_channels=0, discriminator=replace(SMALL.discriminator, norm=True, pool=3)),
         TranslationLossConfig(identity_weight=5, distance="l2", prior=PriorConfig(kind="none"))),
    ],
    ids=["mmd", "unit", "cyclegan"],
)  # fmt: skip
def test_every_parameter_has_a_gradient_from_its_own_optimizer(config: TranslatorConfig, loss: TranslationLossConfig) -> None:
    torch.manual_seed(0)
    model, objective = HazeTranslator(config, 64).train(), TranslationObjective(loss)
    owned = {
        name: [key for group in groups for key in owned_parameters(model, group)]
        for name, groups in objective.optimizers.items()
    }
    assert sorted(owned["discriminators"] + owned["generators"]) == sorted(key for key, _ in model.named_parameters())
    for step in objective(model, scenes(), 0):
        model.zero_grad()
        step.loss.backward()
        for key, parameter in model.named_parameters():
            if key in owned[step.optimizer]:
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
                # A bias before a normalization has no effect.
                assert parameter.grad.abs().max() > 0 or key.endswith("bias"), key
            elif step.optimizer == "generators":
                assert parameter.grad is None, key  # frozen in the generator step
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_translation_is_deterministic_in_evaluation_and_keeps_the_size() -> None:
    torch.manual_seed(0)
    model = HazeTranslator(SMALL).eval()
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        first, second = model.translate(image, "clear"), model.translate(image, "clear")
        assert torch.equal(first, second)
        assert first.shape == image.shape
        model.train()
        assert not torch.equal(model.translate(image, "clear"), model.translate(image, "clear"))  # N(mean, 1)


def test_tiles_with_frozen_statistics_equal_the_whole_image() -> None:
    torch.manual_seed(0)
    config = TranslatorConfig(channels=4, blocks=1, discriminator=DiscriminatorConfig(channels=4))
    model = HazeTranslator(config).eval()
    image = torch.rand(1, 3, 256, 64)
    image[:, :, 128:] *= 0.2  # tiles with other statistics than the whole image
    halo = receptive_radius(config)

    def piece(rows: slice, columns: slice) -> Tensor:
        return model.translate(image[..., rows, columns], "clear")

    with torch.no_grad():
        with frozen_norm_stats(model):
            model.translate(image[:, :, ::2, ::2], "clear")
            whole = model.translate(image, "clear")
            tiled = in_blocks(piece, (256, 64), scale=Fraction(1), halo=halo, core=64)
        naive = in_blocks(piece, (256, 64), scale=Fraction(1), halo=halo, core=64)
    assert float((whole - tiled).abs().max()) < 1e-5
    assert float((whole - naive).abs().max()) > 0.02
    assert all(part.held is None for part in model.modules() if isinstance(part, ImageNorm))


def test_the_receptive_radius_matches_the_network() -> None:
    torch.manual_seed(0)
    config = TranslatorConfig(channels=4, blocks=1, discriminator=DiscriminatorConfig(channels=4))
    model = HazeTranslator(config).eval()
    image = torch.rand(1, 3, 8, 256)
    changed = image.clone()
    changed[..., 128] = 1 - changed[..., 128]
    with torch.no_grad(), frozen_norm_stats(model):
        model.translate(image, "hazy")
        moved = (model.translate(image, "hazy") - model.translate(changed, "hazy")).abs().amax((0, 1, 2)) > 0
    columns = moved.nonzero().flatten()
    seen = max(128 - int(columns.min()), int(columns.max()) - 128)
    assert receptive_radius(config) - 8 <= seen <= receptive_radius(config)


def test_adversarial_losses_equal_their_formulas() -> None:
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
        objective = TranslationObjective(
            TranslationLossConfig(prior=PriorConfig(kind="kl", weight=1.0, double_first_prior_term=twice))
        )
        torch.manual_seed(1)
        made = model(2 * batch["hazy"] - 1, 2 * batch["clear"] - 1)
        found = objective.generator_terms(model, made, batch["hazy"], batch["clear"])["prior"].item()
        first = sum(prior_term(code, objective.config.prior).item() for code in (made.code_hazy, made.code_clear))
        terms[twice] = (found, first)
    assert terms[True][0] - terms[False][0] == pytest.approx(terms[False][1], rel=1e-4)


def test_the_pool_returns_older_images_and_is_part_of_the_state() -> None:
    torch.manual_seed(0)
    pool = ImagePool(4, 2)
    for value in range(4):
        fake = torch.full((1, 3, 2, 2), float(value))
        assert torch.equal(pool.exchange(fake), fake)  # the pool is not full
    returned = {float(pool.exchange(torch.full((1, 3, 2, 2), 9.0))[0, 0, 0, 0]) for _ in range(30)}
    assert 9.0 in returned
    assert returned & {0.0, 1.0, 2.0, 3.0}
    other = ImagePool(4, 2)
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other.images, pool.images)


def test_dehazenet_has_the_sizes_of_the_paper() -> None:
    torch.manual_seed(0)
    net = DehazeNet()
    assert net(torch.rand(2, 3, PATCH, PATCH)).shape == (2, 1, 1, 1)
    weights = 3 * 16 * 25 + 16 + 4 * 16 * (9 + 25 + 49) + 48 + 48 * 36 + 1  # of the layers in the paper
    assert sum(parameter.numel() for parameter in net.parameters()) == weights
    hazy = torch.rand(1, 3, 9, 40)
    found = refine(dehazenet(hazy, net), hazy)
    assert found.transmission.shape == (1, 1, 9, 40)


def test_the_physical_model_starts_at_the_mean_haze_parameters() -> None:
    torch.manual_seed(0)
    model = PhysicalHaze(PhysicalConfig(channels=8)).eval()
    with torch.no_grad():
        airlight, beta = model.haze_parameters(model.encode(torch.rand(2, 3, 64, 96), "hazy"))
    assert airlight.flatten().tolist() == pytest.approx([0.9] * 6, abs=0.05)
    assert beta.tolist() == pytest.approx([1.2] * 2, abs=0.3)


def test_doubled_convolution_equals_upsampling_and_convolution() -> None:
    torch.manual_seed(0)
    layer, x = DoubledConv(4, 6).double(), torch.randn(2, 4, 9, 7, dtype=torch.float64)
    enlarged = F.interpolate(x, scale_factor=2.0, mode="nearest")
    wanted = F.conv2d(enlarged, layer.conv.weight, layer.conv.bias, padding=2)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))  # borders differ, because the small map is padded
    assert torch.allclose(layer(x)[inside], wanted[inside], atol=1e-12)


@pytest.mark.parametrize(
    ("crop", "scales", "layers", "norm", "fits"),
    [
        (64, 2, 3, False, True),
        (16, 1, 4, False, True),  # the input of the last layer is 2 x 2
        (16, 1, 5, False, False),
        (16, 1, 4, True, False),  # a normalization would have one sample
        (32, 2, 4, False, True),
        (30, 1, 2, False, False),  # not a multiple of the stride
        (4, 1, 1, False, False),
    ],
)
def test_crops_that_are_too_small_are_refused(crop: int, scales: int, layers: int, norm: bool, fits: bool) -> None:
    sizes = DiscriminatorConfig(channels=2, scales=scales, layers=layers, norm=norm)
    config = TranslatorConfig(channels=2, blocks=1, discriminator=sizes)
    if fits:
        model = HazeTranslator(config, crop).train()
        made = model(torch.rand(1, 3, crop, crop), torch.rand(1, 3, crop, crop))
        assert all(score.isfinite().all() for score in model.judges["hazy"](made.hazed))
    else:
        with pytest.raises(UsageError, match="crop"):
            HazeTranslator(config, crop)
