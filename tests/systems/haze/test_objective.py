"""Validation, sample sheets and export of the losses of haze, with models whose outputs are known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latens.codes.mmd import code_mmd, signal_to_noise
from latens.systems.haze.baselines.dehazenet import DehazeNet
from latens.systems.haze.config import (
    DiscriminatorConfig,
    PatchLossConfig,
    PhysicalConfig,
    PhysicalLossConfig,
    PriorConfig,
    TranslationLossConfig,
    TranslatorConfig,
)
from latens.systems.haze.formation import HazeParameters
from latens.systems.haze.layers import PerDomain
from latens.systems.haze.methods import dehazenet, refine
from latens.systems.haze.model import HazeTranslator
from latens.systems.haze.objective import (
    PatchObjective,
    PhysicalObjective,
    TranslationObjective,
    frozen,
    half_weights,
    prior_term,
    psnr,
)
from latens.systems.haze.physical import PhysicalHaze, consistency
from latens.systems.haze.protocol import HazyScene, removal_rows, synthesis_rows

from .test_paper import BATCH, FixedPhysical, FixedTranslator, physical_batch, plain


def decibels(error: float) -> float:
    return -10 * math.log10(error**2)


def pixels(*values: float) -> np.ndarray:
    """2 x 2 blocks of gray values side by side, as bytes."""
    row = np.repeat(np.rint(255 * np.array(values)), 2)
    return np.broadcast_to(row[None, :, None], (2, len(row), 3)).astype(np.uint8)


def test_psnr_is_a_mean_over_images() -> None:
    """Errors of 0.1 and 0.01 everywhere: 20 and 40 dB; an exact image counts as 100 dB."""
    a = torch.zeros(2, 3, 2, 5)
    b = torch.stack([torch.full((3, 2, 5), 0.1), torch.full((3, 2, 5), 0.01)])
    assert psnr(a, b) == pytest.approx(30, abs=1e-4)
    b[0, :, :, 1:] = 0  # a fifth of the pixels: 7 dB more
    assert psnr(a, b) == pytest.approx((20 + 10 * math.log10(5) + 40) / 2, abs=1e-4)
    assert psnr(a, a) == pytest.approx(100)


class Scaled(nn.Module):
    """A translator that halves hazy images and adds 0.2 to clear ones."""

    def translate(self, image: Tensor, to: str) -> Tensor:
        assert to in ("clear", "hazy")
        return image / 2 if to == "clear" else image + 0.2


def test_validation_of_a_translator() -> None:
    """With the truth PSNR of both directions, without it of the cycle; the loss is minus the mean."""
    known = {"hazy": plain(0.6), "clear": plain(0.9), "truth": plain(0.2)}  # 0.3 for 0.2, 0.4 for 0.6
    other = {**known, "truth": plain(0.25)}  # 0.3 for 0.25, 0.45 for 0.6
    objective = TranslationObjective(TranslationLossConfig())
    model: Any = Scaled()
    numbers = objective.validate(model, [known, other])
    dehaze, haze = (decibels(0.1) + decibels(0.05)) / 2, (decibels(0.2) + decibels(0.15)) / 2
    expected = {"loss": -(dehaze + haze) / 2, "dehaze_psnr": dehaze, "haze_psnr": haze}
    assert numbers == pytest.approx(expected, rel=1e-4)
    unpaired = objective.validate(model, [{"hazy": plain(0.6), "clear": plain(0.9)}])
    assert unpaired == pytest.approx({"loss": -decibels(0.1), "cycle_psnr": decibels(0.1)}, rel=1e-4)  # 0.6, 0.3, 0.5


def test_sheets_of_a_translator() -> None:
    objective = TranslationObjective(TranslationLossConfig())
    two = {"hazy": torch.cat([plain(0.6), plain(0.1)]), "clear": torch.cat([plain(0.8), plain(0.1)])}
    model: Any = Scaled()
    ((name, sheet),) = objective.images(model, [two, {}]).items()
    assert name == "hazy_dehazed_clear_hazed"
    np.testing.assert_array_equal(sheet, pixels(0.6, 0.3, 0.8, 1.0))
    with_truth = objective.images(model, [{**two, "truth": plain(0.2)}])[name]
    np.testing.assert_array_equal(with_truth, pixels(0.6, 0.3, 0.2, 0.4))


def test_exports_are_halves_without_the_history() -> None:
    sizes = TranslatorConfig(channels=2, blocks=1, discriminator=DiscriminatorConfig(channels=2, scales=1, layers=1, pool=3))
    translator = HazeTranslator(sizes, 8)
    found = TranslationObjective(TranslationLossConfig()).export(translator, [])
    names = set(translator.state_dict())
    assert set(found.weights) == {name for name in names if not name.startswith("pools.")} < names
    assert (found.coding, found.config) == ({}, {})
    physical = PhysicalHaze(PhysicalConfig(channels=2))
    for objective, model in (
        (PhysicalObjective(PhysicalLossConfig()), physical),
        (PatchObjective(PatchLossConfig()), DehazeNet()),
    ):
        made = objective.export(model, [])  # type: ignore[arg-type]
        assert (made.coding, made.config) == ({}, {})
        for name, tensor in model.state_dict().items():
            assert torch.equal(made.weights[name], tensor.half())
    assert set(half_weights(physical)) == set(physical.state_dict())


def test_logs_of_the_generators() -> None:
    """Every weighted term by its name, and the signal-to-noise ratio of the hazy code; judges are frozen for one step only."""
    config = TranslationLossConfig(prior=PriorConfig(kind="kl"))
    judge, model = nn.Parameter(torch.ones(())), FixedTranslator()
    model.judges.register_parameter("scale", judge)
    first, second = TranslationObjective(config)(model, BATCH, 0)
    assert (first.optimizer, first.logs) == ("discriminators", {})
    assert set(second.logs) == {"adversarial", "reconstruction", "cycle", "prior", "code_snr_db"}
    terms = torch.stack([torch.as_tensor(value) for name, value in second.logs.items() if name != "code_snr_db"])
    assert float(second.loss) == pytest.approx(float(terms.sum()), rel=1e-6)
    assert float(second.logs["code_snr_db"]) == float(signal_to_noise(plain(1.0, 2)))
    assert judge.requires_grad
    with frozen(model.judges):
        assert not judge.requires_grad
    assert judge.requires_grad


def test_the_discriminators_see_the_history() -> None:
    """With a history the fakes are those that `exchange` returns, in the domain of the discriminator."""

    class Pool(nn.Module):
        def exchange(self, fakes: Tensor) -> Tensor:
            return fakes + 1

    class WithHistory(FixedTranslator):
        pools: Any = PerDomain(Pool(), nn.Identity())

    model: Any = WithHistory()
    config = TranslationLossConfig(adversarial_weight=1, prior=PriorConfig(kind="none"))
    found = TranslationObjective(config).discriminator_terms(model, "hazy", plain(0.0), plain(-0.2))
    assert float(found) == pytest.approx(1 + 0.8**2, rel=1e-5)


@pytest.mark.parametrize("kind", ["kl", "mmd"])
def test_the_prior_term_of_sampled_codes(kind: Any) -> None:
    """Noise of unit variance is added before the distance is taken; the kernels are factors on the bandwidth."""
    mean = torch.linspace(-1, 2, 2 * 3 * 4).view(2, 3, 2, 2)
    torch.manual_seed(3)
    noisy = mean + torch.randn_like(mean)
    if kind == "kl":
        expected = noisy.square().mean()
    else:
        expected = code_mmd(noisy, positions=5, bandwidths=[1.5, 4.5])
    torch.manual_seed(3)
    config = PriorConfig(kind=kind, sampled=True, bandwidth=1.5, kernels=(1.0, 3.0), positions=5)
    assert float(prior_term(mean, config)) == pytest.approx(float(expected), rel=1e-6)
    if kind == "kl":
        assert float(prior_term(mean, PriorConfig(kind="kl"))) == pytest.approx(float(mean.square().mean()))
    else:  # by default sigma is the square root of the code's dimension
        torch.manual_seed(4)
        by_default = prior_term(mean, PriorConfig(positions=5))
        torch.manual_seed(4)
        assert float(by_default) == pytest.approx(float(code_mmd(mean, positions=5, bandwidths=[math.sqrt(3)])), rel=1e-6)


# ----------------------------------------------------------------------------------------------------- physical, DehazeNet

T_PREDICTED = math.exp(-2 * 0.25)  # depth 0.25 and beta 2 of FixedPhysical
CLEAR = (0.6 - 0.8) / T_PREDICTED + 0.8
T_CLEAR = math.exp(-1.2 * 0.75)  # its depth of the clear image, and the mean beta


def test_validation_of_the_physical_model() -> None:
    """Dehazing uses predictions; synthesis uses the means of airlight and beta, 0.9 and 1.2, not those of the batch."""
    model: Any = FixedPhysical()
    hazy = 0.4 * T_CLEAR + 0.9 * (1 - T_CLEAR)
    other = {**physical_batch(), "truth": plain(0.5)}
    other_hazy = 0.5 * T_CLEAR + 0.9 * (1 - T_CLEAR)
    numbers = PhysicalObjective(PhysicalLossConfig()).validate(model, [physical_batch(), other])
    dehaze = (decibels(CLEAR - 0.4) + decibels(CLEAR - 0.5)) / 2
    haze = (decibels(hazy - 0.6) + decibels(other_hazy - 0.6)) / 2
    assert numbers == pytest.approx({"loss": -(dehaze + haze) / 2, "dehaze_psnr": dehaze, "haze_psnr": haze}, rel=1e-4)


def test_a_sheet_of_the_physical_model() -> None:
    """Hazy, dehazed, clear, hazed, and the predicted and true transmission, of the first image."""
    doubled = {name: torch.cat([tensor, tensor / 2]) for name, tensor in physical_batch().items()}
    model: Any = FixedPhysical()
    found = PhysicalObjective(PhysicalLossConfig()).images(model, [doubled, {}])
    hazed = 0.4 * T_CLEAR + 0.9 * (1 - T_CLEAR)
    expected = pixels(0.6, CLEAR, 0.4, hazed, T_PREDICTED, math.exp(-0.5 * 1.0))
    np.testing.assert_array_equal(found["hazy_dehazed_clear_hazed_t_truth"], expected)


def test_the_consistency_is_weighted() -> None:
    torch.manual_seed(0)
    model = PhysicalHaze(PhysicalConfig(channels=2)).eval()
    batch = {**physical_batch(), "hazy": torch.rand(1, 3, 64, 64), "truth": torch.rand(1, 3, 64, 64)}
    batch["depth"] = torch.rand(1, 1, 64, 64)
    loss = PhysicalLossConfig(prior=PriorConfig(kind="none"))  # only the consistency draws numbers
    with torch.no_grad():
        (plain_step,) = PhysicalObjective(replace(loss, consistency_weight=0))(model, batch, 0)
        torch.manual_seed(1)  # of the size of the reduction
        (step,) = PhysicalObjective(replace(loss, consistency_weight=3))(model, batch, 0)
        torch.manual_seed(1)
        expected = consistency(model, batch["hazy"], model(batch["hazy"], batch["truth"]))
    assert float(expected) > 1e-4
    assert float(step.loss - plain_step.loss) == pytest.approx(3 * float(expected), rel=1e-3)
    assert "consistency" not in plain_step.logs
    assert float(step.logs["code_snr_db"]) == pytest.approx(
        float(signal_to_noise(model.encode(batch["hazy"], "hazy").whole)), rel=1e-5
    )


@torch.no_grad()
def test_validation_and_sheet_of_dehazenet() -> None:
    torch.manual_seed(0)
    net, objective = DehazeNet().eval(), PatchObjective(PatchLossConfig())
    batches = [{"hazy": torch.rand(1, 3, 24, 32), "truth": torch.rand(1, 3, 24, 32)} for _ in range(2)]
    found = [refine(dehazenet(batch["hazy"], net), batch["hazy"]) for batch in batches]
    clear = [one.clear(batch["hazy"]) for one, batch in zip(found, batches, strict=True)]
    expected = sum(
        decibels(float((made - batch["truth"]).square().mean().sqrt())) for made, batch in zip(clear, batches, strict=True)
    )
    assert objective.validate(net, batches) == pytest.approx({"loss": -expected / 2, "dehaze_psnr": expected / 2}, rel=1e-4)
    wide = {name: torch.cat([tensor, tensor.flip(0, 2)]) for name, tensor in batches[0].items()}
    sheet = objective.images(net, [wide, {}])["hazy_dehazed_clear_t"]
    views = [batches[0]["hazy"], clear[0], batches[0]["truth"], found[0].transmission.expand(-1, 3, -1, -1)]
    np.testing.assert_array_equal(
        sheet, np.rint(255 * torch.cat(views, 3)[0].permute(1, 2, 0).numpy().clip(0, 1)).astype(np.uint8)
    )


def test_steps_have_one_optimizer() -> None:
    class Net(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            return patches[:, :1, :1, :1]

    (step,) = PatchObjective(PatchLossConfig())(Net(), {"patches": torch.rand(2, 3, 4, 4)}, 0)
    assert (step.optimizer, step.logs) == ("model", {})
    (step,) = PhysicalObjective(PhysicalLossConfig())(FixedPhysical(), physical_batch(), 0)
    assert step.optimizer == "model"
    names = {"clear", "transmission", "synthesis", "haze_parameters", "depth", "code", "code_snr_db"}
    assert set(step.logs) - {"prior"} == names
    bright = {**physical_batch(), "hazy": plain(1.0), "truth": plain(1.0)}  # 1.13 is shown as 1
    assert PhysicalObjective(PhysicalLossConfig()).validate(FixedPhysical(), [bright])["dehaze_psnr"] == pytest.approx(100)  # type: ignore[arg-type]


def test_rows_of_the_protocol() -> None:
    """Every output of Table 1 by its name: methods as published and as `dehaze` runs them, and the references by Eq. 1."""

    class Methods:
        device = torch.device("cpu")

        def published_pixels(self, pixels: np.ndarray, method: str) -> Any:
            return f"published {method}"

        def dehaze_pixels(self, pixels: np.ndarray, method: str) -> Any:
            return f"rules {method}"

        def translate(self, image: Tensor, kind: str, to: str) -> Tensor:
            assert (kind, to) == ("mmd", "hazy")
            return image / 2

    clear, depth = torch.full((1, 3, 40, 40), 0.3), torch.full((1, 1, 40, 40), 0.5)
    parameters = HazeParameters(torch.full((1, 3), 0.8), torch.tensor([5.0]))
    t = math.exp(-2.5)
    sample = HazyScene(clear * t + 0.8 * (1 - t), clear, depth, parameters)
    found: dict[str, Any] = dict(removal_rows(Methods(), ["mmd"], sample))  # type: ignore[arg-type]
    mean_t = math.exp(-1.2 * 0.5)
    hazy = 0.3 * t + 0.8 * (1 - t)
    assert list(found) == [
        "do nothing", "dcp", "dcp, full size", "dcp, gentle", "bccr", "mmd", "dcp + rules", "bccr + rules",
        "true depth, mean haze", "true depth and airlight, mean beta", "true transmission and airlight",
    ]  # fmt: skip
    assert [found[name] for name in ("dcp", "bccr", "mmd", "dcp + rules", "bccr + rules")] == [
        "published dcp", "published bccr", "published mmd", "rules dcp", "rules bccr",
    ]  # fmt: skip
    values = {
        "do nothing": hazy, "true depth, mean haze": (hazy - 0.9) / mean_t + 0.9,
        "true depth and airlight, mean beta": (hazy - 0.8) / mean_t + 0.8, "true transmission and airlight": 0.3,
    }  # fmt: skip
    for name, value in values.items():
        assert found[name].shape == (40, 40, 3)
        assert int(found[name][3, 5, 1]) == round(255 * value), name
    made = dict(synthesis_rows(Methods(), ["mmd"], sample))  # type: ignore[arg-type]
    assert list(made) == ["do nothing", "ramp for depth, mean haze", "mmd", "true depth, mean haze"]
    assert torch.equal(made["do nothing"], clear)
    assert torch.equal(made["mmd"], clear / 2)
    torch.testing.assert_close(made["true depth, mean haze"], clear * mean_t + 0.9 * (1 - mean_t))
    for row, ramp in ((0, 1.0), (39, 0.0), (13, 1 - 13 / 39)):
        t_row = math.exp(-1.2 * ramp)
        assert float(made["ramp for depth, mean haze"][0, 0, row, 3]) == pytest.approx(
            0.3 * t_row + 0.9 * (1 - t_row), rel=1e-5
        )
