"""MMD: Eq. 8 against loops, no bias, zero for equal distributions; codes move towards the prior."""

from __future__ import annotations

import math

import pytest
import torch

from latens.codes.mmd import code_kl, code_mmd, default_bandwidth, gaussian_kernel, mmd, signal_to_noise


def draws(count: int, dimension: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) + shift


def test_equation_8_in_loops() -> None:
    x, y, sigma = draws(7, 3, 0), draws(5, 3, 1, 0.5), 1.3

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * sigma**2))

    expected = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    expected += sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    expected -= 2 * sum(k(x[i], y[j]) for i in range(7) for j in range(5)) / (7 * 5)
    assert float(mmd(x, y, [sigma])) == pytest.approx(expected, abs=1e-12)


def test_several_kernels_are_averaged() -> None:
    x, y = draws(20, 4, 0), draws(30, 4, 1, 0.3)
    single = [float(mmd(x, y, [sigma])) for sigma in (0.5, 1.0, 2.0)]
    assert float(mmd(x, y, [0.5, 1.0, 2.0])) == pytest.approx(sum(single) / 3, abs=1e-12)


def test_mmd_is_unbiased() -> None:
    # Over many pairs of samples of one distribution the mean is 0; the mean of the biased estimate is about 2 (1 - k) / m.
    values = [float(mmd(draws(8, 2, 2 * i), draws(8, 2, 2 * i + 1), [1.0])) for i in range(600)]
    mean, error = sum(values) / 600, (sum(v * v for v in values) / 600**2) ** 0.5
    assert abs(mean) < 3 * error
    assert min(values) < 0


def test_mmd_has_the_closed_form_of_shifted_gaussians() -> None:
    # For N(0, 1) and N(s, 1): 2 (1 + 2/sigma^2)^(-1/2) (1 - exp(-s^2 / (2 (sigma^2 + 2)))).
    x, y = draws(4000, 1, 0), draws(4000, 1, 1, 1.0)
    expected = 2 / math.sqrt(3) * (1 - math.exp(-1 / 6))
    assert float(mmd(x, y, [1.0])) == pytest.approx(expected, rel=0.1)


def test_one_sample_has_no_unbiased_estimate() -> None:
    with pytest.raises(ValueError, match=r"^the unbiased estimate needs two samples on each side, got 1 and 5$"):
        mmd(draws(1, 2, 0), draws(5, 2, 1), [1.0])


def test_default_bandwidth_puts_the_kernel_at_one_over_e() -> None:
    for dimension in (8, 256):
        x, y = draws(200, dimension, 0), draws(200, dimension, 1)
        kernel = gaussian_kernel(x, y, [default_bandwidth(dimension)])
        assert float(kernel.mean()) == pytest.approx((1 + 2 / dimension) ** (-dimension / 2), rel=0.03)  # tends to 1/e


def test_gradient_descent_moves_a_code_to_the_prior() -> None:
    torch.manual_seed(0)
    code = torch.nn.Parameter(0.1 * torch.randn(2, 2, 8, 8) + 2)
    optimizer = torch.optim.Adam([code], 0.05)
    first = float(code_mmd(code.detach(), positions=128))
    for _ in range(200):
        optimizer.zero_grad()
        code_mmd(code, positions=128, bandwidths=(0.7, 1.4, 2.8)).backward()
        optimizer.step()
    assert first > 0.5
    found = code.detach()
    assert float(code_mmd(found, positions=128)) < 0.05
    assert abs(float(found.mean())) < 0.3
    assert 0.7 < float(found.std()) < 1.3


def test_positions_are_samples_and_are_limited() -> None:
    torch.manual_seed(0)
    code = torch.randn(3, 5, 20, 20)
    code[:, :, 0, 0] = 1e3  # one position far away changes little
    assert abs(float(code_mmd(code, positions=100))) < 0.2
    with pytest.raises(ValueError, match=r"^the unbiased estimate needs two samples on each side, got 1 and 1$"):
        code_mmd(code[:1, :, :1, :1], positions=100)


def test_kl_and_signal_to_noise() -> None:
    mean = torch.zeros(2, 3, 4, 4)
    assert float(code_kl(mean)) == 0
    mean[0] = 2
    assert float(code_kl(mean)) == pytest.approx(2)
    torch.manual_seed(0)
    assert float(signal_to_noise(10 * torch.randn(4, 8, 16, 16))) == pytest.approx(20, abs=0.3)
