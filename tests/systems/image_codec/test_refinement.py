from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from latens.codes.annealing import Refine
from latens.codes.gains import lambda_at
from latens.codes.rate_target import RateTarget
from latens.data.images import LoadedImage, read_image
from latens.errors import UsageError
from latens.inference.tiling import in_row_blocks
from latens.metrics.image import psnr as measured_psnr
from latens.systems.image_codec.predict import ImageCodec
from latens.systems.image_codec.refinement import BudgetTooShort, RefinedImage, Trial, refine_image

QUALITY = RateTarget("quality", 2.0)
PEAK = 255**2


@pytest.fixture(scope="module")
def photo() -> LoadedImage:
    """90 x 75: neither side is a multiple of the stride."""
    row, column = np.mgrid[0:90, 0:75].astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 5, (90, 75, 3))
    waves = np.stack([np.sin((row * a + column * b) / 11) for a, b in ((1, 0.4), (0.3, -1), (-0.6, 0.6))], axis=-1)
    return read_image(np.clip(waves * 60 + 120 + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def refined(bundled: ImageCodec, photo: LoadedImage) -> RefinedImage:
    return refine_image(bundled, photo, QUALITY, Refine(steps=60))


def pixels_of(image: LoadedImage) -> int:
    return int(image.pixels.shape[0] * image.pixels.shape[1])


def decoded(codec: ImageCodec, blob: bytes) -> np.ndarray:
    return np.asarray(codec.decompress(blob))


def test_a_refined_file_has_the_reported_rate_and_psnr(bundled: ImageCodec, photo: LoadedImage, refined: RefinedImage) -> None:
    """The ordinary decoder gives the reported PSNR; the overhead of the file equals that of the unrefined file."""
    blob = bundled.write(photo, refined.symbols)
    best, start = refined.refined.best, refined.refined.start
    assert measured_psnr(decoded(bundled, blob), photo.pixels) == pytest.approx(float(best.psnr()), abs=1e-3)
    plain = bundled.compress(photo, quality=QUALITY.value)
    overhead = 8 * len(plain) - float(start.bits_y + start.bits_z)
    # The coder ends on words of 32 bits, once per band and once for z.
    assert 8 * len(blob) - float(best.bits_y + best.bits_z) == pytest.approx(overhead, abs=3 * 32)
    assert measured_psnr(decoded(bundled, plain), photo.pixels) == pytest.approx(float(start.psnr()), abs=1e-3)


def test_a_refined_file_is_better(bundled: ImageCodec, photo: LoadedImage, refined: RefinedImage) -> None:
    weight = lambda_at(bundled.lambdas, refined.symbols.quality / 256)

    def loss(blob: bytes) -> float:
        error = np.square(decoded(bundled, blob).astype(float) - photo.pixels).mean()
        return 8 * len(blob) / pixels_of(photo) + weight * float(error)

    assert loss(bundled.write(photo, refined.symbols)) < 0.99 * loss(bundled.compress(photo, quality=QUALITY.value))
    assert int(refined.refined.best_step) > 0


def test_the_same_seed_writes_the_same_bytes(bundled: ImageCodec, photo: LoadedImage, refined: RefinedImage) -> None:
    again = refine_image(bundled, photo, QUALITY, Refine(steps=60))
    assert bundled.write(photo, again.symbols) == bundled.write(photo, refined.symbols)


def test_a_refinement_without_gain_writes_the_unrefined_file(bundled: ImageCodec, photo: LoadedImage) -> None:
    useless = refine_image(bundled, photo, QUALITY, Refine(steps=2, lr=100.0, measure_every=1))
    assert bundled.write(photo, useless.symbols) == bundled.compress(photo, quality=QUALITY.value)


def test_refinement_for_another_lambda(bundled: ImageCodec, photo: LoadedImage) -> None:
    weight = lambda_at(bundled.lambdas, QUALITY.value)
    small, large = (
        refine_image(bundled, photo, QUALITY, Refine(steps=20, rate_weight=weight * factor)).refined.best
        for factor in (0.2, 5.0)
    )
    assert float(small.bpp(1)) < float(large.bpp(1))
    assert float(small.psnr()) < float(large.psnr())


def test_a_rate_is_met(bundled: ImageCodec, photo: LoadedImage) -> None:
    """Within 2 %, and with a smaller error than the unrefined file of that rate."""
    blob = bundled.write(photo, refine_image(bundled, photo, RateTarget("bpp", 0.35), Refine(steps=60)).symbols)
    bpp = 8 * len(blob) / pixels_of(photo)
    assert bpp == pytest.approx(0.35, rel=0.02)
    plain = bundled.compress(photo, bpp=bpp)
    assert measured_psnr(decoded(bundled, blob), photo.pixels) > measured_psnr(decoded(bundled, plain), photo.pixels)


def test_a_psnr_is_met(bundled: ImageCodec, photo: LoadedImage) -> None:
    """Within 0.05 dB, and with fewer bytes than the unrefined file of that PSNR."""
    large = read_image(np.tile(photo.pixels, (3, 3, 1)))  # files grow in words of four bytes
    blob = bundled.write(large, refine_image(bundled, large, RateTarget("psnr", 31.5), Refine(steps=100)).symbols)
    psnr = measured_psnr(decoded(bundled, blob), large.pixels)
    assert psnr == pytest.approx(31.5, abs=0.05)
    assert len(blob) < len(bundled.compress(large, psnr=psnr))


def test_targets_that_cannot_be_met_are_refused(bundled: ImageCodec, photo: LoadedImage) -> None:
    with pytest.raises(UsageError, match="out of reach"):
        refine_image(bundled, photo, RateTarget("psnr", 70.0), Refine(steps=4))
    with pytest.raises(UsageError, match=r"at quality 8, the highest\nchoose at most [\d.]+ dB"):
        refine_image(bundled, photo, RateTarget("psnr", 70.0), Refine(steps=4))
    with pytest.raises(UsageError, match="exclude"):
        refine_image(bundled, photo, RateTarget("bpp", 0.5), Refine(steps=4, rate_weight=0.01))


@pytest.mark.parametrize(("size", "end"), [(20, "at least"), (1_000_000, "at most")])
def test_a_size_out_of_reach_is_answered_with_one_that_is_reached(
    bundled: ImageCodec, photo: LoadedImage, size: int, end: str
) -> None:
    with pytest.raises(UsageError) as caught:
        bundled.compress(photo, size=size, refine=4)
    assert re.fullmatch(
        rf"{size:,} bytes is out of reach: refinement reached [\d,]+ bytes at quality ., the .*", caught.value.what
    )
    found = re.fullmatch(rf"choose {end} ([\d,]+) bytes", caught.value.hint or "")
    assert found is not None
    nearer = int(found[1].replace(",", ""))
    assert 0.95 * nearer <= len(bundled.compress(photo, size=nearer, refine=4)) <= nearer


def test_every_step_is_reported_once(bundled: ImageCodec, photo: LoadedImage) -> None:
    seen: list[int] = []
    reachable = 8 * len(bundled.compress(photo, quality=3.0)) / pixels_of(photo)
    refine_image(bundled, photo, RateTarget("bpp", reachable), Refine(steps=30), lambda step, *_: seen.append(step))
    assert seen == list(range(1, 31))


def test_gray_and_alpha_are_written(bundled: ImageCodec) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (20, 30, 4)).astype(np.uint8)
    image = read_image(noise)
    blob = bundled.write(image, refine_image(bundled, image, QUALITY, Refine(steps=2)).symbols)
    assert bundled.decompress(blob).mode == "RGBA"


# ------------------------------------------------------------------------------------------------- budgets of seconds


class Clock:
    """A clock on which a step takes a second and a measurement a quarter; all else takes no time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        patch.setattr(Trial, "reconstruct", self.taking(1.0, Trial.reconstruct))
        patch.setattr(ImageCodec, "reconstruct", self.taking(0.25, ImageCodec.reconstruct))

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*values: Any) -> Any:
            self.now += seconds
            return method(*values)

        return called


def test_a_budget_gives_the_bytes_of_its_steps(
    bundled: ImageCodec, photo: LoadedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 s: a quarter for the start, 29 steps, and two measurements."""
    clock, seen = Clock(monkeypatch), list[int]()
    found = refine_image(bundled, photo, QUALITY, Refine(seconds=30), lambda step, *_: seen.append(step), clock=clock)
    assert (found.steps, found.seconds, clock.now) == (29, 29.75, 29.75)
    assert seen == list(range(1, 30))
    equal = refine_image(bundled, photo, QUALITY, Refine(steps=29))
    assert bundled.write(photo, found.symbols) == bundled.write(photo, equal.symbols)


@pytest.mark.parametrize("seconds", [20, 45])
def test_a_budget_for_a_target_includes_pilot_and_search(
    bundled: ImageCodec, photo: LoadedImage, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock, seen = Clock(monkeypatch), list[int]()
    target = RateTarget("bpp", 8 * len(bundled.compress(photo, quality=3.0)) / pixels_of(photo))
    found = refine_image(
        bundled, photo, target, Refine(seconds=seconds), lambda step, *_: seen.append(step), nearest=True, clock=clock
    )
    assert 0.8 * seconds < found.seconds == clock.now <= seconds
    assert seen == list(range(1, found.steps + 1))
    equal = refine_image(bundled, photo, target, Refine(steps=found.steps), nearest=True)
    assert bundled.write(photo, found.symbols) == bundled.write(photo, equal.symbols)


@pytest.mark.parametrize("seconds", [0.25, 0.5, 0.7])
def test_a_budget_that_ends_before_a_step_is_reported(
    bundled: ImageCodec, photo: LoadedImage, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock = Clock(monkeypatch)
    for target in (QUALITY, RateTarget("bpp", 0.35)):
        with pytest.raises(BudgetTooShort, match="no time for a step after") as caught:
            refine_image(bundled, photo, target, Refine(seconds=seconds), clock=clock)
        assert caught.value.spent > 0


def test_the_shortest_refinement_is_no_worse(bundled: ImageCodec, photo: LoadedImage, monkeypatch: pytest.MonkeyPatch) -> None:
    found = refine_image(bundled, photo, QUALITY, Refine(seconds=0.75), clock=Clock(monkeypatch))
    assert found.steps == 1
    scores = [float(part.bpp(pixels_of(photo)) + bundled.lambdas[1] * PEAK * part.mse) for part in found.refined[:2]]
    assert scores[0] <= scores[1]


# ------------------------------------------------------------------------------------------------------------- parts


def test_row_blocks_equal_the_whole() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(
        torch.nn.ConvTranspose2d(3, 4, 5, stride=2, padding=2, output_padding=1),
        torch.nn.Tanh(),
        torch.nn.ConvTranspose2d(4, 2, 5, stride=2, padding=2, output_padding=1),
    ).double()
    x = torch.randn(2, 3, 13, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 2, 52, 24, dtype=torch.float64)
    results = []
    for core in (13, 5):
        (in_row_blocks(layer, x, core=core, halo=2, scale=4) - target).square().sum().backward()
        assert x.grad is not None
        results.append(x.grad)
        x.grad = None
    torch.testing.assert_close(results[0], results[1])
