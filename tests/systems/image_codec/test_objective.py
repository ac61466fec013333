"""The loss, the hard phase on the symbols of the encoder, and model folders without frozen coding."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.paper_values import filled, golden, waves

from latens.codes.entropy import gaussian_bits
from latens.data.source import Source
from latens.errors import ModelError
from latens.hub import save_model
from latens.settings import override, to_dict
from latens.systems.image_codec.config import ROUNDING_WEIGHT, HyperpriorConfig, RateDistortionConfig
from latens.systems.image_codec.context_model import ContextNetwork
from latens.systems.image_codec.model import (
    MeanScaleHyperprior,
    analysis_transform,
    hyper_analysis_transform,
    hyper_synthesis_transform,
    synthesis_transform,
)
from latens.systems.image_codec.objective import RateDistortion, export_codec
from latens.systems.image_codec.passes import Reconstruction
from latens.systems.image_codec.predict import load
from latens.systems.image_codec.recipes import cpu_hard
from latens.systems.image_codec.system import LEARN_HARD, build

SIZES = [
    HyperpriorConfig(hidden=8, latent=12, hyper=12),
    HyperpriorConfig(hidden=8, latent=12, hyper=8, lambdas=(0.002, 0.01, 0.05), transforms="compact"),
]


def test_the_hard_phase_codes_the_symbols_of_files_and_freezes_the_encoder(tmp_path: Path) -> None:
    """Rate and image equal those of test-time rounding; only decoder and entropy model get gradients."""
    Image.fromarray((np.indices((80, 80)).sum(0) % 256).astype(np.uint8)).convert("RGB").save(tmp_path / "a.png")
    config = override(cpu_hard(), {"data.crop": "64", "data.batch": "2", "model.hidden": "12", "model.latent": "24"})
    torch.manual_seed(0)
    trainable = build(config, [Source("", str(tmp_path))])
    model, image, quality = trainable.model, torch.rand(2, 3, 64, 64), torch.tensor([2.0, 7.5])
    assert isinstance(model, MeanScaleHyperprior)
    bias = model.hyper_synthesis[-1].bias
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():
        bias.add_(1.0)  # with untrained scales rate-aware rounding equals plain rounding
    coded = model(image, quality, rounding="hard")
    written = model.rounded(image, quality, rate_weight=ROUNDING_WEIGHT)
    torch.testing.assert_close(coded.bits_y, written.bits_y, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(coded.image, written.image, rtol=1e-4, atol=1e-4)
    assert not torch.equal(written.bits_y, model.rounded(image, quality).bits_y)
    (step,) = trainable.objective(model, {"image": image}, 0)
    step.loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(name.startswith(LEARN_HARD) for name in learned)
    assert {name.partition(".")[0] for name in learned} == {"synthesis", "hyper_synthesis", "gains"}


@pytest.mark.parametrize("config", SIZES, ids=["paper", "compact"])
def test_evaluation_is_deterministic_and_independent_of_the_batch(config: HyperpriorConfig) -> None:
    torch.manual_seed(0)
    model = MeanScaleHyperprior(config).eval()
    image, quality = torch.rand(2, 3, 64, 128), torch.tensor([1.0, 2.5])
    together = model.rounded(image, quality)
    for index in range(2):
        alone = model.rounded(image[index : index + 1], quality[index : index + 1])
        torch.testing.assert_close(alone.bits_y[0], together.bits_y[index], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(alone.image[0], together.image[index], rtol=1e-3, atol=1e-3)


def test_the_loss_is_bits_per_pixel_plus_weighted_error() -> None:
    # Perugachi-Diaz 2024, section 5.4.1: the squared error of 8-bit values is weighted by lambda.
    torch.manual_seed(0)
    config = SIZES[0]
    model = MeanScaleHyperprior(config).eval()
    image = torch.rand(1, 3, 64, 64)
    objective = RateDistortion(RateDistortionConfig(), config.lambdas)
    numbers = objective.validate(model, [{"image": image}])
    coded = model.rounded(image, torch.ones(1))
    bpp = float(coded.bits_y + coded.bits_z) / 64**2
    error = float(((coded.image - image) * 255).square().mean())
    assert numbers["loss"] == pytest.approx(math.log(bpp + 0.01 * error), rel=1e-5)
    assert numbers["psnr_1"] == pytest.approx(10 * math.log10(255**2 / error), rel=1e-5)


def test_a_folder_without_its_frozen_coding_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SIZES[1]
    model, image = MeanScaleHyperprior(config).eval(), torch.rand(1, 3, 64, 64)
    export = export_codec(model, [image])
    save_model(tmp_path, {"system": "image_codec", "model": to_dict(config)}, export.weights, {})
    with pytest.raises(ModelError, match="not frozen for coding"):
        load(tmp_path, device="cpu")


# ------------------------------------------------------------------------------------------------- known bits and errors

LAMBDAS = (0.001, 0.01, 0.1)
ERRORS = (0.3, 0.1, 0.02, 0.07, 0.13)  # of quality 1 to 5


class Known:
    """Quality q has 64 q bits for y and 16 for z of an image of 8 x 8 pixels, and an error of every value."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float | None]] = []

    def rounded(self, image: torch.Tensor, quality: torch.Tensor, *, rate_weight: float | None = None) -> Reconstruction:
        level = float(quality[0])
        assert quality.tolist() == [level] * len(image)
        self.asked.append((level, rate_weight))
        return Reconstruction(image + ERRORS[int(level) - 1], 64 * quality, torch.full_like(quality, 16.0))


