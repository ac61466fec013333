"""The loss, the hard phase on the symbols of the encoder, and model folders without frozen coding."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latens.data.source import Source
from latens.errors import ModelError
from latens.hub import save_model
from latens.settings import override, to_dict
from latens.systems.image_codec.config import ROUNDING_WEIGHT, HyperpriorConfig, RateDistortionConfig
from latens.systems.image_codec.model import MeanScaleHyperprior
from latens.systems.image_codec.objective import RateDistortion, export_codec
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
