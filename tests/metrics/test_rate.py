"""BD-rate against derivations, published curves and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from latens.errors import InputError
from latens.metrics.plot import Panel, rate_distortion_plot
from latens.metrics.rate import Curve, Point, bd_rate, bits_per_pixel, compare, rate_at, shared_range, trace

# Kodak, PSNR of RGB, real files, as published with CompressAI (rounded).
MEAN_SCALE = (
    [0.124, 0.198, 0.307, 0.461, 0.662, 0.914, 1.234, 1.619],
    [27.70, 29.36, 31.13, 32.95, 34.97, 36.91, 38.84, 40.63],
)
AUTOREGRESSIVE = (
    [0.111, 0.187, 0.288, 0.432, 0.639, 0.885, 1.200, 1.587],
    [28.09, 29.65, 31.36, 33.09, 35.09, 36.99, 38.93, 40.64],
)
ANCHOR = ([0.120, 0.184, 0.271, 0.417, 0.595, 0.806], [28.58, 29.97, 31.34, 33.39, 35.12, 36.70])
BPG = ([0.068, 0.161, 0.352, 0.685, 1.200, 1.930], [26.20, 28.68, 31.60, 34.86, 38.26, 41.48])
JPEG = ([0.221, 0.327, 0.508, 0.729, 1.037, 1.572, 2.350], [23.78, 26.58, 29.04, 30.90, 32.79, 35.24, 37.91])


def curve(name: str, rates: list[float], qualities: list[float]) -> Curve:
    return Curve(name, tuple(Point(i, *pair) for i, pair in enumerate(zip(rates, qualities, strict=True))))


def test_bits_per_pixel() -> None:
    assert bits_per_pixel(768 * 512 // 8, 768, 512) == 1.0


@pytest.mark.parametrize("share", [0.8, 0.5, 1.0, 1.6])
def test_a_constant_rate_ratio(share: float) -> None:
    rates, qualities = MEAN_SCALE
    tested = [share * rate for rate in rates]
    assert bd_rate(rates, qualities, tested, qualities) == pytest.approx(100 * (share - 1), abs=1e-9)
    assert bd_rate(tested, qualities, rates, qualities) == pytest.approx(100 * (1 / share - 1), abs=1e-9)


@pytest.mark.parametrize(
    ("anchor", "tested", "percent"),
    [(MEAN_SCALE, AUTOREGRESSIVE, -8.0), (MEAN_SCALE, ANCHOR, -16.5), (BPG, MEAN_SCALE, -3.3)],
)
def test_published_curves(
    anchor: tuple[list[float], list[float]], tested: tuple[list[float], list[float]], percent: float
) -> None:
    """Percentages that another program computed from the unrounded points."""
    assert bd_rate(*anchor, *tested) == pytest.approx(percent, abs=0.1)


def test_against_quadrature() -> None:
    from scipy.interpolate import PchipInterpolator

    low, high = 27.70, 37.91
    grid = np.linspace(low, high, 20001)
    logs = [PchipInterpolator(qualities, np.log(rates))(grid) for rates, qualities in (JPEG, MEAN_SCALE)]
    expected = 100 * (np.exp(np.trapezoid(logs[1] - logs[0], grid) / (high - low)) - 1)
    assert bd_rate(*JPEG, *MEAN_SCALE) == pytest.approx(expected, abs=1e-3)


def test_order_of_points_does_not_matter() -> None:
    rates, qualities = MEAN_SCALE
    order = [3, 0, 7, 1, 5, 2, 6, 4]
    shuffled = [rates[i] for i in order], [qualities[i] for i in order]
    assert bd_rate(*JPEG, *shuffled) == pytest.approx(bd_rate(*JPEG, *MEAN_SCALE), abs=1e-12)


def test_the_lowest_rate_of_equal_qualities_counts() -> None:
    rates, qualities = MEAN_SCALE
    assert bd_rate(*JPEG, [*rates, 9.0], [*qualities, qualities[2]]) == bd_rate(*JPEG, *MEAN_SCALE)


@pytest.mark.parametrize(
    "tested",
    [
        ([0.1, 0.2], [50.0, 60.0]),  # above the anchor
        ([0.1, 0.2], [1.0, 27.70]),  # touches it in one point
        ([0.1], [30.0]),
        ([0.1, 0.2], [30.0, 30.0]),
        ([0.0, 0.2], [28.0, 30.0]),
        ([0.1, float("nan")], [28.0, 30.0]),
        ([0.1, 0.2, 0.3], [28.0, 30.0]),
        ([], []),
    ],
)
def test_incomparable_inputs_are_refused(tested: tuple[list[float], list[float]]) -> None:
    with pytest.raises(InputError):
        bd_rate(*MEAN_SCALE, *tested)


def test_comparison_names_its_range() -> None:
    found = compare(curve("JPEG", *JPEG), curve("ours", *MEAN_SCALE))
    assert (found.anchor, found.tested) == ("JPEG", "ours")
    assert (found.lowest, found.highest) == (27.70, 37.91) == shared_range(JPEG[1], MEAN_SCALE[1])
    assert found.percent < 0


def test_rate_for_a_quality() -> None:
    ours = curve("ours", *MEAN_SCALE)
    for rate, quality in zip(*MEAN_SCALE, strict=True):
        assert rate_at(ours, quality) == pytest.approx(rate, rel=1e-12)
    between = rate_at(ours, 30.0)
    assert between is not None
    assert 0.198 < between < 0.307
    assert rate_at(ours, 27.69) is None
    assert rate_at(ours, 40.64) is None
    assert rate_at(curve("one", [0.1], [30.0]), 30.0) is None


def test_trace_follows_the_curve() -> None:
    ours = curve("ours", *MEAN_SCALE)
    line = trace(ours, steps=50)
    assert line[0] == pytest.approx((0.124, 27.70))
    assert line[-1] == pytest.approx((1.619, 40.63))
    assert [rate_at(ours, quality) for _, quality in line] == pytest.approx([rate for rate, _ in line])
    assert trace(curve("one", [0.1], [30.0])) == [(0.1, 30.0)]


def test_plots_are_reproducible() -> None:
    import io

    from PIL import Image

    panel = Panel("PSNR (dB)", [curve("ours", *MEAN_SCALE), curve("JPEG", *JPEG)])
    one = rate_distortion_plot([panel, Panel("MS-SSIM (dB)", [])], dpi=50)
    two = rate_distortion_plot([panel, panel], title="two", dpi=50)
    assert one == rate_distortion_plot([panel], dpi=50)
    widths = [Image.open(io.BytesIO(image)).width for image in (one, two)]
    assert widths == [320, 640]  # 6.4 inches a panel
    with pytest.raises(ValueError, match="nothing"):
        rate_distortion_plot([Panel("PSNR (dB)", [])])
