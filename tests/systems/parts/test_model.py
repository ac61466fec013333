"""All models of Table 1: gradients, sizes, equations, receptive fields."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

import pytest
import torch
from torch import nn

from latens.nn.stages import StagedEncoder
from latens.systems.parts.baseline_objectives import gradient_penalty
from latens.systems.parts.baselines import Adversarial, PairCritic, build_model, discriminator
from latens.systems.parts.config import (
    BetaVAEConfig,
    BetaVAELoss,
    MaskedConfig,
    PatchVAEConfig,
    PatchVAELoss,
)
from latens.systems.parts.model import BasicBlock, BetaVAE, PatchVAE, local_encoder, resnet_encoder
from latens.systems.parts.objective import Elbo, energy_weight, weighted_error

SMALL = PatchVAEConfig(size=16, encoder="local", parts=4, appearance=3)
SMALL_VAE = BetaVAEConfig(size=16, encoder="local", parts=4, appearance=3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("categorical", [None, False, True])
def test_an_adversarial_step_updates_each_side_once(categorical: bool | None, weighted: bool) -> None:
    torch.manual_seed(0)
    if categorical is None:
        model = Adversarial(BetaVAE(SMALL_VAE))
        objective = Elbo(BetaVAELoss(adversarial=10.0, weighted=weighted))
    else:
        model = Adversarial(PatchVAE(replace(SMALL, categorical=categorical)))
        objective = Elbo(PatchVAELoss(adversarial=10.0, weighted=weighted))
    names = []
    for step in objective(model, {"image": torch.rand(6, 3, 16, 16)}, 0):
        (group,) = objective.optimizers[step.optimizer]
        owned = [p for n, p in model.named_parameters() if n.startswith(group.prefixes)]
        for parameter in owned:
            parameter.grad = None
        step.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in owned)
        names.append(step.optimizer)
    assert names == ["judge", "model"]


@pytest.mark.parametrize("encoder", ["local", "resnet"])
@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_convolutional_models_accept_any_multiple_of_eight(encoder: Literal["local", "resnet"], size: tuple[int, int]) -> None:
    for config in (replace(SMALL, encoder=encoder), MaskedConfig(size=16, encoder=encoder)):
        assert build_model(config)(torch.rand(2, 3, *size), 0.5).image.shape == (2, 3, *size)


@pytest.mark.parametrize("size", [16, 32, 72, 224])
def test_the_discriminator_works_at_any_size(size: int) -> None:
    assert discriminator()(torch.rand(2, 3, size, size)).shape == (2, 1)


def test_the_encoder_of_imagenet_is_a_whole_resnet18() -> None:
    encoder = resnet_encoder(4)
    assert encoder(torch.rand(1, 3, 64, 64)).shape == (1, 512, 2, 2)
    assert sum(p.numel() for p in encoder.parameters()) == 11_176_512  # torchvision's resnet18 without its last layer
    assert sum(p.numel() for p in resnet_encoder(2).parameters()) == 683_072  # the released encoder


class View(NamedTuple):
    """Receptive field of a cell along one side, in pixels."""

    size: int
    stride: int


def receptive_field(encoder: StagedEncoder, head: int = 1) -> View:
    """Receptive field after a head of side `head`, computed along the deepest path."""
    view = View(1, 1)
    for layer in encoder.modules():  # in the order of execution; shortcuts have smaller receptive fields
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not _on_shortcut(encoder, layer):
            side, stride = _whole(layer.kernel_size), _whole(layer.stride)
            view = View(view.size + (side - 1) * view.stride, view.stride * stride)
    return View(view.size + (head - 1) * view.stride, view.stride)


def _on_shortcut(encoder: StagedEncoder, layer: nn.Module) -> bool:
    shortcuts = (block.shortcut for block in encoder.modules() if isinstance(block, BasicBlock))
    return any(layer is part for shortcut in shortcuts for part in shortcut.modules())


def _whole(value: object) -> int:
    return int(value[0]) if isinstance(value, tuple) else int(value)  # type: ignore[call-overload]


@pytest.mark.parametrize(("encoder", "head", "seen"), [(resnet_encoder(2), 3, 115), (local_encoder(), 1, 24)])
def test_receptive_fields_match_gradients(encoder: StagedEncoder, head: int, seen: int) -> None:
    assert receptive_field(encoder, head).size == seen
    assert receptive_field(encoder, head).stride == 8
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    features = encoder.eval()(image)
    radius = head // 2
    middle = features.shape[2] // 2
    features[:, :, middle - radius : middle + radius + 1, middle].abs().sum().backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()  # type: ignore[union-attr]
    assert 0.8 * seen < int(rows.max() - rows.min()) + 1 <= seen  # weights at the ends of a wide field may round to 0


def test_appearances_of_absent_parts_have_no_effect() -> None:
    """Codes that differ only in appearances of absent parts give the same image (Eq. 5)."""
    torch.manual_seed(0)
    model = PatchVAE(SMALL).eval()
    occurrence = torch.zeros(1, 4, 2, 2)
    occurrence[0, 1, :, 0] = 1
    appearance = torch.randn(1, 4, 3)
    other = appearance.clone()
    other[0, [0, 2, 3]] += 5
    assert torch.equal(model.decode(appearance, occurrence), model.decode(other, occurrence))
    other[0, 1] += 5
    assert not torch.allclose(model.decode(appearance, occurrence), model.decode(other, occurrence))


def test_the_decoder_runs_once_per_step() -> None:
    model = PatchVAE(SMALL)
    calls = []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(2, 3, 16, 16), 0.5)
    assert calls == [1]


def test_pooling_weights_pass_no_gradient_to_occurrences() -> None:
    model = PatchVAE(SMALL)
    model.posterior(torch.rand(2, 3, 16, 16)).appearance.mean.sum().backward()
    assert model.occurrence.weight.grad is None


def test_categorical_probabilities_sum_to_one() -> None:
    torch.manual_seed(0)
    model = PatchVAE(replace(SMALL, categorical=True))
    logits = model.posterior(torch.rand(2, 3, 16, 16)).logits
    torch.testing.assert_close(model.probability(logits).sum(1), torch.ones(2, 2, 2))
    torch.testing.assert_close(model.sample_occurrence(logits, 0.3, hard=True).sum(1), torch.ones(2, 2, 2))
    assert torch.equal(model.hard_occurrence(logits).sum(1), torch.ones(2, 2, 2))
    found = model(torch.rand(2, 3, 16, 16), 0.5)
    assert found.kl_occ.sum(1).max() <= 4 * torch.tensor(4.0).log()  # four cells, at most log N each
    certain = torch.zeros(1, 4, 2, 2)
    certain[:, 1] = 30.0
    torch.testing.assert_close(
        model.occurrence_kl(certain), torch.tensor([[0.0, 4 * math.log(4), 0.0, 0.0]]), atol=1e-5, rtol=1e-5
    )


# ------------------------------------------------------------------------------------------------------------ losses


def test_energy_weight_is_the_laplacian_of_every_patch() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    weight = energy_weight(image)
    padded = nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    energy = torch.zeros(2, 3)
    for b, c in ((0, 0), (1, 2)):
        cells = torch.zeros(2, 3, dtype=torch.float64)
        for i in range(16):
            for j in range(24):
                around = (
                    padded[b, c, i, j + 1] + padded[b, c, i + 2, j + 1] + padded[b, c, i + 1, j] + padded[b, c, i + 1, j + 2]
                )
                cells[i // 8, j // 8] += (around - 4 * image[b, c, i, j]).abs() / 64
        expected = cells / cells.mean()
        torch.testing.assert_close(weight[b, c, ::8, ::8], expected, rtol=1e-3, atol=1e-3)
        energy[b, c] = weight[b, c].mean()
    assert energy[0, 0] == pytest.approx(1, abs=1e-9)


def test_constant_patches_and_images_are_safe() -> None:
    image = torch.rand(3, 3, 16, 16)
    image[0] = 0.4  # a whole image
    image[1, 2] = 1.0  # one color
    image[2, :, :8, :8] = 0.0  # one patch
    image.requires_grad_()
    weight = energy_weight(image)
    assert weight.isfinite().all()
    torch.testing.assert_close(weight[0], torch.ones(3, 16, 16))
    torch.testing.assert_close(weight[1, 2], torch.ones(16, 16))
    assert weight[2, :, 2:6, 2:6].max() < 0.5
    weighted_error(torch.rand(3, 3, 16, 16), image).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_constant_batches_train_without_nan(value: float, weighted: bool) -> None:
    torch.manual_seed(0)
    model = PatchVAE(SMALL)
    (step,) = Elbo(PatchVAELoss(weighted=weighted))(model, {"image": torch.full((4, 3, 16, 16), value)}, 10**9)
    step.loss.backward()
    assert step.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_loss_is_the_sum_of_eq_11() -> None:
    torch.manual_seed(0)
    losses = PatchVAELoss(beta_app=0.7, beta_occ=1.9)
    model = PatchVAE(SMALL)
    (step,) = Elbo(losses)(model, {"image": torch.rand(4, 3, 16, 16)}, 0)
    logs = {name: float(torch.as_tensor(value).detach()) for name, value in step.logs.items()}
    assert float(step.loss.detach()) * 3 * 16 * 16 == pytest.approx(
        logs["error"] + 0.7 * logs["kl_app"] + 1.9 * logs["kl_occ"], rel=1e-5
    )
    assert Elbo(losses).temperature(0) == 1.0
    assert Elbo(losses).temperature(12_000) == 0.1


def test_gradient_penalty_is_the_squared_norm_of_a_linear_critic() -> None:
    class Linear(nn.Module):
        def forward(self, image: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
            return 3 * image.sum((1, 2, 3)) - 2 * vector.sum(1)

    found = gradient_penalty(Linear(), torch.rand(2, 3, 4, 4), torch.rand(2, 5))  # type: ignore[arg-type]
    assert float(found.detach()) == pytest.approx(0.5 * (9 * 48 + 4 * 5))
    assert PairCritic(5, 16)(torch.rand(2, 3, 16, 16), torch.rand(2, 5)).shape == (2,)
