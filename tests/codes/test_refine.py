from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from latens.codes.annealing import METHODS, Refine, RoundingLaw
from latens.codes.budget import Budget, OneDescent
from latens.codes.entropy import gaussian_bits
from latens.codes.goals import PEAK, Lagrangian, Measurement
from latens.codes.refine import Refined, refine
from latens.errors import UsageError
from latens.systems.image_codec.config import HyperpriorConfig
from latens.systems.image_codec.model import MeanScaleHyperprior

WEIGHT = 0.01
FEW = 8


def bias_of(layer: nn.Module) -> Tensor:
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return bias


def small_model(lambdas: tuple[float, ...] = (0.01,)) -> MeanScaleHyperprior:
    """Random weights, with the block transform of the linear path as a valid code of the image."""
    torch.manual_seed(0)
    config = HyperpriorConfig(hidden=8, latent=12, hyper=8, lambdas=lambdas, transforms="compact")
    model = MeanScaleHyperprior(config).eval()
    with torch.no_grad():
        cast(nn.Conv2d, cast(nn.Sequential, model.synthesis.deep)[-2]).weight.mul_(0.01)  # else untrained, it dominates
        bias_of(model.hyper_synthesis[-1])[config.latent :] = 2.0  # scale
    return model


@pytest.fixture(scope="module")
def model() -> MeanScaleHyperprior:
    return small_model()


@pytest.fixture(scope="module")
def images() -> Tensor:
    """(2, 3, 64, 64): waves and a few edges."""
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    waves = [torch.sin((row * a + column * b) / 9) * 0.12 + 0.5 for a, b in ((1, 0.3), (0.2, -1), (-0.5, 0.7))]
    one = torch.stack(waves) + 0.1 * ((row > 20) & (column > 30))
    return torch.stack([one, one.flip(0, 2)])


def losses(found: Measurement, pixels: int = 64 * 64) -> list[float]:
    return (found.bpp(pixels) + WEIGHT * PEAK * found.mse).tolist()


@pytest.fixture(scope="module")
def default_run(model: MeanScaleHyperprior, images: Tensor) -> Refined:
    return refine(model, images, WEIGHT, settings=Refine(steps=40, measure_every=10))


def test_the_loss_falls(default_run: Refined) -> None:
    start, best = losses(default_run.start), losses(default_run.best)
    assert all(b < 0.998 * s for s, b in zip(start, best, strict=True))
    assert [trace.step for trace in default_run.history] == [0, 10, 20, 30, 40]
    assert math.isnan(default_run.history[0].loss)
    assert all(math.isfinite(trace.loss) for trace in default_run.history[1:])
    assert min(t.true_loss for t in default_run.history) == pytest.approx(sum(best) / 2, rel=0.01)


def test_symbols_reproduce_the_measurement(default_run: Refined, model: MeanScaleHyperprior, images: Tensor) -> None:
    """Decoding the symbols gives the reported bits and error."""
    best = default_run.best
    assert best.y.dtype == best.z.dtype == torch.int64
    with torch.no_grad():
        z_hat = best.z + model.prior.medians()[:, None, None]
        mean, scale = model.parameters_of_y(z_hat)
        decoded = model.reconstruct(best.y + mean, torch.ones(2))
        bits = gaussian_bits(best.y.float(), scale).sum((1, 2, 3))
        mse = (decoded - images).square().mean((1, 2, 3))
    torch.testing.assert_close(bits, best.bits_y)
    torch.testing.assert_close(model.prior.bits(z_hat).sum((1, 2, 3)), best.bits_z)
    torch.testing.assert_close(mse, best.mse)


def test_the_start_is_the_unrefined_codec(default_run: Refined, model: MeanScaleHyperprior, images: Tensor) -> None:
    plain = model.rounded(images, torch.ones(2))
    torch.testing.assert_close(default_run.start.bits_y, plain.bits_y)
    torch.testing.assert_close(default_run.start.bits_z, plain.bits_z)
    torch.testing.assert_close(default_run.start.mse, (plain.image - images).square().mean((1, 2, 3)))


ALL = [*((method, 2) for method in METHODS), ("ssl", 3), ("linear", 3), ("cosine", 3)]


@pytest.mark.parametrize(("method", "classes"), ALL)
@pytest.mark.parametrize("schedule", [Refine, Refine.thesis], ids=["ours", "thesis"])
def test_no_method_is_worse_than_the_start(
    method: Any, classes: int, schedule: Any, model: MeanScaleHyperprior, images: Tensor
) -> None:
    settings = schedule(method=method, classes=classes, steps=FEW, measure_every=3)
    found = refine(model, images, WEIGHT, settings=settings)
    assert [trace.step for trace in found.history] == [0, 3, 6, 8]
    assert all(b <= s for s, b in zip(losses(found.start), losses(found.best), strict=True))
    assert not torch.equal(found.end.z, found.end.z.round())


def test_a_harmful_step_is_not_kept(model: MeanScaleHyperprior, images: Tensor) -> None:
    found = refine(model, images, WEIGHT, settings=Refine(steps=4, lr=50.0, measure_every=1))
    assert found.best_step.tolist() == [0, 0]
    assert losses(found.best) == losses(found.start)
    assert min(trace.true_loss for trace in found.history[1:]) > found.history[0].true_loss


