"""The update of Muon is orthogonal, that of Adam equals torch, and the schedule has three parts."""

from __future__ import annotations

import pytest
import torch

from latens.training.config import Adam, Muon, Schedule, Sgd, shortened
from latens.training.loop import averaged
from latens.training.muon import MuonAdam, orthogonalized
from latens.training.objective import ONE_OPTIMIZER, Group
from latens.training.optim import build_optimizers, rate_factor, transposed_weights


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_orthogonalized_keeps_directions_and_flattens_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.linspace(0.2, 1, u.shape[1]).diag() @ vh
    inner = u.T @ orthogonalized(matrix) @ vh.T
    values = inner.diagonal()
    # Jordan et al. 2024: the coefficients bring singular values into [0.7, 1.2], give or take, not to one.
    assert 0.6 < values.min() <= values.max() < 1.3
    assert (inner - values.diag()).abs().max() < 0.05


def test_other_parameters_than_matrices_move_as_with_torch_adam() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.zeros(5))
    with torch.no_grad():
        theirs.copy_(ours)
    optimizer = MuonAdam(MuonAdam.groups({"bias": ours}, frozenset(), muon_lr=1.0, adam_lr=0.01, max_side=256))
    oracle = torch.optim.Adam([theirs], 0.01)
    for _ in range(5):
        gradient = torch.randn(5)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(ours, theirs)


def test_transposed_convolutions_are_arranged_by_output() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ConvTranspose2d(3, 2, 3))
    assert transposed_weights(model) == {"1.weight"}
    (optimizer,) = build_optimizers(model, ONE_OPTIMIZER, Muon(muon_lr=0.1)).values()
    assert [group["kind"] for group in optimizer.param_groups] == ["muon", "muon-transposed", "adam"]


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    config = Schedule(warmup=10, decay_share=0.2)
    factors = [rate_factor(step, 100, config) for step in range(100)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert set(factors[10:81]) == {1.0}
    assert factors[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)])


def test_a_short_run_warms_up_for_a_fifth_of_its_steps() -> None:
    usual = Muon(warmup=100, muon_lr=0.5)
    assert [shortened(usual, steps).warmup for steps in (4, 59, 500, 10_000)] == [0, 11, 100, 100]
    assert shortened(usual, 10_000) == usual
    assert shortened(usual, 59) == Muon(warmup=11, muon_lr=0.5)  # the optimizer stays the same otherwise


def test_counters_are_copied_into_the_average_and_weights_are_mixed() -> None:
    model = torch.nn.BatchNorm1d(2)
    average = averaged(model, 0.5)
    assert average is not None
    average.update_parameters(model)
    with torch.no_grad():
        model.weight.add_(1)
    model(torch.randn(4, 2))
    average.update_parameters(model)
    copied = average.module
    assert isinstance(copied, torch.nn.BatchNorm1d)
    assert copied.num_batches_tracked is not None
    assert int(copied.num_batches_tracked) == 1
    assert ((copied.weight > 1) & (copied.weight < 2)).all()


def test_adam_takes_its_first_decay_from_the_configuration() -> None:
    (optimizer,) = build_optimizers(torch.nn.Linear(1, 1), ONE_OPTIMIZER, Adam(beta1=0.5)).values()
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


def test_groups_have_rates_of_their_own() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    owners = {"model": (Group(("0.",), lr_factor=0.1), Group(("1.",)))}
    for config, rates in ((Adam(lr=1.0), [0.1, 1.0]), (Sgd(lr=1.0), [0.1, 1.0]), (Muon(lr=1.0, muon_lr=2.0), [0.1, 1.0])):
        (optimizer,) = build_optimizers(model, owners, config).values()
        assert [group["lr"] for group in optimizer.param_groups] == rates
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_large_matrices_stay_with_adam() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(10, 12, 3))  # a matrix of 12 x 90
    kinds = [
        {group["kind"] for group in build_optimizers(model, ONE_OPTIMIZER, Muon(max_side=side))["model"].param_groups}
        for side in (11, 12)
    ]
    assert kinds == [{"adam"}, {"muon", "adam"}]


def test_settings_reach_every_optimizer() -> None:
    """Rates times the factor of the group for Muon and Adam, two decays for Adam; momentum with Nesterov's form for SGD."""
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    (muon,) = build_optimizers(model, {"model": (Group(("",), lr_factor=0.5),)}, Muon(lr=0.2, muon_lr=0.6)).values()
    assert [(group["kind"], group["lr"]) for group in muon.param_groups] == [("muon", 0.3), ("adam", 0.1)]
    for momentum, nesterov in ((0.7, True), (0.0, False)):
        (sgd,) = build_optimizers(model, ONE_OPTIMIZER, Sgd(lr=0.2, momentum=momentum, weight_decay=0.03)).values()
        (group,) = sgd.param_groups
        assert [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")] == [0.2, momentum, nesterov, 0.03]
    (adam,) = build_optimizers(model, ONE_OPTIMIZER, Adam(lr=0.2, beta1=0.6)).values()
    assert (adam.defaults["lr"], adam.param_groups[0]["lr"], adam.param_groups[0]["betas"]) == (0.2, 0.2, (0.6, 0.999))


def test_frozen_and_foreign_parameters_have_no_optimizer() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].weight.requires_grad_(False)
    owners = {"first": (Group(("0.", "none.")), Group(("none.",))), "second": (Group(("2.",)),)}
    found = build_optimizers(model, owners, Adam())
    assert {name: [len(group["params"]) for group in one.param_groups] for name, one in found.items()} == {
        "first": [1], "second": [2],
    }  # fmt: skip


def test_rates_at_the_ends_of_the_schedule() -> None:
    assert [rate_factor(step, 10, Schedule(warmup=0, decay_share=0.0)) for step in (0, 9)] == [1.0, 1.0]
    assert rate_factor(0, 10, Schedule(warmup=4, decay_share=0.0)) == 0.25
    assert rate_factor(7, 10, Schedule(warmup=0, decay_share=0.5)) == pytest.approx(3 / 5)
    assert rate_factor(1, 4, Schedule(warmup=4, decay_share=1.0)) == pytest.approx(2 / 4 * 3 / 4)
