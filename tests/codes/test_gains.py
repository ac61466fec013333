"""Lambda of a quality, its inverse, and gains between rates."""

from __future__ import annotations

import math

import pytest
import torch

from latens.codes.gains import RateGains, interpolate, lambda_at, lambda_of, quality_at

THREE = (0.001, 0.004, 0.064)


def test_lambda_is_interpolated_geometrically() -> None:
    qualities = [1.0, 1.5, 2.0, 2.5, 3.0, 9.0, 0.0]
    expected = [0.001, 0.002, 0.004, 0.016, 0.064, 0.064, 0.001]
    assert lambda_of(THREE, torch.tensor(qualities)).tolist() == pytest.approx(expected, rel=1e-5)
    assert [lambda_at(THREE, quality) for quality in qualities] == pytest.approx(expected, rel=1e-12)


def test_one_rate_has_one_lambda() -> None:
    assert lambda_of((0.02,), torch.tensor([1.0, 1.0])).tolist() == pytest.approx([0.02, 0.02])
    assert (lambda_at((0.02,), 1.0), quality_at((0.02,), 0.5)) == pytest.approx((0.02, 1.0))


def test_quality_and_lambda_are_inverse() -> None:
    for quality in (1.0, 1.3, 2.0, 2.99, 3.0):
        assert quality_at(THREE, lambda_at(THREE, quality)) == pytest.approx(quality, abs=1e-9)
    assert (quality_at(THREE, 1e-5), quality_at(THREE, 1.0)) == (1.0, 3.0)


def test_interpolation_matches_its_ends_and_middle() -> None:
    table = torch.tensor([[0.0, 10.0], [1.0, 20.0], [4.0, 40.0]])
    rows = interpolate(table, torch.tensor([0.0, 1.0, 1.25, 3.0]))
    assert rows.tolist() == [[0.0, 10.0], [0.0, 10.0], [0.25, 12.5], [4.0, 40.0]]


def test_gains_start_at_the_square_root_of_lambda_and_are_inverse() -> None:
    """The optimal step of a uniform quantizer at high rate: squared step proportional to 1 / lambda."""
    gains = RateGains(2, THREE)
    quality = torch.tensor([1.0, 2.0, 3.0, 1.7])
    forward, inverse = gains.forward_gain(quality).detach(), gains.inverse_gain(quality).detach()
    assert forward.shape == (4, 2, 1, 1)
    torch.testing.assert_close(forward * inverse, torch.ones_like(forward))
    ratio = float(forward[2, 0, 0, 0] / forward[0, 0, 0, 0])
    assert ratio == pytest.approx(math.sqrt(THREE[2] / THREE[0]), rel=1e-5)
