"""The structural distortion, its loss, and the training that uses it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latens.data.samples import photographs
from latens.data.source import Source
from latens.data.tensors import to_tensor
from latens.errors import UsageError
from latens.metrics.ssimulacra2 import ssimulacra2
from latens.settings import override
from latens.systems.image_codec.config import RateDistortionConfig
from latens.systems.image_codec.objective import RateDistortion
from latens.systems.image_codec.passes import Reconstruction
from latens.systems.image_codec.recipes import perceptual
from latens.systems.image_codec.structure import TERMS, structural_distortion
from latens.systems.image_codec.system import LEARN_ENCODER, build

SMALL = {"data.crop": "128", "data.batch": "1", "model.base.hidden": "12", "model.base.latent": "72"}


def photograph() -> np.ndarray:
    """A detail of 160 x 224 pixels."""
    with Image.open(photographs()[0].path) as image:
        return np.asarray(image.convert("RGB"))[40:200, 100:324].copy()


def score(distortion: float) -> float:
    """SSIMULACRA2 of the sum of its weighted terms (Sneyers 2023)."""
    scaled = 0.9562382616834844 * distortion
    cubic = 2.326765642916932 * scaled - 0.020884521182843837 * scaled**2 + 6.248496625763138e-05 * scaled**3
    return float(100 - 10 * cubic**0.6276336467831387)


@pytest.mark.parametrize("deviation", [4.0, 12.0, 30.0])
def test_the_distortion_is_that_of_an_independent_implementation(deviation: float) -> None:
    """The package continues images differently at their borders, so these borders are equal and gray."""
    noise = np.random.default_rng(0).normal(0, deviation, photograph().shape)
    noisy = (photograph() + noise).clip(0, 255).astype(np.uint8)
    original, decoded = (np.pad(image, ((96, 96), (96, 96), (0, 0)), constant_values=128) for image in (photograph(), noisy))
    expected = ssimulacra2(original, decoded)
    found = structural_distortion(to_tensor(original[None]), to_tensor(decoded[None]))
    assert expected is not None
    assert score(float(found)) == pytest.approx(expected, abs=0.3)


def test_identical_images_have_no_distortion_and_a_finite_gradient() -> None:
    image = to_tensor(photograph()[None])
    decoded = image.clone().requires_grad_()
    found = structural_distortion(image, decoded)
    assert 0 <= float(found.detach()) < 0.01
    (slope,) = torch.autograd.grad(found.sum(), decoded)
    assert bool(slope.isfinite().all())


def test_the_terms_are_the_large_weights_of_the_package() -> None:
    from ssimulacra2.ssimulacra2 import weights

    published = weights.reshape(3, 6, 2, 3)  # channel, scale, norm, map
    expected = {
        (scale, channel, kind, norm): pytest.approx(published[channel, scale, norm, kind], abs=1e-6)
        for channel, scale, norm, kind in np.argwhere(published > 0.9).tolist()
    }
    assert {term[:4]: term[4] for term in TERMS} == expected


def test_autocast_changes_nothing() -> None:
    image = to_tensor(photograph()[None])
    decoded = (image + 0.05 * torch.randn_like(image)).clamp(0, 1)
    plain = structural_distortion(image, decoded)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(structural_distortion(image, decoded), plain)


def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slope * log(rate) + .75 log(structure) + .25 log(MSE of means), at qualities 1 and 1.5 of two rates."""

    def known(original: Tensor, decoded: Tensor) -> Tensor:
        return torch.tensor([0.5, 2.0]) - 1e-3

    monkeypatch.setattr("latens.systems.image_codec.objective.structural_distortion", known)
    config = RateDistortionConfig(rounding="encoder", distortion="structure", slopes=(0.8, 1.2), coarse_share=0.25)
    image = torch.zeros(2, 3, 8, 8)
    checkers = torch.tensor([[0.3, -0.1], [-0.1, 0.3]]).repeat(4, 4)  # mean 0.1, mean square 0.05
    coded = Reconstruction(image + checkers, torch.full((2,), 96.0), torch.tensor([32.0, 16.0]))
    loss, parts = RateDistortion(config, (0.005, 0.02)).structural_loss(coded, image, torch.tensor([1.0, 1.5]))
    expected = [
        slope * math.log(bpp) + 0.75 * math.log(structure) + 0.25 * math.log(0.01 + 1e-6)
        for slope, bpp, structure in ((0.8, 2.0, 0.5), (1.0, 1.75, 2.0))
    ]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)
    assert parts["bpp"].tolist() == [2.0, 1.75]
    assert parts["mse"].tolist() == pytest.approx([0.05, 0.05], rel=1e-4)
    assert parts["coarse_mse"].tolist() == pytest.approx([0.01, 0.01], rel=1e-4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    return tmp_path


def test_a_step_trains_transforms_and_gains_for_the_symbols_of_files(folder: Path) -> None:
    torch.manual_seed(0)
    trainable = build(override(perceptual(), SMALL), [Source("", str(folder))])
    model: Any = trainable.model
    image, quality = trainable.data.batch(0, 0)["image"], torch.tensor([2.0, 7.0])
    coded = model(image, quality, rounding="encoder")
    written = model.rounded(image, quality, rate_weight=20.0)
    torch.testing.assert_close(coded.image, written.image, rtol=1e-3, atol=1e-3)
    (step,) = trainable.objective(model, {"image": image}, 0)
    step.loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(name.startswith(LEARN_ENCODER) for name in learned)
    assert {name.partition(".")[0] for name in learned} == {"analysis", "hyper_analysis", "synthesis", "gains"}
    assert {"bpp", "mse", "structure", "coarse_mse"} == set(step.logs)


def test_validation_has_the_loss_of_the_training(folder: Path) -> None:
    trainable = build(override(perceptual(), SMALL), [Source("", str(folder))])
    objective: Any = trainable.objective
    batch = trainable.data.validation()[:1]
    found = objective.validate(trainable.model, batch)
    losses = []
    for level in range(1, 9):
        quality = torch.tensor([float(level)])
        coded = trainable.model.rounded(batch[0]["image"], quality, rate_weight=20.0)  # type: ignore[operator]
        losses.append(float(objective.structural_loss(coded, batch[0]["image"], quality)[0]))
    assert found["loss"] == pytest.approx(sum(losses) / 8, rel=1e-4)


def test_slopes_are_those_of_the_rates(folder: Path) -> None:
    config = override(perceptual(), {**SMALL, "objective.slopes": "[1.0, 1.0]"})
    with pytest.raises(UsageError, match="the model has 8 rates, but there are 2 slopes"):
        build(config, [Source("", str(folder))])