def test_a_non_finite_loss_ends_the_optimization(model: MeanScaleHyperprior, images: Tensor) -> None:
    found = refine(model, images, math.nan, settings=Refine(steps=5))
    assert [trace.step for trace in found.history] == [0]


def test_seeds(default_run: Refined, model: MeanScaleHyperprior, images: Tensor) -> None:
    again = refine(model, images, WEIGHT, settings=Refine(steps=40, measure_every=10))
    assert torch.equal(again.best.y, default_run.best.y)
    assert torch.equal(again.end.y, default_run.end.y)
    other = refine(model, images, WEIGHT, settings=Refine(steps=10, seed=1))
    first = refine(model, images, WEIGHT, settings=Refine(steps=10, seed=0))
    assert not torch.equal(other.end.y, first.end.y)


def test_results_do_not_depend_on_the_batch(model: MeanScaleHyperprior, images: Tensor) -> None:
    settings = Refine(steps=FEW)
    batch = refine(model, images, WEIGHT, settings=settings)
    for i in range(2):
        alone = refine(model, images[i : i + 1], WEIGHT, settings=settings)
        torch.testing.assert_close(alone.end.y[0], batch.end.y[i], rtol=1e-3, atol=5e-3)
        assert losses(alone.best)[0] == pytest.approx(losses(batch.best)[i], rel=0.01)


def test_weights_do_not_change(images: Tensor) -> None:
    model = small_model()
    before = [p.clone() for p in model.parameters()]
    model.prior.biases[0].requires_grad_(False)
    asked = [p.requires_grad for p in model.parameters()]
    refine(model, images, WEIGHT, settings=Refine(steps=2))
    assert [p.requires_grad for p in model.parameters()] == asked
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_medians_are_used(images: Tensor) -> None:
    """Shifting the density and the input of the hyper-synthesis by 0.4 does not change the loss: z - median is rounded."""
    model = small_model()
    plain = refine(model, images, WEIGHT, settings=Refine(steps=1)).start
    with torch.no_grad():
        bias_of(model.hyper_analysis[-1]).add_(0.4)
        first, bias = model.prior.weights[0], model.prior.biases[0]
        bias -= torch.nn.functional.softplus(first) * 0.4
        bias_of(model.hyper_synthesis[0]).zero_()
        cast(nn.Conv2d, model.hyper_synthesis[0]).weight.zero_()
    shifted = refine(model, images, WEIGHT, settings=Refine(steps=1)).start
    assert torch.equal(shifted.z, plain.z)
    torch.testing.assert_close(shifted.bits_z, plain.bits_z, rtol=1e-3, atol=1e-2)


def test_padding_is_ignored(model: MeanScaleHyperprior, images: Tensor) -> None:
    changed = images.clone()
    changed[:, :, 40:] = 0.0
    first = refine(model, images, WEIGHT, settings=Refine(steps=1), size=(40, 64)).start
    assert float(first.mse.max()) < float(refine(model, changed, WEIGHT, settings=Refine(steps=1)).start.mse.max())
    history = refine(model, images, WEIGHT, settings=Refine(steps=1), size=(40, 64)).history
    bits = (first.bits_y + first.bits_z).mean()
    assert history[0].bpp == pytest.approx(float(bits) / (40 * 64))


def test_warm_start_continues(default_run: Refined, model: MeanScaleHyperprior, images: Tensor) -> None:
    on = refine(model, images, WEIGHT, settings=Refine(steps=1), start=default_run.end)
    assert on.history[0].true_loss == pytest.approx(default_run.history[-1].true_loss)


def test_another_lambda_moves_along_the_curve(model: MeanScaleHyperprior, images: Tensor) -> None:
    """Perugachi-Diaz 2024, section 5.4.5."""
    low, high = (refine(model, images, w, settings=Refine(steps=20)).best for w in (WEIGHT / 5, WEIGHT * 5))
    assert bool((low.bpp(4096) < high.bpp(4096)).all())
    assert bool((low.psnr() < high.psnr()).all())
    mixed = refine(model, images, torch.tensor([WEIGHT / 5, WEIGHT * 5]), settings=Refine(steps=20)).best
    assert float(mixed.bpp(4096)[0]) == pytest.approx(float(low.bpp(4096)[0]), rel=0.02)
    assert float(mixed.bpp(4096)[1]) == pytest.approx(float(high.bpp(4096)[1]), rel=0.02)


def test_quality_of_a_model_of_several_rates(images: Tensor) -> None:
    model = small_model((0.002, 0.01, 0.05))
    coarse, fine = (refine(model, images, WEIGHT, quality=q, settings=Refine(steps=1)).start for q in (1.0, 3.0))
    assert bool((coarse.bpp(4096) < fine.bpp(4096)).all())


