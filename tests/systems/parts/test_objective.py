"""Validation, sample sheets and export of the losses of parts, with outputs that are known; golden numbers of the networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.paper_values import filled, golden, waves
from torch import Tensor, nn

from latens.settings import to_dict
from latens.systems.parts.baseline_objectives import BiGanObjective, MaskedObjective, SupervisedObjective
from latens.systems.parts.baselines import (
    Adversarial,
    BiGAN,
    MaskedAutoencoder,
    PairCritic,
    Supervised,
    build_model,
    discriminator,
)
from latens.systems.parts.config import (
    BetaVAEConfig,
    BetaVAELoss,
    BiGANConfig,
    BiGANLoss,
    MaskedConfig,
    MaskedLoss,
    PatchVAEConfig,
    PatchVAELoss,
    SupervisedConfig,
)
from latens.systems.parts.gallery import part_colors
from latens.systems.parts.model import (
    BasicBlock,
    BetaVAE,
    PatchVAE,
    Reconstruction,
    decoder,
    local_encoder,
    resnet_encoder,
    vector_head,
    vector_to_map,
)
from latens.systems.parts.objective import SEED, SHOWN, Elbo
from latens.systems.parts.statistics import Tally
from latens.systems.parts.two_views import TwoViews, iic_of_views
from latens.training.objective import ONE_OPTIMIZER

SIZES = PatchVAEConfig(size=16, encoder="local", parts=3, appearance=2)
VECTOR = BetaVAEConfig(size=16, encoder="local", parts=2, appearance=2)
VALUES = 3 * 16 * 16


def pictures(count: int, size: int = 16) -> Tensor:
    return 0.5 + 0.4 * waves(count, 3, size, size)


def sheet(rows: list[Tensor]) -> np.ndarray:
    """Rows of images side by side, as bytes."""
    values = torch.cat([torch.cat(list(row), 2) for row in rows], 1).detach()
    found: np.ndarray = np.rint(255 * values.clamp(0, 1).permute(1, 2, 0).double().numpy()).astype(np.uint8)
    return found


def equal_bytes(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert int(np.abs(found.astype(int) - expected).max()) <= 1  # rounding of halves


# --------------------------------------------------------------------------------------------------------- validation


@torch.no_grad()
def test_validation_of_eq_11() -> None:
    """Mean over images at the lowest temperature with one seed; PSNR without noise; statistics of the parts."""
    model, loss = filled(PatchVAE(SIZES)), PatchVAELoss(beta_app=3, beta_occ=5)
    batches = [{"image": pictures(3)}, {"image": 1 - pictures(2)}]
    numbers = Elbo(loss).validate(model, batches)
    error = app = occ = quality = 0.0
    tally = Tally()
    torch.manual_seed(SEED)
    for batch in batches:
        image = batch["image"]
        found = model(image, loss.annealing.floor, hard=loss.annealing.hard, prior=loss.prior)
        error += float((found.image - image).square().sum())
        app, occ = app + float(found.kl_app.sum()), occ + float(found.kl_occ.sum())
        plain = model.mean_image(image).image.clamp(0, 1)
        quality += sum(-10 * math.log10(float((a - b).square().mean())) for a, b in zip(plain, image, strict=True))
        tally.add(model.probability(model.occurrence(found.features)), found.kl_app, found.kl_occ)
    expected = {"error": error / 5, "kl_app": app / 5, "kl_occ": occ / 5, "psnr": quality / 5}
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert numbers["loss"] == pytest.approx((error + 3 * app + 5 * occ) / 5 / VALUES, rel=1e-4)
    summary = tally.statistics().summary()
    assert {name: numbers[name] for name in summary} == pytest.approx(summary, rel=1e-4)
    assert set(numbers) == {"loss", *expected, *summary}


def test_validation_leaves_the_random_generator_alone() -> None:
    model = filled(build_model(VECTOR))
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    Elbo(BetaVAELoss()).validate(model, [{"image": pictures(1)}])
    assert torch.equal(torch.rand(2), expected)


def test_validation_of_eq_3_and_of_views() -> None:
    model = filled(BetaVAE(VECTOR))
    numbers = Elbo(BetaVAELoss(beta_app=3)).validate(model, [{"image": pictures(2)}])
    assert set(numbers) == {"loss", "psnr", "error", "kl_app", "kl_occ"}
    assert numbers["loss"] == pytest.approx((numbers["error"] + 3 * numbers["kl_app"]) / VALUES, rel=1e-5)
    assert numbers["kl_occ"] == 0
    parts = filled(PatchVAE(PatchVAEConfig(size=32, encoder="local", parts=3, appearance=2)))
    image = pictures(2, 32)
    loss = PatchVAELoss(iic_weight=2.0)
    found = Elbo(loss).validate(parts, [{"image": image}])
    without = Elbo(PatchVAELoss()).validate(parts, [{"image": image}])
    assert found["loss"] == pytest.approx(without["loss"] + 2 * found["iic"], rel=1e-4)
    torch.manual_seed(1)
    views = Elbo(loss).views(parts, parts.mean_image(image), image)
    torch.manual_seed(1)
    assert float(views["iic"].detach()) == pytest.approx(
        float(iic_of_views(parts, parts.encoder(image), image).detach()), rel=1e-5
    )
    two = TwoViews(parts)
    assert set(Elbo(PatchVAELoss(contrastive_weight=1.0)).views(two, parts.mean_image(image), image)) == {"nt_xent"}
    assert Elbo(loss).weigh({"iic": 0.5}) == 1.0
    assert Elbo(PatchVAELoss(contrastive_weight=3.0, iic_weight=2.0)).weigh({"iic": 0.5, "nt_xent": 0.25}) == 1.75
    assert Elbo(BetaVAELoss()).weigh({}) == 0.0


def test_temperature_and_optimizers() -> None:
    elbo = Elbo(PatchVAELoss())
    schedule = PatchVAELoss().annealing
    assert elbo.temperature(0) == pytest.approx(schedule.start)
    assert elbo.temperature(10**9) == pytest.approx(schedule.floor)
    assert elbo.optimizers is ONE_OPTIMIZER
    plain = Elbo(BetaVAELoss())
    assert (plain.beta_occ, plain.iic_weight) == (0.0, 0.0)
    assert Elbo(PatchVAELoss(beta_occ=3.0, iic_weight=2.0)).iic_weight == 2.0
    two = Elbo(PatchVAELoss(adversarial=1.0)).optimizers
    assert {name: groups[0].prefixes for name, groups in two.items()} == {"judge": ("judge.",), "model": ("generator.",)}
    critic = BiGanObjective(BiGANLoss()).optimizers
    assert list(critic) == ["critic", "model"]
    assert critic["model"][0].prefixes == ("encoder.", "to_vector.", "from_vector.", "decoder.")


def test_logs_of_a_training_step() -> None:
    torch.manual_seed(0)
    model = Adversarial(PatchVAE(SIZES))
    judge, step = Elbo(PatchVAELoss(adversarial=2.0))(model, {"image": pictures(2)}, 7)
    assert (judge.optimizer, judge.logs, step.optimizer) == ("judge", {}, "model")
    logs = {name: float(torch.as_tensor(value).detach()) for name, value in step.logs.items()}
    assert set(logs) == {"error", "kl_app", "kl_occ", "temperature", "adversarial"}
    assert logs["temperature"] == Elbo(PatchVAELoss()).temperature(7)
    loss = PatchVAELoss()
    expected = logs["error"] + loss.beta_app * logs["kl_app"] + loss.beta_occ * logs["kl_occ"] + 2 * logs["adversarial"]
    assert float(step.loss.detach()) * VALUES == pytest.approx(expected, rel=1e-5)
    (plain,) = Elbo(BetaVAELoss())(filled(BetaVAE(VECTOR)), {"image": pictures(1)}, 0)
    assert set(plain.logs) == {"error", "kl_app", "kl_occ"}


# ------------------------------------------------------------------------------------------------------ sheets, export


@torch.no_grad()
def test_sheets_of_the_vaes() -> None:
    """Images, reconstructions and, for parts, the mean color of the parts of every cell."""
    image = pictures(SHOWN + 1)
    model = filled(PatchVAE(SIZES))
    found = Elbo(PatchVAELoss()).images(Adversarial(model), [{"image": image}, {}])["reconstructions"]
    chosen = model.posterior(image[:SHOWN]).logits > 0
    colors = torch.from_numpy(part_colors(3)).float()
    cells = torch.zeros(SHOWN, 3, 2, 2)
    for index in np.ndindex(SHOWN, 2, 2):
        present = chosen[index[0], :, index[1], index[2]]
        if present.any():
            cells[index[0], :, index[1], index[2]] = colors[present].mean(0)
    maps = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert 0 < int(chosen.sum()) < chosen.numel()
    equal_bytes(found, sheet([image[:SHOWN], model.mean_image(image[:SHOWN]).image, maps]))
    vector = filled(BetaVAE(VECTOR))
    found = Elbo(BetaVAELoss()).images(vector, [{"image": image[:2]}])["reconstructions"]
    equal_bytes(found, sheet([image[:2], vector.mean_image(image[:2]).image]))


def test_exports_hold_the_weights_and_the_settings() -> None:
    model = PatchVAE(SIZES)
    for wrapped in (model, Adversarial(model), TwoViews(model)):
        made = Elbo(PatchVAELoss()).export(wrapped, [])
        assert made.weights.keys() == model.state_dict().keys()
        assert (made.coding, made.config) == ({}, {"model": to_dict(SIZES)})
    masked = build_model(MaskedConfig(size=16, encoder="local"))
    found = MaskedObjective(MaskedLoss()).export(masked, [])  # type: ignore[arg-type]
    assert found.weights.keys() == masked.state_dict().keys()
    assert (found.coding, found.config) == ({}, {"model": to_dict(MaskedConfig(size=16, encoder="local"))})


class Pair(nn.Module):
    """E takes the mean and the first pixel, G paints the mean minus 0.1."""

    code = 2

    def encode(self, image: Tensor) -> Tensor:
        return torch.stack([image.mean((1, 2, 3)), image[:, 0, 0, 0]], 1)

    def decode(self, vector: Tensor) -> Tensor:
        return (vector[:, :1, None, None] - 0.1).expand(-1, 3, 4, 4)


def test_validation_and_sheet_of_bigan() -> None:
    """Squared errors 0.01 and 0.01 + variance; the last row is drawn with one seed."""
    model: Any = Pair()
    flat = torch.full((SHOWN + 2, 3, 4, 4), 0.5)
    striped = flat.clone()
    striped[..., ::2] += 0.2
    striped[..., 1::2] -= 0.2
    numbers = BiGanObjective(BiGANLoss()).validate(model, [{"image": flat}, {"image": striped}])
    assert numbers == pytest.approx({"loss": (0.01 + 0.05) / 2}, rel=1e-5)
    found = BiGanObjective(BiGANLoss()).images(model, [{"image": flat}])["reconstructions"]
    drawn = torch.randn(SHOWN, 2, generator=torch.Generator().manual_seed(SEED))
    equal_bytes(found, sheet([flat[:SHOWN], flat[:SHOWN] - 0.1, model.decode(drawn)]))


class Half(nn.Module):
    """Restores everything as 0.25; which half is hidden is random."""

    def forward(self, image: Tensor, share: float) -> Any:
        assert share == 0.3
        hidden = torch.zeros_like(image[:, :1])
        if float(torch.rand(())) < 0.5:
            hidden[:, :, :2] = 1
        else:
            hidden[:, :, 2:] = 1
        return type("Restored", (), {"image": torch.full_like(image, 0.25), "hidden": hidden})()


def test_validation_and_sheet_of_the_masked_autoencoder() -> None:
    """Errors of the hidden half, upper 0.25 and lower 0.5, by the order of one seed; validation is reproducible."""
    image = torch.full((SHOWN + 1, 3, 4, 4), 0.5)
    image[:, :, 2:] = 0.75
    objective, model = MaskedObjective(MaskedLoss(masked=0.3)), Half()
    torch.manual_seed(SEED)
    expected = np.mean([0.25**2 if float(torch.rand(())) < 0.5 else 0.5**2 for _ in range(3)])
    numbers = objective.validate(model, [{"image": image}] * 3)  # type: ignore[arg-type]
    assert numbers == pytest.approx({"loss": expected}, rel=1e-6)
    (step,) = objective(model, {"image": image}, 0)
    assert (step.optimizer, step.logs) == ("model", {})
    torch.manual_seed(3)
    found = objective.images(model, [{"image": image}, {}])["restored"]  # type: ignore[arg-type]
    torch.manual_seed(3)
    rows = slice(0, 2) if float(torch.rand(())) < 0.5 else slice(2, 4)
    hidden, restored = image[:SHOWN].clone(), image[:SHOWN].clone()
    hidden[:, :, rows], restored[:, :, rows] = 0, 0.25
    equal_bytes(found, sheet([image[:SHOWN], hidden, restored]))


def test_validation_and_sheet_of_supervised_training() -> None:
    class First(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.stack([image[:, 0, 0, 0], torch.zeros(len(image))], 1)

    image = torch.zeros(SHOWN + 1, 3, 4, 4)
    image[:, 0, 0, 0] = torch.linspace(-1, 1, SHOWN + 1)
    label = torch.arange(SHOWN + 1) % 2
    batches = [{"image": image[:4], "label": label[:4]}, {"image": image[4:], "label": label[4:]}]
    logits = torch.linspace(-1, 1, SHOWN + 1).double().numpy()
    costs = np.log1p(np.exp(np.where(label.numpy() == 0, -logits, logits)))
    right = (logits < 0) == (label.numpy() == 1)
    model: Any = First()
    objective = SupervisedObjective()
    assert objective.validate(model, batches) == pytest.approx({"loss": costs.mean(), "accuracy": right.mean()}, rel=1e-5)
    (step,) = objective(model, batches[0], 0)
    assert float(step.logs["accuracy"]) == pytest.approx(right[:4].mean())
    equal_bytes(objective.images(model, batches[1:])["held-out"], sheet([image[4:]]))
    equal_bytes(objective.images(model, [{"image": image}])["held-out"], sheet([image[:SHOWN]]))


# ----------------------------------------------------------------------------------------------------------- networks

NETWORKS: dict[str, tuple[Any, Any, list[float]]] = {
    "local encoder": (local_encoder, (1, 3, 24, 16), [0.291804, -0.00845299]),
    "encoder of the paper": (lambda: resnet_encoder(2), (1, 3, 32, 32), [0.42574, 0.00180698]),
    "three stages": (lambda: resnet_encoder(3), (1, 3, 32, 32), [0.309779, 0.00122811]),
    "block with a shortcut": (lambda: BasicBlock(3, 5, 2, (3, 1)), (2, 3, 6, 6), [0.104444, 0.00517212]),
    "block without": (lambda: BasicBlock(4, 4, 1), (2, 4, 5, 5), [0.331815, -0.000852346]),
    "decoder": (lambda: decoder(5), (1, 5, 2, 3), [-0.0939592, -0.00236285]),
    "decoder of stride 32": (lambda: decoder(5, 32), (1, 5, 1, 1), [-0.112409, 0.000351053]),
    "vector head": (lambda: vector_head(local_encoder(), 16, 6), (2, 128, 2, 2), [-0.100183, 0.00367654]),
    "vector to map": (lambda: vector_to_map(4, 3), (2, 4, 1, 1), [0.164172, -0.00425273]),
    "discriminator": (discriminator, (2, 3, 24, 16), [1.51751, 1.46616]),
    "critic": (lambda: PairCritic(4, 24).image, (2, 3, 24, 24), [0.00129821, 0.000780303]),
    "supervised": (
        lambda: Supervised(SupervisedConfig(size=16, encoder="local", classes=3)),
        (2, 3, 16, 16),
        [0.344021, 0.146753],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_numbers_of_the_networks(name: str) -> None:
    """Outputs of fixed weights, measured once."""
    build, shape, expected = NETWORKS[name]
    with torch.no_grad():
        assert golden(filled(build())(waves(*shape))) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_initial_weights() -> None:
    """Normal with variance 2 / fan-out (He et al. 2015) before ReLUs, and 1 / fan-out for the heads of parts."""
    torch.manual_seed(0)
    for encoder in (local_encoder(), resnet_encoder(2)):
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d):
                fan = layer.out_channels * layer.kernel_size[0] ** 2
                assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan), rel=0.08)
    model = PatchVAE(PatchVAEConfig(size=16, encoder="local", parts=64, appearance=2))
    for head in (model.occurrence, model.appearance):
        assert float(head.weight.detach().std()) == pytest.approx(math.sqrt(1 / head.out_channels), rel=0.05)


def test_forward_passes_by_their_parts() -> None:
    """PatchVAE, beta-VAE, BiGAN and the masked autoencoder are compositions of the networks above."""
    image = pictures(2)
    with torch.no_grad():
        model = filled(PatchVAE(SIZES))
        found = model(image, 0.7, hard=True, prior=0.2)
        assert isinstance(found, Reconstruction)
        assert sorted(model.hard_occurrence(torch.tensor([[-1.0, 0.0, 0.5]]).view(1, 3, 1, 1)).flatten().tolist()) == [0, 0, 1]
        posterior = model.posterior(image)
        torch.testing.assert_close(found.kl_occ, model.occurrence_kl(posterior.logits, 0.2))
        plain = model.mean_image(image)
        code = (posterior.logits > 0).float()[:, :, None] * posterior.appearance.mean[..., None, None]
        torch.testing.assert_close(plain.image, model.decoder(code.flatten(1, 2)) / 2 + 0.5, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain.kl_occ, model.occurrence_kl(posterior.logits, 1 / 3))
        vector = filled(BetaVAE(VECTOR))
        mean, logvar = vector.to_vector(vector.encoder(image)).flatten(1).chunk(2, 1)
        appearance = vector.posterior(image)
        torch.testing.assert_close(appearance.mean, mean)
        torch.testing.assert_close(appearance.variance, logvar.exp())
        torch.testing.assert_close(
            vector.mean_image(image).image, vector.decoder(vector.from_vector(mean[:, :, None, None])) / 2 + 0.5
        )
        bigan = filled(BiGAN(BiGANConfig(size=16, encoder="local", parts=2, appearance=3)))
        assert (bigan.code, bigan.config.parts) == (6, 2)
        torch.testing.assert_close(bigan.encode(image), bigan.to_vector(bigan.encoder(image)).flatten(1))
        torch.testing.assert_close(
            bigan.decode(mean.repeat(1, 2)[:, :6]),
            bigan.decoder(bigan.from_vector(mean.repeat(1, 2)[:, :6, None, None])) / 2 + 0.5,
        )
        pair = torch.cat([F.leaky_relu(bigan.critic.image(image), 0.2), bigan.critic.code(mean.repeat(1, 2)[:, :6])], 1)
        torch.testing.assert_close(bigan.critic(image, mean.repeat(1, 2)[:, :6]), bigan.critic.pair(pair)[:, 0])
        masked = filled(MaskedAutoencoder(MaskedConfig(size=16, encoder="local")))
        masked.token.fill_(0.5)
        torch.manual_seed(1)
        restored = masked(image, 0.4)
        torch.manual_seed(1)
        cells = (torch.rand(2, 1, 2, 2) < 0.4).float()
        hidden = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
        assert 0 < float(hidden.mean()) < 1
        torch.testing.assert_close(restored.hidden, hidden)
        seen = torch.where(hidden.bool(), torch.tensor(0.5), image)
        expected = F.pixel_shuffle(masked.restore(masked.encoder(seen)), 8) / 2 + 0.5
        torch.testing.assert_close(restored.image, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(build_model(SIZES), PatchVAE)
    assert isinstance(build_model(VECTOR), BetaVAE)
    assert isinstance(build_model(BiGANConfig(size=16, encoder="local", parts=2)), BiGAN)
    assert isinstance(build_model(MaskedConfig(size=16, encoder="local")), MaskedAutoencoder)
    assert isinstance(build_model(SupervisedConfig(size=16, encoder="local", classes=2)), Supervised)
    assert float(MaskedAutoencoder(MaskedConfig(size=16, encoder="local")).token.detach().mean()) == 0.5