@pytest.mark.parametrize(
    ("rounding", "weight"), [("noise", None), ("mixed", None), ("hard", ROUNDING_WEIGHT), ("entropy", ROUNDING_WEIGHT)]
)
def test_validation_of_several_rates(rounding: Any, weight: float | None) -> None:
    """The mean logarithm of bpp + lambda 255^2 MSE; rounding as in training; one entry per rate."""
    model: Any = Known()
    batches = [{"image": torch.zeros(2, 3, 8, 8)}, {"image": torch.full((1, 3, 8, 8), 0.5)}]
    numbers = RateDistortion(RateDistortionConfig(rounding=rounding), LAMBDAS).validate(model, batches)
    logs = [math.log(q + 0.25 + LAMBDAS[q - 1] * 255**2 * ERRORS[q - 1] ** 2) for q in (1, 2, 3)]
    expected = {"loss": sum(logs) / 3}
    for q in (1, 2, 3):
        expected |= {f"bpp_{q}": q + 0.25, f"psnr_{q}": -20 * math.log10(ERRORS[q - 1])}
    assert numbers == pytest.approx(expected, rel=1e-5)
    assert model.asked == [(float(q), weight) for q in (1, 1, 2, 2, 3, 3)]


@pytest.mark.parametrize(("rates", "levels"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (5, [1, 3, 5])])
def test_a_sheet_of_the_rates(rates: int, levels: list[int]) -> None:
    """The first image of the first batch, and its reconstructions at the lowest, middle and highest rate."""
    model: Any = Known()
    batches: list[dict[str, torch.Tensor]] = [{"image": torch.stack([torch.full((3, 8, 8), 0.23), torch.zeros(3, 8, 8)])}, {}]
    lambdas = tuple(0.001 * 2**rate for rate in range(rates))
    sheet = RateDistortion(RateDistortionConfig(), lambdas).images(model, batches)["reconstructions"]
    values = [0.23, *(0.23 + ERRORS[level - 1] for level in levels)]
    expected = np.repeat(np.rint(255 * np.array(values)), 8)
    np.testing.assert_array_equal(sheet, np.broadcast_to(expected[None, :, None], (8, len(expected), 3)))


def test_logs_of_a_training_step() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, image: torch.Tensor, quality: torch.Tensor, *, rounding: str) -> Reconstruction:
            return Reconstruction(image + 0.1, torch.full((2,), 96.0), torch.tensor([32.0, 16.0]))

    (step,) = RateDistortion(RateDistortionConfig(), LAMBDAS)(Fixed(), {"image": torch.zeros(2, 3, 8, 8)}, 0)
    assert step.optimizer == "model"
    assert {name: float(value) for name, value in step.logs.items()} == pytest.approx(
        {"bpp": 1.875, "mse": 0.01, "bpp_z": 0.375}
    )