def test_patience_and_progress(model: MeanScaleHyperprior, images: Tensor) -> None:
    seen: list[tuple[int, float, float]] = []
    settings = Refine(steps=50, lr=50.0, measure_every=2, patience=3)
    found = refine(model, images, WEIGHT, settings=settings, on_step=lambda *step: seen.append(step))
    assert [step for step, _, _ in seen] == list(range(1, 7))
    assert seen[-1][2] == pytest.approx(found.history[-1].true_loss)


def test_bfloat16_transforms_reach_the_same_loss(model: MeanScaleHyperprior, images: Tensor) -> None:
    settings = Refine(steps=30)
    full, half = (
        refine(model, images, WEIGHT, settings=settings, precision=precision).history[-1].true_loss
        for precision in (torch.float32, torch.bfloat16)
    )
    assert half == pytest.approx(full, rel=0.02)


def test_a_goal_may_change_lambda(model: MeanScaleHyperprior, images: Tensor) -> None:
    class Growing(Lagrangian):
        def observe(self, found: Measurement, step: int) -> None:
            self._weight = self._weight * 2

    goal = Growing(torch.tensor([0.01, 0.02]), 4096)
    found = refine(model, images, 1.0, settings=Refine(steps=2, measure_every=1), goal=goal)
    assert [trace.weight for trace in found.history] == pytest.approx([0.03, 0.06, 0.12])


# ---------------------------------------------------------------------------------------------------------- schedules


def test_the_schedule_of_the_thesis() -> None:
    """Eq. 5.4.1 with c = 0.001; learning rate 0.005, 0.0001 for straight-through; tau_max 0.5 for atanh."""
    ssl = Refine.thesis("ssl")
    assert ssl.steps == 2000
    assert [ssl.temperature(t) for t in (0, 1000, 2000)] == pytest.approx([1.0, math.exp(-1), math.exp(-2)])
    assert [ssl.learning_rate(t) for t in (0, 1999)] == pytest.approx([0.005, 0.005])
    assert Refine.thesis("ste").learning_rate(0) == pytest.approx(1e-4)
    assert [Refine.thesis("atanh").temperature(t) for t in (0, 1000)] == pytest.approx([0.5, math.exp(-1)])
    assert Refine.thesis("ssl", steps=500, tau_max=0.2).temperature(499) == 0.2


@pytest.mark.parametrize("steps", [10, 500])
def test_our_schedule_fits_any_budget(steps: int) -> None:
    ours = Refine(steps=steps)
    assert ours.temperature(0) == 1.0
    assert ours.temperature(steps) == pytest.approx(ours.tau_end)
    rates = [ours.learning_rate(t) for t in range(steps)]
    assert rates == sorted(rates, reverse=True)
    assert ours.learning_rate(steps) == pytest.approx(rates[0] * ours.lr_end)
    assert Refine(method="ste").learning_rate(0) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"measure_every": 0},
        {"patience": 0},
        {"lr": -1.0},
        {"lr": math.nan},
        {"lr_end": 2.0},
        {"tau_end": 0.0},
        {"tau_max": 0.0},
        {"rate_weight": 0.0},
        pytest.param({"method": "nearest"}, marks=pytest.mark.wrong_types),
        {"method": "ste", "classes": 3},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Refine(**wrong)


def test_a_custom_law() -> None:
    law = RoundingLaw(method="ssl", a=2.0)
    assert Refine(law=law).rounding() is law
    assert Refine(method="linear", classes=3).rounding() == RoundingLaw.thesis("linear", 3)


def test_a_time_gives_the_result_of_its_number_of_steps(model: MeanScaleHyperprior, images: Tensor) -> None:
    """Every step takes a second of this clock, except the first, and a measurement half of one."""
    now = [0.0]
    first = [2.0]

    class Timed:
        """The model, with a clock."""

        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def reconstruct(self, y_hat: Tensor, quality: Tensor) -> Tensor:
            now[0] += 0.5 if not torch.is_grad_enabled() else first.pop() if first else 1.0
            return model.reconstruct(y_hat, quality)

    budget = Budget(15, OneDescent(10), lambda: now[0])
    settings = Refine(seconds=15, measure_every=10)
    seen: list[int] = []
    found = refine(Timed(), images, WEIGHT, settings=settings, budget=budget, on_step=lambda step, *_: seen.append(step))
    assert seen == list(range(1, 13))  # 0.5 + 2 + 11 + 2 * 0.5 s
    assert (found.steps, budget.steps, now[0]) == (12, 12, 14.5)
    equal = refine(model, images, WEIGHT, settings=Refine(steps=12, measure_every=10))
    assert torch.equal(found.best.y, equal.best.y)
    assert torch.equal(found.end.y, equal.end.y)
    assert torch.equal(found.end.z, equal.end.z)


def test_a_time_without_a_budget_begins_with_the_call(model: MeanScaleHyperprior, images: Tensor) -> None:
    found = refine(model, images, WEIGHT, settings=Refine(seconds=1e-6))
    assert (found.steps, [trace.step for trace in found.history]) == (1, [0, 1])
    broken = refine(model, images, math.nan, settings=Refine(seconds=1.0))
    assert (broken.steps, [trace.step for trace in broken.history]) == (1, [0])
