"""The scattering model, its inverse, and visibility."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from latens.data.tensors import decode_srgb, encode_srgb
from latens.errors import UsageError
from latens.systems.haze import formation

from .oracles import measure_beta


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 12, 17, generator=generator), torch.rand(2, 1, 12, 17, generator=generator) * 100 + 1


def test_equation_1_pixel_by_pixel() -> None:
    clear, depth = scene()
    airlight, beta = torch.tensor([[0.8, 0.9, 1.0], [0.9, 0.9, 0.9]]), torch.tensor([0.01, 0.03])
    hazy = formation.add_haze(clear, formation.transmission(depth, beta), airlight)
    t = math.exp(-0.03 * float(depth[1, 0, 4, 5]))
    expected = float(clear[1, 2, 4, 5]) * t + 0.9 * (1 - t)
    assert float(hazy[1, 2, 4, 5]) == pytest.approx(expected, abs=1e-6)


def test_removal_inverts_synthesis() -> None:
    clear, depth = scene()
    t, airlight = formation.transmission(depth, torch.tensor([0.01, 0.02])), torch.full((2, 3), 0.9)
    back = formation.remove_haze(formation.add_haze(clear, t, airlight), t, airlight, floor=0.01)
    torch.testing.assert_close(back, clear, atol=1e-4, rtol=0)


def test_sky_is_airlight() -> None:
    clear, depth = scene()
    depth[:] = math.inf
    hazy = formation.add_haze(clear, formation.transmission(depth, torch.tensor([0.01, 0.02])), torch.full((2, 3), 0.85))
    torch.testing.assert_close(hazy, torch.full_like(hazy, 0.85))


def test_visibility_is_where_contrast_falls_to_five_percent() -> None:
    beta = formation.beta_of_visibility(150)
    assert beta == pytest.approx(math.log(20) / 150)
    assert math.exp(-beta * 150) == pytest.approx(0.05)
    assert formation.visibility_of_beta(beta) == pytest.approx(150)


def test_measured_beta_equals_the_given_one() -> None:
    clear, depth = scene()
    airlight = torch.tensor([0.95, 0.9, 0.85])
    found = []
    for beta in np.geomspace(0.005, 0.03, 6):
        t = formation.transmission(depth[:1], torch.tensor([beta], dtype=torch.float32))
        hazy = formation.add_haze(clear[:1], t, airlight[None]).mul(255).round().div(255)
        found.append(measure_beta(hazy[0], clear[0], depth[0], airlight))
        assert found[-1] == pytest.approx(beta, rel=0.05)
    assert found == sorted(found)


def test_beta_without_usable_pixels_is_refused() -> None:
    clear, depth = scene()
    with pytest.raises(ValueError, match="no pixel"):
        measure_beta(clear[0], clear[0], depth[0] * math.inf, torch.ones(3))


def test_haze_parameters_have_the_ranges_of_the_paper_and_are_seeded() -> None:
    drawn = formation.draw_haze_parameters(np.random.default_rng(3), 500)
    assert drawn.airlight.shape == (500, 3)
    assert 0.8 <= float(drawn.airlight.min()) < 0.81
    assert 0.99 < float(drawn.airlight.max()) <= 1.0
    assert 0.8 <= float(drawn.beta.min()) < 0.82
    assert 1.58 < float(drawn.beta.max()) <= 1.6
    again = formation.draw_haze_parameters(np.random.default_rng(3), 500)
    assert torch.equal(drawn.airlight, again.airlight)


def test_linear_light_mixes_light() -> None:
    # Half the light of white over black is sRGB 188, not 128 (IEC 61966-2-1).
    mixed = formation.add_haze(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 3), linear_light=True)
    assert float(mixed[0, 0]) * 255 == pytest.approx(188, abs=0.6)
    values = torch.linspace(0, 1, 50)
    torch.testing.assert_close(encode_srgb(decode_srgb(values)), values, atol=1e-5, rtol=0)


def test_the_scattering_coefficient_of_a_command() -> None:
    assert formation.scattering(150.0, None, 40.0) == pytest.approx(math.log(20) / 150)
    assert formation.scattering(None, 0.02, 40.0) == 0.02
    assert formation.scattering(None, None, 40.0) == pytest.approx(1.2 / 40)
    with pytest.raises(UsageError, match="--visibility and --beta exclude each other") as both:
        formation.scattering(150.0, 0.02, 40.0)
    assert both.value.hint == "give one of them"
    for arguments, name in (
        ((0.0, None, 40.0), "visibility"),
        ((None, -1.0, 40.0), "beta"),
        ((None, None, math.inf), "max_depth"),
    ):
        with pytest.raises(UsageError, match=f"{name} must be above 0") as caught:
            formation.scattering(*arguments)
        value = next(value for value in arguments if value is not None and not 0 < value < math.inf)
        assert caught.value.where == f"--{name} {value:g}"


def test_nearly_gray_airlight() -> None:
    """A share of the images has three colors within 0.02 of the first draw, at most 1; beta is that of the same seed."""
    drawn = formation.draw_haze_parameters(np.random.default_rng(3), 400, gray=0.5, airlight=(0.9, 1.0), beta=(2.0, 3.0))
    plain = formation.draw_haze_parameters(np.random.default_rng(3), 400, airlight=(0.9, 1.0), beta=(2.0, 3.0))
    rng = np.random.default_rng(3)
    colors, beta = rng.uniform(0.9, 1.0, (400, 3)), rng.uniform(2.0, 3.0, 400)
    nearly = (colors[:, :1] + rng.uniform(-0.02, 0.02, (400, 3))).clip(0, 1)
    gray = rng.random((400, 1)) < 0.5
    np.testing.assert_allclose(drawn.airlight.numpy(), np.where(gray, nearly, colors), atol=1e-6)
    np.testing.assert_allclose(drawn.beta.numpy(), beta, rtol=1e-6)
    np.testing.assert_allclose(plain.airlight.numpy(), colors, rtol=1e-6)
    assert 0.4 < gray.mean() < 0.6
    whole = formation.draw_haze_parameters(np.random.default_rng(3), 400, gray=1.0)
    assert float((whole.airlight.amax(1) - whole.airlight.amin(1)).max()) <= 0.04 + 1e-6


def test_srgb_outside_and_at_its_limits() -> None:
    """IEC 61966-2-1: linear below 0.04045 (0.0031308 of light), a power of 2.4 above; values are clamped to [0, 1]."""
    values = torch.tensor([-0.5, 0.0, 0.02, 0.04045, 0.5, 1.0, 1.5], dtype=torch.float64)
    expected = [0, 0, 0.02 / 12.92, 0.04045 / 12.92, ((0.5 + 0.055) / 1.055) ** 2.4, 1, 1]
    assert decode_srgb(values).tolist() == pytest.approx(expected)
    light = torch.tensor([-0.5, 0.0, 0.002, 0.0031308, 0.2, 1.0, 1.5], dtype=torch.float64)
    expected = [0, 0, 0.002 * 12.92, 0.0031308 * 12.92, 1.055 * 0.2 ** (1 / 2.4) - 0.055, 1, 1]
    assert encode_srgb(light).tolist() == pytest.approx(expected)
