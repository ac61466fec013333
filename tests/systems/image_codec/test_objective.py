"""The model's parts add up, gradients reach every parameter, and a folder without coding can be finished."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch

from latens.errors import ModelError
from latens.hub import save_model
from latens.systems.image_codec.config import ImageCodecConfig, RateDistortionConfig
from latens.systems.image_codec.model import MeanScaleHyperprior, interpolate
from latens.systems.image_codec.objective import RateDistortion, export_codec, finish_folder
from latens.systems.image_codec.predict import load

SIZES = [
    ImageCodecConfig(hidden=8, latent=12, hyper=12),
    ImageCodecConfig(hidden=8, latent=12, hyper=8, lambdas=(0.002, 0.01, 0.05), transforms="compact"),
]


@pytest.mark.parametrize("config", SIZES, ids=["paper", "compact"])
@pytest.mark.parametrize("straight_through", [True, False])
def test_every_parameter_receives_a_finite_gradient(config: ImageCodecConfig, straight_through: bool) -> None:
    torch.manual_seed(0)
    model = MeanScaleHyperprior(config)
    with torch.no_grad():
        model.hyper_analysis[-1].weight.mul_(300)  # or every z would round to zero
    objective = RateDistortion(RateDistortionConfig(straight_through=straight_through), config.lambdas)
    (step,) = objective(model, {"image": torch.rand(4, 3, 64, 64)}, 0)
    step.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", SIZES, ids=["paper", "compact"])
def test_evaluation_is_deterministic_and_batches_do_not_matter(config: ImageCodecConfig) -> None:
    torch.manual_seed(0)
    model = MeanScaleHyperprior(config).eval()
    image, quality = torch.rand(2, 3, 64, 128), torch.tensor([1.0, 2.5])
    together = model.rounded(image, quality)
    for index in range(2):
        alone = model.rounded(image[index : index + 1], quality[index : index + 1])
        torch.testing.assert_close(alone.bits_y[0], together.bits_y[index], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(alone.image[0], together.image[index], rtol=1e-3, atol=1e-3)


def test_lambda_is_interpolated_geometrically() -> None:
    objective = RateDistortion(RateDistortionConfig(), (0.001, 0.004, 0.064))
    weights = objective.weight(torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0, 9.0]))
    assert weights.tolist() == pytest.approx([0.001, 0.002, 0.004, 0.016, 0.064, 0.064], rel=1e-5)


def test_interpolation_matches_its_ends_and_middle() -> None:
    table = torch.tensor([[0.0, 10.0], [1.0, 20.0], [4.0, 40.0]])
    rows = interpolate(table, torch.tensor([0.0, 1.0, 1.25, 3.0]))
    assert rows.tolist() == [[0.0, 10.0], [0.0, 10.0], [0.25, 12.5], [4.0, 40.0]]


def test_the_loss_is_bits_per_pixel_plus_weighted_error() -> None:
    # 003, section 5.4.1: the squared error of 8-bit values is weighted by lambda.
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


def test_a_folder_saved_without_an_entropy_coder_is_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = SIZES[1]
    model, image = MeanScaleHyperprior(config).eval(), torch.rand(1, 3, 64, 64)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "constriction", None)
        for name in [name for name in sys.modules if name.startswith("latens.") and "cod" in name]:
            patch.delitem(sys.modules, name)
        export = export_codec(model, [image])
    assert not export.coding
    described = {"system": "image_codec", "model": dataclasses.asdict(config), **export.config}
    save_model(tmp_path, described, export.weights, export.coding)
    with pytest.raises(ModelError, match="ready for coding"):
        load(tmp_path, device="cpu")
    finish_folder(tmp_path, [image])
    assert load(tmp_path, device="cpu").compress(image)