def test_the_entropy_phase_averages_logarithms_of_the_rate() -> None:
    """Bits of y at scales of a context codec and 32 bits of z per image of 4 x 4 pixels; only the entropy model learns."""

    class Context(ContextNetwork):
        coding_parts: Any = None
        of_integers: Any = None
        latent_model: Any = None

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def as_encoded(self, image: torch.Tensor, quality: torch.Tensor) -> tuple[Any, torch.Tensor]:
            bits = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
            return SimpleNamespace(bits=lambda: bits), torch.tensor([32.0, 16.0])

    (step,) = RateDistortion(RateDistortionConfig(rounding="entropy"), LAMBDAS)(
        Context(), {"image": torch.zeros(2, 3, 4, 4)}, 0
    )
    rates = [(sum(range(12)) + 32) / 16, (sum(range(12, 24)) + 16) / 16]
    assert float(step.loss) == pytest.approx((math.log(rates[0]) + math.log(rates[1])) / 2, rel=1e-6)
    assert step.optimizer == "model"
    assert {name: float(value) for name, value in step.logs.items()} == pytest.approx({"bpp": sum(rates) / 2})


# -------------------------------------------------------------------------------------------------------------- networks

NETWORKS: dict[str, tuple[Any, Any, list[float]]] = {
    "analysis": (lambda: analysis_transform(SIZES[0]), (1, 3, 64, 64), [0.0296285, 0.0315483]),
    "synthesis": (lambda: synthesis_transform(SIZES[0]), (1, 12, 3, 2), [0.100888, -0.000518031]),
    "compact analysis": (lambda: analysis_transform(SIZES[1]), (1, 3, 32, 48), [-0.0476852, -0.052558]),
    "compact synthesis": (lambda: synthesis_transform(SIZES[1]), (1, 12, 3, 2), [0.000788955, -0.000387478]),
    "hyper-analysis": (lambda: hyper_analysis_transform(SIZES[1]), (1, 12, 8, 4), [-0.038997, -0.0615327]),
    "hyper-synthesis": (lambda: hyper_synthesis_transform(SIZES[1]), (1, 8, 2, 3), [-0.0139583, -0.0012693]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_numbers_of_the_networks(name: str) -> None:
    """Outputs of fixed weights, measured once."""
    build, shape, expected = NETWORKS[name]
    with torch.no_grad():
        assert golden(filled(build())(0.5 + 0.1 * waves(*shape))) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@torch.no_grad()
def test_the_rounded_pass_by_hand() -> None:
    """z is rounded relative to the medians, y relative to its means; several rates repeat the latent."""
    model = filled(MeanScaleHyperprior(SIZES[1]))
    image, quality = 0.5 + 0.3 * waves(2, 3, 64, 64), torch.tensor([1.0, 2.5, 3.0, 1.0])
    assert model.gains is not None
    y = model.analysis(image).repeat(2, 1, 1, 1) * model.gains.forward_gain(quality)
    torch.testing.assert_close(model.scaled_latent(image, quality), y)
    medians = model.prior.medians()[None, :, None, None]
    z_hat = (model.hyper_analysis(y) - medians).round() + medians
    mean, scale = model.hyper_synthesis(z_hat).chunk(2, dim=1)
    symbols = (y - mean).round()
    found = model.rounded(image, quality)
    torch.testing.assert_close(found.bits_y, gaussian_bits(symbols, scale).sum((1, 2, 3)), rtol=1e-3, atol=1e-1)
    torch.testing.assert_close(found.bits_z, model.prior.bits(z_hat).sum((1, 2, 3)), rtol=1e-4, atol=1e-2)
    expected = model.synthesis((symbols + mean) * model.gains.inverse_gain(quality))
    torch.testing.assert_close(found.image, expected, rtol=1e-3, atol=1e-3)
    assert MeanScaleHyperprior(SIZES[0]).gains is None
